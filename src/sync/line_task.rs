//! A line kept current: ticks at its top, fills below, rechecks beside.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::JoinSet;

use crate::api::limiter::Priority;
use crate::config::StreamSettings;
use crate::interval::{Interval, TICK};
use crate::store::STANDING;

use super::fill;
use super::line::Line;
use super::passes::Passes;
use super::planner;
use super::scheduler::{Engine, SyncError};
use super::walk::Obstacle;
use super::walker::{Claim, Errand};

/// Pages that a tick reads itself; what is below is filled beside the next ticks.
const TICK_PAGES: u32 = 5;
/// How soon what is still open is tried again.
pub(super) const SWEEP: Duration = Duration::from_secs(300);
/// The same at most, where nothing changes: a gap that the API cannot fill costs requests each time.
const SWEEP_MOST: Duration = Duration::from_secs(6 * 3_600);
/// How often it is looked what to do for backfills, while there are any.
const LOOK: Duration = Duration::from_secs(5);

/// When the line's gaps are looked at next.
struct Sweeps {
    next: tokio::time::Instant,
    pause: Duration,
    open: Vec<Interval>,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self { next: tokio::time::Instant::now(), pause: SWEEP, open: Vec::new() }
    }
}

impl Sweeps {
    /// The same gaps as before are tried half as often.
    fn found(&mut self, gaps: &[Interval]) {
        let stubborn = !gaps.is_empty() && gaps == self.open;
        self.pause = if stubborn { (self.pause * 2).min(SWEEP_MOST) } else { SWEEP };
        self.open = gaps.to_vec();
        self.next = tokio::time::Instant::now() + self.pause;
    }
}

/// What a line's task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Keep the line current until cancelled.
    Keep,
    /// Read what is due once.
    CatchUp,
    /// Carry out the backfills that were asked for, and nothing else.
    Backfill,
}

/// How a fill of a pass ended.
pub(super) struct Filled {
    pub pass: String,
    pub priority: Priority,
    pub outcome: Result<Vec<(Interval, Obstacle)>, SyncError>,
}

/// A line kept current.
pub(super) struct LineTask {
    pub(super) engine: Engine,
    pub(super) errand: Errand,
    pub(super) settings: StreamSettings,
    /// Every line but that of the changes is rechecked: that one is a check of the others itself.
    pub(super) rechecked: bool,
    pub(super) wanted_from: Option<DateTime<Utc>>,
    pub(super) started_at: DateTime<Utc>,
    /// Ticks read down to here; what is below is filled.
    pub(super) floor: DateTime<Utc>,
    /// Rows that the next tick asks for at first.
    tick_rows: u32,
    /// What ticks left below them, above [`LineTask::floor`] or not.
    rest: Option<Interval>,
    /// A fill of such a rest is in `work`.
    filling_rest: bool,
    pub(super) work: JoinSet<Filled>,
    pub(super) passes: Passes,
}

impl LineTask {
    /// Begins the standing pass, or goes on with it.
    pub(super) async fn begin(engine: Engine, errand: Errand) -> Result<Self, SyncError> {
        let line = &errand.line;
        let settings = engine.settings.streams.of(line.stream).clone();
        engine.learn_clock(line).await?;
        let now = engine.reader.server_now();
        let margin = engine.reader.settle_margin;
        let changes = *line == Line::message_changes();
        let wanted_from = if changes {
            // What `date` showed since its fill began is at least that new; later changes lie above.
            let main = Line::main(line.stream).key(STANDING);
            let main =
                engine.store.begin_pass(&engine.lease, &main, settings.history_start, None, now).await?;
            Some(main.started_at - margin)
        } else {
            settings.history_start
        };
        let state =
            engine.store.begin_pass(&engine.lease, &line.key(STANDING), wanted_from, None, now).await?;
        Ok(Self {
            rechecked: line.field == Line::main(line.stream).field,
            wanted_from,
            started_at: state.started_at,
            // Two seconds lower: the server tells its time in whole seconds.
            floor: now - margin - TimeDelta::seconds(2),
            engine,
            errand,
            settings,
            tick_rows: u32::MAX,
            rest: None,
            filling_rest: false,
            work: JoinSet::new(),
            passes: Passes::default(),
        })
    }

    pub(super) async fn work(mut self, duty: Duty) -> Result<(), SyncError> {
        let outcome = match duty {
            Duty::Keep => self.keep().await,
            Duty::CatchUp => self.catch_up().await,
            Duty::Backfill => self.backfill_once().await,
        };
        if matches!(outcome, Err(SyncError::Stopped)) {
            // What they have handed over is to be flushed by whoever stopped the line.
            while self.work.join_next().await.is_some() {}
        }
        outcome
    }

