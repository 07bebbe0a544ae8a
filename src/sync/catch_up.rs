//! A line read up to the present once: what the verb `sync` does.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::api::limiter::Priority;
use crate::interval::Interval;
use crate::store::{BACKFILL, STANDING};

use super::line_task::LineTask;
use super::scheduler::SyncError;
use super::walk::Obstacle;
use super::walker::Until;

/// How soon what is open is retried; the pause doubles to the other.
const PAUSE_FIRST: Duration = Duration::from_secs(2);
const PAUSE_MOST: Duration = Duration::from_secs(15);
/// How often it is waited for another empty answer, however long that takes.
const CLAIM_TRIES: u32 = 2;

/// Retries of what stays open.
struct Retries {
    /// Up to when they may begin.
    until: Instant,
    pause: Duration,
    claims: u32,
}

impl LineTask {
    /// Reads everything that is due. What stays open because of what may pass (a fault of the API, an empty answer that
    /// another must confirm) is retried for a while.
    pub(super) async fn catch_up(&mut self) -> Result<(), SyncError> {
        let until = Instant::now() + self.engine.settings.sync.patience;
        let mut retries = Retries { until, pause: PAUSE_FIRST, claims: 0 };
        let goal = self.floor;
        self.heal().await?;
        self.ask_edge().await?;
        // What is below the first tick need not wait for it.
        let gaps = self.gaps(goal).await?;
        self.spawn_fill(Priority::History, gaps);
        let mut open = self.tick(Until::End).await?;
        open.extend(self.drain().await?);
        open.extend(self.tick(Until::End).await?);
        open.extend(self.drain().await?);
        self.engine.reader.writer.flush().await?;
        self.recheck().await?;
        // What a recheck leaves open is open for the recheck alone.
        self.drain().await?;
        let (mut backfills, mut backfills_open) = self.backfill_round().await?;
        loop {
            let healed = self.heal().await?;
            let gaps = self.gaps(goal).await?;
            let left = gaps.len().max(above(&open, goal)).max(backfills);
            if left == 0 {
                return Ok(());
            }
            if !healed {
                let claim = self.claims_due(|pass| match pass {
                    STANDING => !gaps.is_empty(),
                    other => other.starts_with(BACKFILL) && backfills > 0,
                });
                let all: Vec<_> = open.iter().chain(&backfills_open).copied().collect();
                let Some(at) = retries.next(Instant::now(), claim, &all) else {
                    return Err(SyncError::Open(left));
                };
                self.rest_until(at).await?;
            }
            // What stays as it is, such as a row that is too large, is not worth another walk.
            let passed_over = above(&open, goal) > 0;
            open.retain(|(_, obstacle)| !healed && !obstacle.may_pass());
            let lasting: Vec<_> = open.iter().map(|(interval, _)| *interval).collect();
            let gaps = self.gaps(self.floor).await?;
            self.spawn_fill(
                Priority::History,
                gaps.into_iter().flat_map(|gap| gap.minus(&lasting)).collect(),
            );
            open.extend(self.drain().await?);
            if passed_over {
                open.extend(self.tick(Until::End).await?);
                open.extend(self.drain().await?);
            }
            if backfills > 0 {
                (backfills, backfills_open) = self.backfill_round().await?;
            }
        }
    }

    async fn rest_until(&self, at: Instant) -> Result<(), SyncError> {
        tokio::select! {
            () = tokio::time::sleep_until(at) => Ok(()),
            () = self.engine.reader.cancel.cancelled() => Err(SyncError::Stopped),
        }
    }

    /// Carries out the backfills that were asked for; what stays open is retried as by [`LineTask::catch_up`].
    pub(super) async fn backfill_once(&mut self) -> Result<(), SyncError> {
        let until = Instant::now() + self.engine.settings.sync.patience;
        let mut retries = Retries { until, pause: PAUSE_FIRST, claims: 0 };
        loop {
            let (left, open) = self.backfill_round().await?;
            if left == 0 {
                return Ok(());
            }
            let claim = self.claims_due(|pass| pass.starts_with(BACKFILL));
            let Some(at) = retries.next(Instant::now(), claim, &open) else {
                return Err(SyncError::Open(left));
            };
            self.rest_until(at).await?;
        }
    }

    /// Walks once what is open of the backfills; returns how many of them are not done then, and what stays open.
    async fn backfill_round(&mut self) -> Result<(usize, Vec<(Interval, Obstacle)>), SyncError> {
        self.passes.retry_backfills();
        self.backfill().await?;
        let open = self.drain().await?;
        Ok((self.backfill().await?, open))
    }
}

impl Retries {
    /// When to retry; `None`: it would be in vain, or has gone on for long enough. `claim` is when another empty answer
    /// would count, if one waits.
    fn next(
        &mut self,
        now: Instant,
        claim: Option<Instant>,
        open: &[(Interval, Obstacle)],
    ) -> Option<Instant> {
        let claim = claim.filter(|due| self.claims < CLAIM_TRIES || *due <= self.until);
        self.claims += u32::from(claim.is_some());
        let may_pass =
            open.is_empty() && claim.is_none() || open.iter().any(|(_, obstacle)| obstacle.may_pass());
        let fault = (may_pass && now < self.until).then_some(now + self.pause);
        if fault.is_some() {
            self.pause = (self.pause * 2).min(PAUSE_MOST);
        }
        claim.into_iter().chain(fault).min()
    }
}

/// How often rows may have been passed over above what the ledger is asked for.
fn above(open: &[(Interval, Obstacle)], goal: DateTime<Utc>) -> usize {
    open.iter().filter(|(interval, _)| interval.end() > goal).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_retried_for_a_while_and_nothing_else() {
        let hole = |obstacle| (Interval::new(None, DateTime::UNIX_EPOCH).unwrap(), obstacle);
        let (fault, run) = ([hole(Obstacle::SeamLost)], [hole(Obstacle::Run)]);
        let second = |second: u64| Some(Duration::from_secs(second));
        // Seconds from the beginning at which another empty answer counts, what is open, and the next tries.
        type Case<'a> = (&'a str, Option<u64>, &'a [(Interval, Obstacle)], [Option<Duration>; 3]);
        let cases: [Case<'_>; 6] = [
            ("a fault", None, &fault, [second(2), second(6), second(14)]),
            ("a run", None, &run, [None, None, None]),
            ("unknown", None, &[], [second(2), second(6), second(14)]),
            ("a claim", Some(15), &[], [second(15), None, None]),
            ("a claim and a run", Some(15), &run, [second(15), None, None]),
            ("a claim and a fault", Some(5), &fault, [second(2), second(5), second(13)]),
        ];
        for (name, claim, open, expected) in cases {
            let begun = Instant::now();
            let until = begun + Duration::from_secs(10);
            let mut retries = Retries { until, pause: PAUSE_FIRST, claims: 0 };
            let mut tries = Vec::new();
            let mut now = begun;
            for _ in 0..3 {
                let claim = claim.map(|due| begun + Duration::from_secs(due));
                let at = retries.next(now, claim.filter(|due| *due > now), open);
                tries.push(at.map(|at| at - begun));
                now = at.unwrap_or(now);
            }
            assert_eq!(tries, expected, "{name}");
        }
    }
}
