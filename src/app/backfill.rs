//! A window walked again on request, by whoever leads.

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::model::Stream;
use crate::clock;
use crate::interval::Interval;
use crate::store::{BACKFILL, Holder, LEASE_POLL, LineKey, PassState, Run, STANDING, StoreError};
use crate::sync::line::Line;
use crate::sync::scheduler::SyncError;

use super::guard::Guard;
use super::{App, AppError, TAKE_UP, rest};

/// Runs among which those of a backfill are looked for.
const RECENT_RUNS: u32 = 1_000;

/// How much lower than the settle margin a backfill ends: its leader's clock may differ from ours.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(5);

/// From, to; `None`: from the beginning, up to now.
pub type Window = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// How far a backfill is.
#[derive(Clone, Debug)]
pub struct BackfillProgress {
    /// Who works on it; `None`: this process.
    pub leader: Option<Holder>,
    /// How far down the slowest line is walked, from the window's end.
    pub reached: Option<DateTime<Utc>>,
    /// 0 to 1, where the window has a beginning.
    pub share: Option<f64>,
}

impl App {
    /// Walks `window` of a stream again: hands it to the leader, or leads itself where there is none, until it
    /// is done. Returns how many rows were read. Cut off, it is gone on with by the next leader.
    ///
    /// What is younger than the settle margin is not walked: every tick and every sync reads it again.
    ///
    /// # Errors
    /// [`AppError::Unsettled`] where that leaves nothing; [`AppError::Unheeded`] where the leader does not take it
    /// up; [`SyncError::Open`], or [`AppError::BackfillOpen`] of another leader, where a part could not be proved; a leader tries that part again by itself.
    pub async fn backfill(
        &self,
        stream: Stream,
        window: Window,
        cancel: &CancellationToken,
        mut told: impl FnMut(BackfillProgress),
    ) -> Result<i64, AppError> {
        let margin = TimeDelta::from_std(self.settings.sync.settle_margin).unwrap_or(TimeDelta::MAX);
        let settled = clock::now() - margin - CLOCKS_APART;
        let to = window.1.map_or(settled, |to| to.min(settled));
        if window.0.is_some_and(|from| from >= to) {
            return Err(AppError::Unsettled(self.settings.sync.settle_margin));
        }
        self.prepare(cancel).await?;
        let client = self.client()?;
        // Before anything is written. A leader looks at its own key.
        let mut guard = match self.store.leader().await? {
            None => {
                let guard = Guard::spawn(&client, &self.store, false, cancel);
                guard.checked(cancel).await?;
                Some(guard)
            }
            Some(_) => None,
        };
        let before = self.store.recent_runs(1).await?.first().map_or(0, |run| run.id);
        let pass = name(window);
        for key in self.lines(stream, &pass).await? {
            self.store.request_pass(&key, window.0, Some(to), clock::now()).await?;
        }
        let mut held = Vec::new();
        let mut moved = Instant::now();
        loop {
            let open = self.store.coverage().await?.into_iter().filter(|(key, _)| key.pass == pass);
            let open: Vec<_> = open.filter(|(key, _)| key.stream == stream).map(|(_, state)| state).collect();
            let runs = self.store.recent_runs(RECENT_RUNS).await?.into_iter();
            let runs: Vec<_> = runs.filter(|run| run.id > before && run.pass == pass).collect();
            if open.is_empty() {
                return Ok(runs.iter().map(|run| run.rows_read).sum());
            }
            if cancel.is_cancelled() {
                return Err(SyncError::Stopped.into());
            }
            let leader = match self.store.acquire_lease(&self.holder).await? {
                Ok(lease) => {
                    told(progress(None, &open));
                    let guard =
                        guard.get_or_insert_with(|| Guard::spawn(&client, &self.store, false, cancel));
                    let (term, keeper) = self.term(&client, lease.clone(), cancel);
                    let outcome = guard.during(&lease, &term.cancel.clone(), term.backfill(stream)).await;
                    self.give_up(lease, keeper).await;
                    match outcome {
                        Err(AppError::Sync(SyncError::Store(error @ StoreError::ServerRestarted))) => {
                            warn!(%error, "reading again")
                        }
                        outcome => outcome?,
                    }
                    continue;
                }
                Err(holder) => holder,
            };
            if let Some(failed) = runs.iter().find_map(left_open) {
                return Err(AppError::BackfillOpen { holder: leader, outcome: failed.to_owned() });
            }
            let now_held: Vec<_> = open.iter().map(|state| state.covered.clone()).collect();
            if now_held != held || !runs.is_empty() {
                held = now_held;
                moved = Instant::now();
            }
            if moved.elapsed() > TAKE_UP {
                return Err(AppError::Unheeded { holder: leader, what: "the backfill".to_owned() });
            }
            told(progress(Some(leader), &open));
            rest(LEASE_POLL, cancel).await;
        }
    }

    /// The lines that a backfill walks: all that are held, but for that of the changes, which shows the same rows.
    async fn lines(&self, stream: Stream, pass: &str) -> Result<Vec<LineKey>, AppError> {
        let held = self.store.coverage().await?.into_iter().map(|(key, _)| key);
        let changes = Line::message_changes().key(STANDING);
        let standing = held.filter(|key| key.stream == stream && key.pass == STANDING && *key != changes);
        let mut lines: Vec<_> = standing.map(|key| LineKey { pass: pass.to_owned(), ..key }).collect();
        if lines.is_empty() {
            lines.push(Line::main(stream).key(pass));
        }
        Ok(lines)
    }
}

fn name((from, to): Window) -> String {
    let text = |time: Option<DateTime<Utc>>, none: &str| {
        time.map_or(none.to_owned(), |time| time.format("%FT%T%.fZ").to_string())
    };
    format!("{BACKFILL} {} to {}", text(from, "the beginning"), text(to, "now"))
}

/// What a leader's run of a backfill said that ended without everything proved.
fn left_open(run: &Run) -> Option<&str> {
    run.outcome.as_deref().filter(|outcome| *outcome != "done" && *outcome != "stopped")
}

fn progress(leader: Option<Holder>, open: &[PassState]) -> BackfillProgress {
    let slowest = open.iter().filter_map(|state| state.covered.first()?.start()).max();
    let mut shares = open.iter().map(|state| {
        let window = Interval::new(Some(state.wanted_from?), state.wanted_to.unwrap_or_else(clock::now))?;
        let whole = window.span()?.num_milliseconds().max(1) as f64;
        let held: i64 =
            state.covered.iter().filter_map(|part| part.span()).map(|span| span.num_milliseconds()).sum();
        Some((held as f64 / whole).clamp(0.0, 1.0))
    });
    let share = shares.try_fold(1.0, |least, share: Option<f64>| share.map(|share| f64::min(least, share)));
    BackfillProgress { leader, reached: slowest, share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backfill_is_named_by_its_window() {
        let at = |text: &str| Some(text.parse().unwrap());
        let cases = [
            ((None, None), "backfill the beginning to now"),
            ((at("2026-03-01T00:00:00Z"), None), "backfill 2026-03-01T00:00:00Z to now"),
            (
                (at("2026-03-01T00:00:00.5Z"), at("2026-04-01T00:00:00Z")),
                "backfill 2026-03-01T00:00:00.500Z to 2026-04-01T00:00:00Z",
            ),
        ];
        for (window, expected) in cases {
            assert_eq!(name(window), expected);
        }
    }
}
