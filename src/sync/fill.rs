//! Fills gaps: newest first, with as many walkers as the latency needs, each on a part of the line.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::interval::Interval;

use super::planner;
use super::walk::Obstacle;
use super::walker::{Claim, Errand, Reader, WalkError};

/// How often it is looked at whether another walker can take part.
const LOOK: Duration = Duration::from_millis(100);

/// How a fill may spend.
#[derive(Clone, Copy, Debug)]
pub struct Spend {
    pub requests_per_minute: u32,
    pub max_walkers: usize,
}

/// Walks all of `gaps` and returns what stayed open. Ends early only with an error.
pub async fn fill(
    reader: &Reader,
    errand: &Errand,
    mut gaps: Vec<Interval>,
    spend: Spend,
) -> Result<Vec<(Interval, Obstacle)>, WalkError> {
    // Newest last, to be popped first.
    gaps.sort_by_key(Interval::end);
    let mut obstacles = Vec::new();
    let mut claims: Vec<Arc<Claim>> = Vec::new();
    let mut walkers = JoinSet::new();
    let mut walks = 0;
    loop {
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
                let walked = reader.walk(&errand, &claim, None, None).await;
                (claim, walked)
            });
        }
        let ended = tokio::select! {
            ended = walkers.join_next() => ended,
            () = tokio::time::sleep(LOOK) => continue,
        };
        match ended {
            None => return Ok(obstacles),
            Some(Ok((claim, walked))) => {
                claims.retain(|other| !Arc::ptr_eq(other, &claim));
                obstacles.extend(walked?.obstacles);
            }
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(WalkError::Stopped),
            },
        }
    }
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
