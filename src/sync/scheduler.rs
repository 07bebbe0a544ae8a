//! One term of leadership: every stream's lines are read to the present, kept there, and filled backwards.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::client::Client;
use crate::api::endpoints::View;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::{Stream, TimeField};
use crate::config::{Recheck, Settings, StreamSettings};
use crate::interval::{Interval, TICK};
use crate::store::{Lease, STANDING, Store, StoreError};
use crate::telemetry;

use super::detect::{self, Verdict};
use super::fill::{self, Spend};
use super::health::Health;
use super::line::Line;
use super::planner;
use super::progress::Progress;
use super::walk::Obstacle;
use super::walker::{Claim, Errand, Reader, WalkError};
use super::writer::{Writer, WriterGone};

/// Pages that a tick reads itself; what is below is filled beside the next ticks.
const TICK_PAGES: u32 = 5;
/// How often what is still open is tried again.
const SWEEP: Duration = Duration::from_secs(300);
/// How often an undecided reading is tested again.
const UNDECIDED: Duration = Duration::from_secs(60);
/// How often a decided reading is tested again.
const DECIDED: Duration = Duration::from_secs(3_600);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("stopped")]
    Stopped,
    #[error("the API could not be read")]
    Api(#[source] ApiError),
    #[error("a page could not be read")]
    Page(#[source] WalkError),
    #[error("the database could not be used")]
    Store(#[source] StoreError),
    #[error("{0} intervals stayed open; see the log and `heymarket-sync status`")]
    Open(usize),
}

impl From<WalkError> for SyncError {
    fn from(error: WalkError) -> Self {
        match error {
            // The writer's own error is told by its task.
            WalkError::Stopped | WalkError::Writer(_) => Self::Stopped,
            WalkError::Api(error) => error.into(),
            error @ WalkError::Unreadable { .. } => Self::Page(error),
        }
    }
}

impl From<ApiError> for SyncError {
    fn from(error: ApiError) -> Self {
        if error.kind() == ErrorKind::Cancelled { Self::Stopped } else { Self::Api(error) }
    }
}

impl From<StoreError> for SyncError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<WriterGone> for SyncError {
    fn from(_: WriterGone) -> Self {
        Self::Stopped
    }
}

/// What a term needs.
pub struct Term {
    pub client: Client,
    pub store: Store,
    pub lease: Lease,
    pub holder: String,
    pub settings: Arc<Settings>,
    pub progress: Arc<Progress>,
    pub health: Arc<Health>,
    pub cancel: CancellationToken,
}

#[derive(Clone)]
struct Engine {
    reader: Reader,
    store: Store,
    settings: Arc<Settings>,
    holder: Arc<str>,
    spend: Spend,
}

impl Term {
    /// Keeps the mirror current until cancelled, the lead is lost, or the database refuses for good.
    pub async fn run(self) -> Result<(), SyncError> {
        let streams = enabled(&self.settings, &[]);
        self.conduct(&streams, true).await
    }

    /// Reads everything that is due once. An error of the API ends it.
    pub async fn catch_up(self, streams: &[Stream]) -> Result<(), SyncError> {
        let streams = enabled(&self.settings, streams);
        self.conduct(&streams, false).await
    }

    async fn conduct(self, streams: &[Stream], forever: bool) -> Result<(), SyncError> {
        let api = &self.settings.api;
        // A child, so that an error in one stream ends the others and leaves the caller's token alone.
        let cancel = self.cancel.child_token();
        let (writer, mut written) =
            Writer::spawn(self.store.clone(), self.lease.clone(), Arc::clone(&self.progress), cancel.clone());
        let engine = Engine {
            reader: Reader {
                client: self.client.clone(),
                writer,
                progress: Arc::clone(&self.progress),
                health: Arc::clone(&self.health),
                in_flight: Arc::new(Semaphore::new(api.max_in_flight)),
                limit: api.page_size,
                settle_margin: TimeDelta::from_std(self.settings.sync.settle_margin)
                    .unwrap_or(TimeDelta::MAX),
                patient: forever,
                cancel: cancel.clone(),
            },
            store: self.store.clone(),
            settings: Arc::clone(&self.settings),
            holder: self.holder.as_str().into(),
            spend: Spend { requests_per_minute: api.requests_per_minute, max_walkers: api.max_in_flight },
        };
        let mut tasks = JoinSet::new();
        for stream in streams.iter().copied() {
            let engine = engine.clone();
            tasks.spawn(async move { engine.stream(stream, forever).await });
        }
        // Only the tasks' copies of the way to the writer are left: when they end, it ends.
        drop(engine);
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = match ended {
                Ok(ended) => ended,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(SyncError::Stopped),
                },
            };
            if let Err(error) = ended {
                // An open interval of one stream is no reason to leave the others undone.
                if !matches!(error, SyncError::Open(_)) {
                    cancel.cancel();
                }
                outcome = worse(outcome, error);
            }
        }
        match (&mut written).await {
            Ok(Ok(())) => outcome,
            Ok(Err(error)) => Err(SyncError::Store(error)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => outcome,
            },
        }
    }
}

