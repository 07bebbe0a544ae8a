//! A line kept current: ticks at its top, fills below, rechecks beside.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;
use tracing::warn;

use crate::api::limiter::Priority;
use crate::config::{Recheck, StreamSettings};
use crate::interval::{Interval, TICK};
use crate::store::STANDING;
use crate::telemetry;

use super::fill;
use super::line::Line;
use super::planner;
use super::scheduler::{Engine, SyncError};
use super::walk::Obstacle;
use super::walker::{Claim, Errand};

/// Pages that a tick reads itself; what is below is filled beside the next ticks.
const TICK_PAGES: u32 = 5;
/// How often what is still open is tried again.
const SWEEP: Duration = Duration::from_secs(300);

/// How a fill of a pass ended.
struct Filled {
    pass: String,
    outcome: Result<Vec<(Interval, Obstacle)>, SyncError>,
}

/// A line kept current.
pub(super) struct LineTask {
    engine: Engine,
    errand: Errand,
    settings: StreamSettings,
    rechecks: Vec<Recheck>,
    wanted_from: Option<DateTime<Utc>>,
    started_at: DateTime<Utc>,
    /// Ticks read down to here; what is below is filled.
    floor: DateTime<Utc>,
    work: JoinSet<Filled>,
    /// Rechecks in `work`.
    rechecking: Vec<String>,
    /// When each recheck was begun or gone on with last: one that stays incomplete is not tried at every tick.
    tried: HashMap<String, Instant>,
}

impl LineTask {
    /// Begins the standing pass, or goes on with it.
    pub(super) async fn begin(
        engine: Engine,
        errand: Errand,
        changes_are_seen: bool,
    ) -> Result<Self, SyncError> {
        let line = &errand.line;
        let settings = engine.settings.streams.of(line.stream).clone();
        let now = engine.reader.server_now();
        let margin = engine.reader.settle_margin;
        let changes = *line == Line::message_changes();
        let wanted_from = if changes {
            // What `date` showed since its fill began is at least that new; later changes lie above.
            let main = Line::main(line.stream).key(STANDING);
            let main = engine.store.begin_pass(&main, settings.history_start, None, now).await?;
            Some(main.started_at - margin)
        } else {
            settings.history_start
        };
        let state = engine.store.begin_pass(&line.key(STANDING), wanted_from, None, now).await?;
        let main = line.field == Line::main(line.stream).field;
        let rechecks = if main { planner::rechecks(&settings.recheck, changes_are_seen) } else { Vec::new() };
        Ok(Self {
            rechecks,
            wanted_from,
            started_at: state.started_at,
            // Two seconds lower: the server tells its time in whole seconds.
            floor: now - margin - TimeDelta::seconds(2),
            engine,
            errand,
            settings,
            work: JoinSet::new(),
            rechecking: Vec::new(),
            tried: HashMap::new(),
        })
    }

    /// Until cancelled (`forever`), or once.
    pub(super) async fn work(mut self, forever: bool) -> Result<(), SyncError> {
        if forever { self.keep().await } else { self.once().await }
    }

    async fn once(&mut self) -> Result<(), SyncError> {
        self.tick(None).await?;
        let gaps = self.gaps().await?;
        self.spawn_fill(Priority::History, gaps);
        let mut left = self.drain().await?;
        self.tick(None).await?;
        self.engine.reader.writer.flush().await?;
        self.recheck().await?;
        left += self.drain().await?;
        left = left.max(self.gaps().await?.len());
        if left > 0 { Err(SyncError::Open(left)) } else { Ok(()) }
    }

