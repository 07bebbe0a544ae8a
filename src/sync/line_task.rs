//! A line kept current: ticks at its top, fills below, rechecks beside.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::api::limiter::Priority;
use crate::config::StreamSettings;
use crate::interval::{Interval, TICK};
use crate::store::STANDING;

use super::emptiness::Claims;
use super::fill::{self, Outcome};
use super::line::Line;
use super::passes::Passes;
use super::planner;
use super::scheduler::{Engine, SyncError};
use super::sweeps::Sweeps;
use super::walk::Obstacle;
use super::walker::{Claim, Errand, Until, Walked};

/// Pages that a tick reads itself; what is below is filled beside the next ticks.
const TICK_PAGES: u32 = 5;
/// How often it is looked what to do for backfills, while there are any.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

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
    /// Number of the fill.
    pub number: u64,
    pub pass: String,
    pub priority: Priority,
    /// The lower end of what the pass wants.
    pub wanted_from: Option<DateTime<Utc>>,
    pub outcome: Result<Outcome, SyncError>,
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
    fills: u64,
    /// What fills of the standing pass have in work.
    filling: HashMap<u64, Vec<Interval>>,
    pub(super) passes: Passes,
    /// What empty answers claim, by pass.
    pub(super) claims: HashMap<String, Claims>,
    /// A row of this line was listed since the task began.
    pub(super) listed: bool,
    /// Contradictions that were looked at.
    contradictions: u64,
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
            fills: 0,
            filling: HashMap::new(),
            passes: Passes::default(),
            claims: HashMap::new(),
            listed: false,
            contradictions: 0,
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

    async fn keep(&mut self) -> Result<(), SyncError> {
        let every = |time| {
            let mut interval = tokio::time::interval(time);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        };
        let (mut ticks, mut look) = (every(self.settings.interval), every(LOOK));
        let mut sweeps = Sweeps::default();
        // What is below the first tick need not wait for it.
        self.sweep(&mut sweeps).await?;
        let cancel = self.engine.reader.cancel.clone();
        let mut backfills = self.engine.backfills.clone();
        loop {
            let backfills_wait = *backfills.borrow_and_update();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(SyncError::Stopped),
                Some(ended) = self.work.join_next() => {
                    if let Some(open) = self.ended(ended).await? {
                        sweeps.found(&open);
                    }
                    self.backfill().await?;
                }
                _ = ticks.tick() => {
                    let obstacles = self.tick(Until::Pages(TICK_PAGES)).await?;
                    if !obstacles.is_empty() {
                        sweeps.found(&obstacles.into_iter().map(|obstacle| obstacle.0).collect::<Vec<_>>());
                    }
                    self.recheck().await?;
                }
                _ = look.tick(), if backfills_wait => {
                    self.backfill().await?;
                }
                Ok(()) = backfills.changed() => {}
                () = tokio::time::sleep_until(sweeps.next) => {
                    self.sweep(&mut sweeps).await?;
                }
            }
            if self.is_contradicted() {
                self.sweep(&mut sweeps).await?;
            }
            if let Some(due) = self.claims_due(|pass| pass == STANDING) {
                sweeps.not_after(due);
            }
        }
    }

    /// Fills what is wanted and not held, and that no fill has in work; looks again where the line was believed to end.
    async fn sweep(&mut self, sweeps: &mut Sweeps) -> Result<(), SyncError> {
        self.heal().await?;
        self.ask_edge().await?;
        let gaps = self.gaps(self.floor).await?;
        let in_work: Vec<_> = self.filling.values().flatten().copied().collect();
        let gaps = gaps.into_iter().flat_map(|gap| gap.minus(&in_work)).collect();
        sweeps.under_way();
        self.spawn_fill(Priority::History, gaps);
        Ok(())
    }

    /// Reads the newest rows of the line down to what earlier ticks read; returns where rows may have been passed over.
    /// Above the settle margin no gap shows that.
    pub(super) async fn tick(&mut self, until: Until) -> Result<Vec<(Interval, Obstacle)>, SyncError> {
        let reader = &self.engine.reader;
        let end = (reader.server_now() - reader.settle_margin).max(self.floor + TICK);
        let Some(gap) = Interval::new(Some(self.floor), end) else { return Ok(Vec::new()) };
        let walked = reader.walk(&self.errand, &Claim::new(gap), Some(self.tick_rows), until).await?;
        self.tick_rows = planner::tick_rows(walked.fresh);
        if !walked.complete {
            self.leave_rest(&walked, gap);
        }
        self.floor = self.floor.max(walked.ceiling);
        self.fill_rest();
        self.saw(walked.listed, walked.lowest);
        if let Some(emptiness) = walked.empty {
            self.claim(STANDING, self.wanted_from, emptiness, false).await?;
        }
        Ok(walked.obstacles)
    }

    fn leave_rest(&mut self, walked: &Walked, gap: Interval) {
        let lowest = walked.lowest.unwrap_or(gap.end());
        let from = self.rest.and_then(|rest| rest.start()).map_or(self.floor, |from| from.min(self.floor));
        let to = self.rest.map_or(lowest, |rest| rest.end().max(lowest));
        // The oldest row read may share its time with others.
        self.rest = Interval::new(Some(from), to + TICK);
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

    /// What is wanted below `top` and not held.
    pub(super) async fn gaps(&self, top: DateTime<Utc>) -> Result<Vec<Interval>, SyncError> {
        self.engine.reader.writer.flush().await?;
        let Some(wanted) = Interval::new(self.wanted_from, top) else { return Ok(Vec::new()) };
        Ok(self.engine.store.gaps(&self.errand.line.key(STANDING), wanted).await?)
    }

    /// Fills gaps of the standing pass beside the ticks.
    pub(super) fn spawn_fill(&mut self, priority: Priority, gaps: Vec<Interval>) {
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
        let (number, wanted_from) = (self.next_fill(), self.wanted_from);
        self.filling.insert(number, gaps.clone());
        self.work.spawn(async move {
            let outcome =
                fill::fill(&engine.reader, &errand, gaps, engine.spend).await.map_err(SyncError::from);
            Filled { number, pass: errand.pass, priority, wanted_from, outcome }
        });
    }

    pub(super) fn next_fill(&mut self) -> u64 {
        self.fills += 1;
        self.fills
    }

    /// Takes a fill that has ended; returns what of the standing pass's history it left open.
    async fn ended(&mut self, ended: Result<Filled, JoinError>) -> Result<Option<Vec<Interval>>, SyncError> {
        let history = ended.as_ref().is_ok_and(|filled| {
            filled.priority == Priority::History || self.filling.contains_key(&filled.number)
        });
        let open = self.take(ended).await?;
        Ok(history.then(|| open.into_iter().map(|open| open.0).collect()))
    }

    async fn take(
        &mut self,
        ended: Result<Filled, JoinError>,
    ) -> Result<Vec<(Interval, Obstacle)>, SyncError> {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(SyncError::Stopped),
            },
        };
        self.passes.ended(&ended.pass);
        self.filling.remove(&ended.number);
        if ended.priority == Priority::Tail {
            self.filling_rest = false;
            self.fill_rest();
        }
        let outcome = ended.outcome?;
        self.saw(outcome.listed, outcome.lowest);
        if let Some(emptiness) = outcome.empty() {
            self.claim(&ended.pass, ended.wanted_from, emptiness, true).await?;
        }
        Ok(outcome.open)
    }

    /// Waits for all fills; returns what they left open.
    pub(super) async fn drain(&mut self) -> Result<Vec<(Interval, Obstacle)>, SyncError> {
        let mut open = Vec::new();
        while let Some(ended) = self.work.join_next().await {
            open.extend(self.take(ended).await?);
        }
        Ok(open)
    }

    /// Whether rows have contradicted the coverage since this was asked last.
    fn is_contradicted(&mut self) -> bool {
        let stream = self.errand.line.stream;
        let now = self.engine.reader.progress.of(stream).contradictions.load(Relaxed);
        std::mem::replace(&mut self.contradictions, now) != now
    }

    /// When claims of emptiness may be settled, in the passes of these names.
    pub(super) fn claims_due(&self, of: impl Fn(&str) -> bool) -> Option<Instant> {
        let apart = self.engine.settings.sync.empty_apart;
        let claims = self.claims.iter().filter(|(pass, _)| of(pass));
        claims.filter_map(|(_, claims)| claims.due(apart)).min()
    }
}