/// The error worth telling: the first that is not a mere stop.
fn worse(outcome: Result<(), SyncError>, error: SyncError) -> Result<(), SyncError> {
    match outcome {
        Ok(()) | Err(SyncError::Stopped) => Err(error),
        told => told,
    }
}

fn enabled(settings: &Settings, asked: &[Stream]) -> Vec<Stream> {
    let chosen = |stream: &Stream| match asked {
        [] => settings.streams.of(*stream).enabled,
        asked => asked.contains(stream),
    };
    Stream::ALL.into_iter().filter(chosen).collect()
}

impl Engine {
    async fn stream(&self, stream: Stream, forever: bool) -> Result<(), SyncError> {
        let run = self.store.start_run(stream, STANDING, &self.holder).await?;
        let outcome = self.lines(stream, run, forever).await;
        let told = match &outcome {
            Ok(()) => "done".to_owned(),
            Err(SyncError::Stopped) => "stopped".to_owned(),
            Err(error) => telemetry::chain(error),
        };
        // The run's end is a note for people: the outcome itself matters more than failing to write it down.
        if let Err(error) = self.store.end_run(run, &told).await {
            warn!(%stream, error = telemetry::chain(&error), "the end of the run could not be noted");
        }
        outcome
    }

    /// Keeps a task per line; lines are added as readings are decided.
    async fn lines(&self, stream: Stream, run: i64, forever: bool) -> Result<(), SyncError> {
        let mut known: Vec<Line> = Vec::new();
        let mut tasks = JoinSet::new();
        let mut retry = RETRY_FIRST;
        loop {
            let (lines, decided) = match self.detect(stream).await {
                Ok(found) => found,
                Err(SyncError::Api(error)) if forever => {
                    self.reader.health.interrupted(&error);
                    self.sleep(retry).await?;
                    retry = (retry * 2).min(RETRY_MOST);
                    continue;
                }
                Err(error) => return Err(error),
            };
            retry = RETRY_FIRST;
            let changes_are_seen = lines.contains(&Line::message_changes());
            for line in lines {
                if !known.contains(&line) {
                    known.push(line.clone());
                    let engine = self.clone();
                    tasks.spawn(async move { engine.line(line, run, changes_are_seen, forever).await });
                }
            }
            if !forever {
                let mut outcome = Ok(());
                while let Some(ended) = tasks.join_next().await {
                    if let Err(error) = flatten(ended) {
                        outcome = worse(outcome, error);
                    }
                }
                return outcome;
            }
            let again = tokio::time::sleep(if decided { DECIDED } else { UNDECIDED });
            tokio::select! {
                () = again => {}
                Some(ended) = tasks.join_next() => flatten(ended)?,
                () = self.reader.cancel.cancelled() => {
                    while tasks.join_next().await.is_some() {}
                    return Err(SyncError::Stopped);
                }
            }
        }
    }

    /// The lines that a stream needs, and whether every open question about them is answered.
    async fn detect(&self, stream: Stream) -> Result<(Vec<Line>, bool), SyncError> {
        let mut lines = vec![Line::main(stream)];
        let mut decided = true;
        match stream {
            Stream::Contacts => {
                if let Ok(total) = self.reader.client.count(stream, Priority::Tail, &self.reader.cancel).await
                {
                    self.total(stream, total);
                }
            }
            Stream::Messages => {
                if let Ok(total) = self.reader.client.count(stream, Priority::Tail, &self.reader.cancel).await
                {
                    self.total(stream, total);
                }
                let verdict = detect::message_changes(&self.reader).await?;
                self.answer(stream, "order updated_at walks messages by their changes", &verdict).await?;
                decided = !matches!(verdict, Verdict::Undecided(_));
                if matches!(verdict, Verdict::Yes(_)) {
                    lines.push(Line::message_changes());
                }
            }
            Stream::Conversations => {
                if let Ok(total) = self.reader.client.count(stream, Priority::Tail, &self.reader.cancel).await
                {
                    self.total(stream, total);
                }
                let views = detect::conversation_views(&self.reader).await?;
                decided = !views.is_empty();
                for (view, verdict) in views {
                    let question = match &view {
                        View::Closed { .. } => "closed conversations need a request of their own",
                        View::Archived => "archived conversations need a request of their own",
                        View::Default => continue,
                    };
                    self.answer(stream, question, &verdict).await?;
                    if matches!(verdict, Verdict::Yes(_)) {
                        lines.push(Line::new(stream, TimeField::Updated, view));
                    }
                }
            }
        }
        self.reader.health.connected();
        Ok((lines, decided))
    }