    async fn keep(&mut self) -> Result<(), SyncError> {
        let mut ticks = tokio::time::interval(self.settings.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cancel = self.engine.reader.cancel.clone();
        let mut sessions_lost = self.engine.store.sessions_lost();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    while self.work.join_next().await.is_some() {}
                    return Err(SyncError::Stopped);
                }
                Some(ended) = self.work.join_next() => {
                    self.ended(ended)?;
                }
                _ = ticks.tick() => {
                    self.tick(Some(TICK_PAGES)).await?;
                    self.recheck().await?;
                    let lost = self.engine.store.sessions_lost();
                    if std::mem::replace(&mut sessions_lost, lost) != lost {
                        sweep.reset_immediately();
                    }
                }
                _ = sweep.tick(), if self.work.is_empty() => {
                    let gaps = self.gaps().await?;
                    self.spawn_fill(Priority::History, gaps);
                }
            }
        }
    }

    /// Reads the newest rows of the line down to what earlier ticks read.
    async fn tick(&mut self, pages: Option<u32>) -> Result<(), SyncError> {
        let reader = &self.engine.reader;
        let end = (reader.server_now() - reader.settle_margin).max(self.floor + TICK);
        let Some(gap) = Interval::new(Some(self.floor), end) else { return Ok(()) };
        let walked = reader.walk(&self.errand, &Claim::new(gap), true, pages).await?;
        if !walked.complete
            && let Some(rest) = Interval::new(Some(self.floor), walked.reached)
        {
            self.spawn_fill(Priority::Tail, vec![rest]);
        }
        self.floor = self.floor.max(walked.ceiling);
        Ok(())
    }

    /// What is wanted below the ticks and not held.
    async fn gaps(&self) -> Result<Vec<Interval>, SyncError> {
        self.engine.reader.writer.flush().await?;
        let Some(wanted) = Interval::new(self.wanted_from, self.floor) else { return Ok(Vec::new()) };
        Ok(self.engine.store.gaps(&self.errand.line.key(STANDING), wanted).await?)
    }

    /// Fills gaps of the standing pass beside the ticks.
    fn spawn_fill(&mut self, priority: Priority, gaps: Vec<Interval>) {
        if gaps.is_empty() {
            return;
        }
        let errand = Errand { priority, ..self.errand.clone() };
        let progress = self.engine.reader.progress.of(errand.line.stream);
        for gap in &gaps {
            if let Some(start) = gap.start().max(errand.oldest) {
                progress.want(start, gap.end());
            }
        }
        let engine = self.engine.clone();
        self.work.spawn(async move {
            let outcome =
                fill::fill(&engine.reader, &errand, gaps, engine.spend).await.map_err(SyncError::from);
            Filled { pass: errand.pass, outcome }
        });
    }

    /// The same for a recheck, as a run of its own.
    fn spawn_recheck(&mut self, pass: &str, run: i64, gaps: Vec<Interval>) {
        let errand =
            Errand { pass: pass.to_owned(), run, priority: Priority::Recheck, ..self.errand.clone() };
        let engine = self.engine.clone();
        self.rechecking.push(pass.to_owned());
        self.tried.insert(pass.to_owned(), Instant::now());
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
            Filled { pass: errand.pass, outcome: outcome.and_then(|open| Ok(flushed.map(|()| open)?)) }
        });
    }

    fn ended(&mut self, ended: Result<Filled, tokio::task::JoinError>) -> Result<usize, SyncError> {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(SyncError::Stopped),
            },
        };
        self.rechecking.retain(|pass| *pass != ended.pass);
        match ended.outcome {
            Ok(open) => Ok(open.len()),
            // The gap stays; the next sweep tries it again.
            Err(SyncError::Page(error)) if self.engine.reader.patient => {
                warn!(stream = %self.errand.line.stream, error = telemetry::chain(&error), "a fill was given up");
                Ok(1)
            }
            Err(error) => Err(error),
        }
    }

    async fn drain(&mut self) -> Result<usize, SyncError> {
        let mut open = 0;
        while let Some(ended) = self.work.join_next().await {
            open += self.ended(ended)?;
        }
        Ok(open)
    }

    /// Begins the rechecks that are due, and goes on with those that an earlier process left.
    async fn recheck(&mut self) -> Result<(), SyncError> {
        for recheck in self.rechecks.clone() {
            let pass = format!("recheck {}", humantime::format_duration(recheck.window));
            if self.rechecking.contains(&pass) {
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
            let tried = self.tried.get(&pass).is_some_and(|tried| tried.elapsed() < SWEEP);
            if !gaps.is_empty() && tried {
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
                self.engine.store.restart_pass(&key, window.start(), Some(window.end()), now).await?;
                gaps = vec![window];
            }
            let run = self.engine.start_run(self.errand.line.stream, &pass).await?;
            self.spawn_recheck(&pass, run, gaps);
        }
        Ok(())
    }
}
