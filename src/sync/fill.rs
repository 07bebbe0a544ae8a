//! Fills gaps: newest first, with as many walkers as the latency needs, each on a part of the line.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::interval::{Interval, TICK};

use super::planner;
use super::walk::{Emptiness, Obstacle};
use super::walker::{Claim, Errand, Reader, Until, WalkError, Walked};

/// How often it is looked at whether another walker can take part, and for holes to try again.
const LOOK: Duration = Duration::from_millis(100);
/// How soon a hole is tried again while the fill goes on; the pause doubles each time.
const HOLE_PAUSE: Duration = Duration::from_secs(15);
/// Holes that are tried again while the fill goes on; more wait for its end.
const HOLES: usize = 1_000;

/// How a fill may spend.
#[derive(Clone, Copy, Debug)]
pub struct Spend {
    pub requests_per_minute: u32,
    pub max_walkers: usize,
}

/// How a fill ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What stayed open, and why.
    pub open: Vec<(Interval, Obstacle)>,
    /// What empty answers claim.
    claims: Vec<Emptiness>,
    /// A row was listed.
    pub listed: bool,
    /// The time of the oldest row that was read.
    pub lowest: Option<DateTime<Utc>>,
}

impl Outcome {
    /// The most that empty answers claim and no row refutes: nothing is left below its end.
    pub fn empty(&self) -> Option<Emptiness> {
        let stands =
            |claim: &&Emptiness| self.lowest.is_none_or(|lowest| claim.interval.end() <= lowest + TICK);
        self.claims.iter().filter(stands).max_by_key(|claim| claim.interval.end()).copied()
    }
}

/// What a walk left open, to be tried again.
struct Hole {
    interval: Interval,
    obstacle: Obstacle,
    pause: Duration,
    at: Instant,
}

/// Walks all of `gaps`. What cannot be read is tried again as long as there is anything else to read. Ends early only
/// with an error.
pub async fn fill(
    reader: &Reader,
    errand: &Errand,
    mut gaps: Vec<Interval>,
    spend: Spend,
) -> Result<Outcome, WalkError> {
    let mut outcome = Outcome::default();
    let mut holes: Vec<Hole> = Vec::new();
    let mut claims: Vec<Arc<Claim>> = Vec::new();
    let mut walkers = JoinSet::new();
    let mut walks = 0;
    loop {
        // Newest last, to be popped first.
        gaps.extend(due(&mut holes));
        gaps.sort_by_key(Interval::end);
        let page_rows = reader.readings.of(errand.line.stream).page_rows.unwrap_or(reader.limit);
        let wanted = planner::walkers(reader.client.latency(), spend.requests_per_minute, spend.max_walkers);
        while walkers.len() < wanted && (walkers.is_empty() || !reader.writer.is_behind()) {
            let Some(gap) = gaps.pop().or_else(|| take_part(&claims, page_rows, errand)) else { break };
            let claim = Arc::new(Claim::new(gap));
            claims.push(Arc::clone(&claim));
            let (mut reader, errand) = (reader.clone(), errand.clone());
            reader.writer = reader.writer.for_walk(walks);
            walks += 1;
            walkers.spawn(async move {
                let walked = reader.walk(&errand, &claim, None, Until::End).await;
                (claim, walked)
            });
        }
        let ended = tokio::select! {
            ended = walkers.join_next() => ended,
            () = tokio::time::sleep(LOOK) => continue,
        };
        match ended {
            None => {
                outcome.open = holes.into_iter().map(|hole| (hole.interval, hole.obstacle)).collect();
                return Ok(outcome);
            }
            Some(Ok((claim, walked))) => {
                claims.retain(|other| !Arc::ptr_eq(other, &claim));
                let walked = walked?;
                outcome.listed |= walked.listed;
                outcome.lowest = outcome.lowest.into_iter().chain(walked.lowest).min();
                outcome.claims.extend(walked.empty);
                note(&mut holes, &claim, walked);
            }
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(WalkError::Stopped),
            },
        }
    }
}

/// Adds what the walk left open to `holes`, in place of what of it was open before.
fn note(holes: &mut Vec<Hole>, claim: &Claim, walked: Walked) {
    let gap = claim.gap();
    let before = holes.iter().filter(|hole| hole.interval.intersection(&gap).is_some());
    let pause = before.map(|hole| hole.pause * 2).max().unwrap_or(HOLE_PAUSE);
    holes.retain(|hole| hole.interval.intersection(&gap).is_none());
    let at = Instant::now() + pause;
    for (interval, obstacle) in walked.obstacles {
        holes.push(Hole { interval, obstacle, pause, at });
    }
}

/// The holes that are to be tried again now. They stay, until what was tried is known.
fn due(holes: &mut [Hole]) -> Vec<Interval> {
    let now = Instant::now();
    let mut due = Vec::new();
    for hole in holes.iter_mut().take(HOLES).filter(|hole| hole.obstacle.may_pass() && hole.at <= now) {
        due.push(hole.interval);
        // Not again before this try has ended, which sets another time.
        hole.at = now + hole.pause * 2;
    }
    due
}

/// The lower part of the claim that has most rows left.
fn take_part(claims: &[Arc<Claim>], page_rows: u32, errand: &Errand) -> Option<Interval> {
    let most = claims
        .iter()
        .filter_map(|claim| {
            let (left, rows, walked) = claim.left()?;
            let (at, rows_left) = planner::split(left, rows, walked, page_rows, errand.oldest)?;
            Some((claim, at, rows_left))
        })
        .max_by(|a, b| a.2.total_cmp(&b.2))?;
    most.0.take_below(most.1)
}