    async fn catch_up(&mut self) -> Result<(), SyncError> {
        // What is below the first tick need not wait for it.
        let gaps = self.gaps().await?;
        self.spawn_fill(Priority::History, gaps);
        self.tick(None).await?;
        let mut left = self.drain().await?;
        left += self.tick(None).await?;
        self.engine.reader.writer.flush().await?;
        self.recheck().await?;
        left += self.drain().await?;
        left += self.backfill_all().await?;
        left = left.max(self.gaps().await?.len());
        if left > 0 { Err(SyncError::Open(left)) } else { Ok(()) }
    }

    async fn backfill_once(&mut self) -> Result<(), SyncError> {
        match self.backfill_all().await? {
            0 => Ok(()),
            left => Err(SyncError::Open(left)),
        }
    }

    /// What was asked for, until it is done or stays open; returns how much stays open.
    async fn backfill_all(&mut self) -> Result<usize, SyncError> {
        self.backfill().await?;
        let left = self.drain().await?;
        Ok(left.max(self.backfill().await?))
    }

    async fn keep(&mut self) -> Result<(), SyncError> {
        let mut ticks = tokio::time::interval(self.settings.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweeps = Sweeps::default();
        // What is below the first tick need not wait for it.
        self.sweep(&mut sweeps).await?;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cancel = self.engine.reader.cancel.clone();
        let mut backfills = self.engine.backfills.clone();
        loop {
            let backfills_wait = *backfills.borrow_and_update();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(SyncError::Stopped),
                Some(ended) = self.work.join_next() => {
                    self.ended(ended)?;
                    self.backfill().await?;
                }
                _ = ticks.tick() => {
                    self.tick(Some(TICK_PAGES)).await?;
                    self.recheck().await?;
                }
                _ = look.tick(), if backfills_wait => {
                    self.backfill().await?;
                }
                Ok(()) = backfills.changed() => {}
                () = tokio::time::sleep_until(sweeps.next), if self.work.is_empty() => {
                    self.sweep(&mut sweeps).await?;
                }
            }
        }
    }

    /// Fills what is wanted and not held.
    async fn sweep(&mut self, sweeps: &mut Sweeps) -> Result<(), SyncError> {
        let gaps = self.gaps().await?;
        sweeps.found(&gaps);
        self.spawn_fill(Priority::History, gaps);
        Ok(())
    }

    /// Reads the newest rows of the line down to what earlier ticks read; returns how often rows may have been
    /// passed over. Above the settle margin no gap shows that.
    async fn tick(&mut self, pages: Option<u32>) -> Result<usize, SyncError> {
        let reader = &self.engine.reader;
        let end = (reader.server_now() - reader.settle_margin).max(self.floor + TICK);
        let Some(gap) = Interval::new(Some(self.floor), end) else { return Ok(0) };
        let walked = reader.walk(&self.errand, &Claim::new(gap), Some(self.tick_rows), pages).await?;
        self.tick_rows = planner::tick_rows(walked.fresh);
        if !walked.complete {
            let lowest = walked.lowest.unwrap_or(gap.end());
            let from =
                self.rest.and_then(|rest| rest.start()).map_or(self.floor, |from| from.min(self.floor));
            let to = self.rest.map_or(lowest, |rest| rest.end().max(lowest));
            // The oldest row read may share its time with others.
            self.rest = Interval::new(Some(from), to + TICK);
        }
        self.floor = self.floor.max(walked.ceiling);
        let obstacles = walked.obstacles.len();
        self.fill_rest();
        Ok(obstacles)
    }

    /// Fills what ticks left below them, unless that is being done.
    fn fill_rest(&mut self) {
        if !self.filling_rest
            && let Some(rest) = self.rest.take()
        {
            self.filling_rest = true;
            self.spawn_fill(Priority::Tail, vec![rest]);
        }
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
            Filled { pass: errand.pass, priority, outcome }
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
        self.passes.ended(&ended.pass);
        if ended.priority == Priority::Tail {
            self.filling_rest = false;
            self.fill_rest();
        }
        match ended.outcome {
            Ok(open) => Ok(open.len()),
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
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn gaps_that_stay_are_tried_more_and_more_rarely() {
        let gap = |end| Interval::new(None, DateTime::from_timestamp(end, 0).unwrap()).unwrap();
        let mut sweeps = Sweeps::default();
        let minutes = [(1, 5), (1, 10), (1, 20), (2, 5), (2, 10)];
        for (end, pause) in minutes {
            sweeps.found(&[gap(end)]);
            assert_eq!(sweeps.pause.as_secs() / 60, pause);
        }
        (0..20).for_each(|_| sweeps.found(&[gap(2)]));
        assert_eq!(sweeps.pause, SWEEP_MOST);
        sweeps.found(&[]);
        sweeps.found(&[]);
        assert_eq!(sweeps.pause, SWEEP, "nothing open is nothing stubborn");
    }
}
