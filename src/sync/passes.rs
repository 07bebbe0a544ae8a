//! Passes beside the standing one: rechecks that are due, and backfills that were asked for.

use std::collections::HashMap;
use std::time::Instant;

use chrono::TimeDelta;
use tracing::info;

use crate::api::limiter::Priority;
use crate::config::Recheck;
use crate::interval::Interval;
use crate::store::BACKFILL;
use crate::telemetry;

use super::fill;
use super::line_task::{Filled, LineTask, SWEEP};
use super::planner;
use super::scheduler::SyncError;
use super::walker::Errand;

/// Which passes a line has in work.
#[derive(Debug, Default)]
pub(super) struct Passes {
    in_work: Vec<String>,
    /// When each was begun or gone on with last: one that stays incomplete is not tried at every tick.
    tried: HashMap<String, Instant>,
}

impl Passes {
    fn in_work(&self, pass: &str) -> bool {
        self.in_work.iter().any(|other| other == pass)
    }

    fn tried_lately(&self, pass: &str) -> bool {
        self.tried.get(pass).is_some_and(|tried| tried.elapsed() < SWEEP)
    }

    fn begun(&mut self, pass: &str) {
        self.in_work.push(pass.to_owned());
        self.tried.insert(pass.to_owned(), Instant::now());
    }

    pub(super) fn ended(&mut self, pass: &str) {
        self.in_work.retain(|other| other != pass);
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

    /// Begins the rechecks that are due, and goes on with those that an earlier process left.
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
            let window = |state: &crate::store::PassState| {
                state.wanted_to.and_then(|end| Interval::new(state.wanted_from, end))
            };
            let mut gaps = match state.as_ref().and_then(window) {
                Some(window) => self.engine.store.gaps(&key, window).await?,
                None => Vec::new(),
            };
            if !gaps.is_empty() && self.passes.tried_lately(&pass) {
                continue;
            }
            if gaps.is_empty() {
                if !planner::due(&recheck, begun, now) {
                    continue;
                }
                let from = now - TimeDelta::from_std(recheck.window).unwrap_or(TimeDelta::MAX);
                let Some(window) = Interval::new(Some(from).max(self.wanted_from), self.floor) else {
                    continue;
                };
                self.engine
                    .store
                    .restart_pass(&self.engine.lease, &key, window.start(), Some(window.end()), now)
                    .await?;
                gaps = vec![window];
            }
            let run = self.engine.start_run(self.errand.line.stream, &pass).await?;
            self.spawn_pass(&pass, run, gaps);
        }
        Ok(())
    }

    /// Begins or goes on with the backfills that were asked for, and ends those that are done; returns how many are
    /// not.
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
            if self.passes.tried_lately(&key.pass) {
                continue;
            }
            if self.errand.oldest.is_none() && gaps.iter().any(|gap| gap.start().is_none()) {
                self.errand.oldest = self.engine.ask_oldest(&self.errand.line).await?;
            }
            let run = self.engine.start_run(key.stream, &key.pass).await?;
            self.spawn_pass(&key.pass, run, gaps);
        }
        Ok(open)
    }

    /// Fills gaps of a pass beside the standing one, as a run of its own.
    fn spawn_pass(&mut self, pass: &str, run: i64, gaps: Vec<Interval>) {
        let errand =
            Errand { pass: pass.to_owned(), run, priority: Priority::Recheck, ..self.errand.clone() };
        let engine = self.engine.clone();
        self.passes.begun(pass);
        self.work.spawn(async move {
            let outcome =
                fill::fill(&engine.reader, &errand, gaps, engine.spend).await.map_err(SyncError::from);
            let told = match &outcome {
                Ok(open) if open.is_empty() => "done".to_owned(),
                Ok(open) => format!("{} intervals stayed open", open.len()),
                Err(SyncError::Stopped) => "stopped".to_owned(),
                Err(error) => telemetry::chain(error),
            };
            // What the pass proved is to be in the ledger before its gaps are looked at again.
            let flushed = engine.reader.writer.flush().await;
            engine.note_end(run, &told).await;
            let outcome = outcome.and_then(|open| Ok(flushed.map(|()| open)?));
            Filled { pass: errand.pass, priority: Priority::Recheck, outcome }
        });
    }
}