    fn total(&self, stream: Stream, total: u64) {
        self.reader.progress.of(stream).total.store(total, std::sync::atomic::Ordering::Relaxed);
    }

    async fn answer(&self, stream: Stream, question: &str, verdict: &Verdict) -> Result<(), SyncError> {
        let before = self.store.put_reading(stream, question, verdict.answer(), verdict.evidence()).await?;
        if before.as_deref() != Some(verdict.answer()) {
            info!(%stream, question, answer = verdict.answer(), evidence = verdict.evidence(), "reading of the API");
        }
        Ok(())
    }

    async fn line(
        &self,
        line: Line,
        run: i64,
        changes_are_seen: bool,
        forever: bool,
    ) -> Result<(), SyncError> {
        let mut retry = RETRY_FIRST;
        let oldest = loop {
            match detect::oldest(&self.reader, &line).await {
                Ok(oldest) => break oldest,
                Err(error) if forever && error.kind() != ErrorKind::Cancelled => {
                    self.reader.health.interrupted(&error);
                    self.sleep(retry).await?;
                    retry = (retry * 2).min(RETRY_MOST);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let errand =
            Errand { line: line.clone(), pass: STANDING.to_owned(), run, priority: Priority::Tail, oldest };
        LineTask::begin(self.clone(), errand, changes_are_seen).await?.work(forever).await
    }

    async fn sleep(&self, time: Duration) -> Result<(), SyncError> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.reader.cancel.cancelled() => Err(SyncError::Stopped),
        }
    }
}

fn flatten(ended: Result<Result<(), SyncError>, tokio::task::JoinError>) -> Result<(), SyncError> {
    match ended {
        Ok(ended) => ended,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(SyncError::Stopped),
        },
    }
}

type Filled = Result<Vec<(Interval, Obstacle)>, SyncError>;

/// A line kept current: ticks at its top, fills below, rechecks beside.
struct LineTask {
    engine: Engine,
    errand: Errand,
    settings: StreamSettings,
    rechecks: Vec<Recheck>,
    wanted_from: Option<DateTime<Utc>>,
    started_at: DateTime<Utc>,
    /// Ticks read down to here; what is below is filled.
    floor: DateTime<Utc>,
    work: JoinSet<Filled>,
    /// Passes in `work`.
    rechecking: Vec<String>,
}

impl LineTask {
    async fn begin(engine: Engine, errand: Errand, changes_are_seen: bool) -> Result<Self, SyncError> {
        let line = &errand.line;
        let settings = engine.settings.streams.of(line.stream).clone();
        let now = engine.reader.server_now();
        let margin = engine.reader.settle_margin;
        let changes = *line == Line::message_changes();
        let wanted_from = if changes {
            // What `date` showed since the fill began is at least that new; later changes lie above.
            let main = engine.store.pass(&Line::main(line.stream).key(STANDING)).await?;
            Some(main.map_or(now, |main| main.started_at) - margin)
        } else {
            settings.history_start
        };
        let state = engine.store.begin_pass(&line.key(STANDING), wanted_from, None, now).await?;
        let wanted_from = if changes { state.wanted_from.min(wanted_from) } else { wanted_from };
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
        })
    }

    async fn work(mut self, forever: bool) -> Result<(), SyncError> {
        if forever { self.keep().await } else { self.once().await }
    }

    async fn once(&mut self) -> Result<(), SyncError> {
        self.tick(None).await?;
        let gaps = self.gaps().await?;
        self.spawn_fill(STANDING, self.errand.run, Priority::History, gaps);
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
                }
                _ = sweep.tick(), if self.work.is_empty() => {
                    let gaps = self.gaps().await?;
                    self.spawn_fill(STANDING, self.errand.run, Priority::History, gaps);
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
            self.spawn_fill(STANDING, self.errand.run, Priority::Tail, vec![rest]);
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

    fn spawn_fill(&mut self, pass: &str, run: i64, priority: Priority, gaps: Vec<Interval>) {
        if gaps.is_empty() {
            return;
        }
        let errand = Errand { pass: pass.to_owned(), run, priority, ..self.errand.clone() };
        if pass == STANDING {
            let progress = self.engine.reader.progress.of(errand.line.stream);
            for gap in &gaps {
                if let Some(start) = gap.start().max(errand.oldest) {
                    progress.want(start, gap.end());
                }
            }
        }
        let engine = self.engine.clone();
        self.work.spawn(async move { Ok(fill::fill(&engine.reader, &errand, gaps, engine.spend).await?) });
    }

    fn ended(&mut self, ended: Result<Filled, tokio::task::JoinError>) -> Result<usize, SyncError> {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(SyncError::Stopped),
            },
        };
        if self.work.is_empty() {
            self.rechecking.clear();
        }
        match ended {
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
            self.spawn_fill(&pass, self.errand.run, Priority::Recheck, gaps);
            self.rechecking.push(pass);
        }
        Ok(())
    }
}
