//! Passes beside the standing one: rechecks that are due, and backfills that were asked for.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use tracing::info;

use crate::api::limiter::Priority;
use crate::config::Recheck;
use crate::interval::Interval;
use crate::store::{BACKFILL, STANDING};

use super::fill;
use super::line_task::{Filled, LineTask};
use super::planner;
use super::scheduler::SyncError;
use super::sweeps::Sweeps;
use super::walker::Errand;

/// Which passes a line has in work.
#[derive(Debug, Default)]
pub(super) struct Passes {
    in_work: Vec<String>,
    /// What each left open when it was tried last: it is not tried at every tick.
    tried: HashMap<String, Sweeps>,
}

impl Passes {
    fn in_work(&self, pass: &str) -> bool {
        self.in_work.iter().any(|other| other == pass)
    }

    /// Whether the pass, of which `gaps` are open, was tried and is not to be tried again yet.
    fn rests(&self, pass: &str) -> bool {
        self.tried.get(pass).is_some_and(|tried| !tried.is_due())
    }

    fn begun(&mut self, pass: &str, gaps: &[Interval]) {
        self.in_work.push(pass.to_owned());
        self.tried.entry(pass.to_owned()).or_default().found(gaps);
    }

    pub(super) fn ended(&mut self, pass: &str) {
        self.in_work.retain(|other| other != pass);
    }

    /// Backfills that were tried need not rest.
    pub(super) fn retry_backfills(&mut self) {
        self.tried.retain(|pass, _| !pass.starts_with(BACKFILL));
    }

    fn forget(&mut self, pass: &str) {
        self.tried.remove(pass);
    }
}

impl LineTask {
    fn rechecks(&self) -> Vec<Recheck> {
        if !self.rechecked {
            return Vec::new();
        }
        let found = self.engine.reader.readings.of(self.errand.line.stream);
        planner::rechecks(&self.settings.recheck, found.changes_are_seen)
    }

    /// Begins the rechecks that are due, whatever stayed open of the last round, and resumes those that an earlier
    /// process left. What the standing pass does not hold is left to that: a row that cannot be read holds no recheck up.
    pub(super) async fn recheck(&mut self) -> Result<(), SyncError> {
        for recheck in self.rechecks() {
            let pass = format!("recheck {}", humantime::format_duration(recheck.window));
            if self.passes.in_work(&pass) {
                continue;
            }
            let key = self.errand.line.key(&pass);
            let now = self.engine.reader.server_now();
            let state = self.engine.store.pass(&key).await?;
            let begun = state.as_ref().map_or(self.started_at, |state| state.started_at);
            let mut window = state.and_then(|state| Interval::new(state.wanted_from, state.wanted_to?));
            if planner::due(&recheck, begun, now) {
                let from = now - TimeDelta::from_std(recheck.window).unwrap_or(TimeDelta::MAX);
                window = Interval::new(Some(from).max(self.wanted_from), self.floor);
                let Some(window) = window else { continue };
                let (start, end) = (window.start(), Some(window.end()));
                self.engine.store.restart_pass(&self.engine.lease, &key, start, end, now).await?;
                self.passes.forget(&pass);
            }
            let Some(window) = window else { continue };
            if self.passes.rests(&pass) {
                continue;
            }
            let missing = self.engine.store.gaps(&self.errand.line.key(STANDING), window).await?;
            let gaps = self.engine.store.gaps(&key, window).await?;
            let gaps: Vec<_> = gaps.into_iter().flat_map(|gap| gap.minus(&missing)).collect();
            if !gaps.is_empty() {
                self.spawn_pass(&pass, window.start(), gaps).await?;
            }
        }
        Ok(())
    }

    /// Begins or resumes the backfills that were asked for, and ends those that are done; returns how many are not.
    pub(super) async fn backfill(&mut self) -> Result<usize, SyncError> {
        if !self.rechecked {
            return Ok(0);
        }
        let mut open = 0;
        for (key, state) in self.engine.store.passes_named_like(&self.errand.line.key(BACKFILL)).await? {
            if self.passes.in_work(&key.pass) {
                open += 1;
                continue;
            }
            // What is newer the ticks read again anyway.
            let end = state.wanted_to.map_or(self.floor, |to| to.min(self.floor));
            let gaps = match Interval::new(state.wanted_from, end) {
                Some(window) => self.engine.store.gaps(&key, window).await?,
                None => Vec::new(),
            };
            if gaps.is_empty() {
                info!(stream = %key.stream, line = key.line, pass = key.pass, "done");
                self.engine.store.end_pass(&self.engine.lease, &key).await?;
                self.passes.forget(&key.pass);
                continue;
            }
            open += 1;
            if self.passes.rests(&key.pass) {
                continue;
            }
            if self.errand.oldest.is_none() && gaps.iter().any(|gap| gap.start().is_none()) {
                self.errand.oldest = self.engine.ask_oldest(&self.errand.line).await?;
            }
            self.spawn_pass(&key.pass, state.wanted_from, gaps).await?;
        }
        Ok(open)
    }

    /// Fills gaps of a pass beside the standing one, as a run of its own.
    async fn spawn_pass(
        &mut self,
        pass: &str,
        wanted_from: Option<DateTime<Utc>>,
        gaps: Vec<Interval>,
    ) -> Result<(), SyncError> {
        let run = self.engine.start_run(self.errand.line.stream, pass).await?;
        let since = self.engine.store.now().await?;
        let errand =
            Errand { pass: pass.to_owned(), run, priority: Priority::Recheck, ..self.errand.clone() };
        let engine = self.engine.clone();
        let number = self.next_fill();
        self.passes.begun(pass, &gaps);
        self.work.spawn(async move {
            let walked = gaps.clone();
            let outcome =
                fill::fill(&engine.reader, &errand, gaps, engine.spend).await.map_err(SyncError::from);
            let told = match &outcome {
                Ok(filled) if filled.open.is_empty() => "done".to_owned(),
                Ok(filled) => format!("{} intervals stayed open", filled.open.len()),
                Err(error) => engine.told(error),
            };
            // What the pass proved is to be in the ledger before its gaps are looked at again.
            let flushed = engine.reader.writer.flush().await.map_err(SyncError::from);
            engine.note_end(run, &told).await;
            let outcome = match (outcome, flushed) {
                (Ok(filled), Ok(())) => {
                    let standing = errand.line.key(STANDING);
                    let mut seen = Ok(());
                    for window in walked.into_iter().filter(|_| filled.open.is_empty()) {
                        seen = seen.and(engine.store.resolve_contradictions(&standing, window, since).await);
                    }
                    seen.map(|()| filled).map_err(SyncError::from)
                }
                (outcome, flushed) => flushed.and(outcome),
            };
            Filled { number, pass: errand.pass, priority: Priority::Recheck, wanted_from, outcome }
        });
        Ok(())
    }
}
