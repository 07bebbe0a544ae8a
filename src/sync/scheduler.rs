//! One term of leadership: every stream's lines are read to the present, kept there, and filled backwards.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::client::Client;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::Stream;
use crate::config::Settings;
use crate::crash::{self, CrashPoint};
use crate::store::{BACKFILL, Lease, STANDING, Store, StoreError};
use crate::telemetry;

use super::fill::Spend;
use super::known::Known;
use super::line::Line;
use super::line_task::{Duty, LineTask};
use super::lines::Lines;
use super::progress::Progress;
use super::requests::Requests;
use super::walker::{Errand, Reader, WalkError};
use super::writer::{Writer, WriterGone};

/// When a test that could not be made is tried again.
const UNTESTED: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("stopped")]
    Stopped,
    #[error("the API could not be read")]
    Api(#[source] ApiError),
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
    pub cancel: CancellationToken,
}

/// What the tasks of a term share.
#[derive(Clone)]
pub(super) struct Engine {
    pub reader: Reader,
    pub store: Store,
    pub lease: Lease,
    pub settings: Arc<Settings>,
    holder: Arc<str>,
    pub spend: Spend,
    /// Whether backfills were asked for and are not done.
    pub backfills: watch::Receiver<bool>,
    clock: Arc<OnceCell<()>>,
}

/// The time of a line's oldest row, as far as it was asked for.
#[derive(Clone, Copy)]
pub(super) enum Oldest {
    Unasked,
    /// `None`: it is not known, or of no use.
    Told(Option<DateTime<Utc>>),
}

impl Term {
    /// Keeps the mirror current until cancelled, the lead is lost, or the database refuses for good.
    pub async fn run(self) -> Result<(), SyncError> {
        let streams = self.settings.streams.enabled();
        self.conduct(&streams, Duty::Keep).await
    }

    /// Reads everything that is due once, of `streams` (none: all that are enabled). An error of the API ends it.
    pub async fn catch_up(self, streams: &[Stream]) -> Result<(), SyncError> {
        let streams: Vec<_> = match streams {
            [] => self.settings.streams.enabled(),
            asked => Stream::ALL.into_iter().filter(|stream| asked.contains(stream)).collect(),
        };
        self.conduct(&streams, Duty::CatchUp).await
    }

    /// Carries out the backfills of `stream` that were asked for. An error of the API ends it.
    pub async fn backfill(self, stream: Stream) -> Result<(), SyncError> {
        self.conduct(&[stream], Duty::Backfill).await
    }

    async fn conduct(self, streams: &[Stream], duty: Duty) -> Result<(), SyncError> {
        let api = &self.settings.api;
        // A child, so that an error in one stream ends the others and leaves the caller's token alone.
        let cancel = self.cancel.child_token();
        let known = Arc::<Known>::default();
        let turns = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)));
        let clock = Arc::default();
        let (requests, backfills) = Requests::spawn(self.store.clone(), self.lease.clone(), &cancel);
        let engine = |writer| Engine {
            reader: Reader {
                client: match duty {
                    Duty::Keep => self.client.patient(),
                    Duty::CatchUp | Duty::Backfill => self.client.clone(),
                },
                writer,
                progress: Arc::clone(&self.progress),
                readings: Arc::default(),
                turns: Arc::clone(&turns),
                limit: api.page_size,
                settle_margin: TimeDelta::from_std(self.settings.sync.settle_margin)
                    .unwrap_or(TimeDelta::MAX),
                cancel: cancel.clone(),
            },
            store: self.store.clone(),
            lease: self.lease.clone(),
            settings: Arc::clone(&self.settings),
            holder: self.holder.as_str().into(),
            spend: Spend { requests_per_minute: api.requests_per_minute, max_walkers: api.max_in_flight },
            backfills: backfills.clone(),
            clock: Arc::clone(&clock),
        };
        let mut tasks = JoinSet::new();
        let mut writers = Vec::new();
        for stream in streams.iter().copied() {
            let (writer, written) =
                Writer::spawn(stream, &self.store, &self.lease, &self.progress, &known, &cancel);
            writers.extend(written);
            // When its tasks end, their copies of the way to the writer are gone, and it ends.
            let engine = engine(writer);
            tasks.spawn(async move { engine.stream(stream, duty).await });
        }
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
                // A stream that the API fails, or leaves open, is no reason to leave the others undone.
                if matches!(error, SyncError::Store(_)) {
                    cancel.cancel();
                }
                outcome = worse(outcome, error);
            }
        }
        requests.stop().await;
        let mut refused = Ok(());
        for written in writers {
            match written.await {
                Ok(Err(error)) => refused = refused.and(Err(SyncError::Store(error))),
                Ok(Ok(())) => {}
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
        refused.and(outcome)
    }
}

/// The error worth telling: the first that is not a mere stop.
pub(super) fn worse(outcome: Result<(), SyncError>, error: SyncError) -> Result<(), SyncError> {
    match outcome {
        Ok(()) | Err(SyncError::Stopped) => Err(error),
        told => told,
    }
}

impl Engine {
    async fn stream(&self, stream: Stream, duty: Duty) -> Result<(), SyncError> {
        let pass = if duty == Duty::Backfill { BACKFILL } else { STANDING };
        let run = self.start_run(stream, pass).await?;
        let outcome = self.lines(stream, run, duty).await;
        let told = outcome.as_ref().map_or_else(|error| self.told(error), |()| "done".to_owned());
        self.note_end(run, &told).await;
        outcome
    }

    /// How a run ended that ended with `error`: where the writer failed, that is why.
    pub(super) fn told(&self, error: &SyncError) -> String {
        match (error, self.reader.writer.failure()) {
            (SyncError::Stopped, Some(failure)) => failure,
            (SyncError::Stopped, None) => "stopped".to_owned(),
            (error, _) => telemetry::chain(error),
        }
    }

    pub(super) async fn start_run(&self, stream: Stream, pass: &str) -> Result<i64, SyncError> {
        Ok(self.store.start_run(stream, pass, &self.holder).await?)
    }

    /// The run's end is a note for people: the outcome itself matters more than failing to write it down.
    pub(super) async fn note_end(&self, run: i64, outcome: &str) {
        if let Err(error) = self.store.end_run(run, outcome).await {
            warn!(run, error = telemetry::chain(&error), "the end of the run could not be noted");
        }
    }

    /// Keeps a task per line; which lines there are follows what tests find out about the API.
    async fn lines(&self, stream: Stream, run: i64, duty: Duty) -> Result<(), SyncError> {
        let mut lines = Lines::new(self.clone(), run, duty);
        self.recall_ids(stream).await?;
        let main = Line::main(stream);
        let mut undecided = 0;
        let mut doubted = false;
        let mut confirmed = false;
        loop {
            let surveyed_at = Instant::now();
            let ids = self.reader.readings.of(stream).ids;
            // Most tests find that there is a main line: what it begins with need not wait for them.
            let (surveyed, oldest) = tokio::join!(self.survey(stream, doubted), async {
                if lines.has(&main) || ids.are_members() {
                    return Ok(Oldest::Unasked);
                }
                self.oldest(&main).await.map(Oldest::Told)
            });
            let oldest = oldest?;
            let surveyed = match surveyed {
                Ok(surveyed) => surveyed,
                // Other requests are answered: the line itself need not wait.
                Err(SyncError::Api(error)) if duty == Duty::Keep && !error.is_outage() => {
                    let error = telemetry::chain(&error);
                    warn!(%stream, error, "the API could not be tested; trying again");
                    for line in self.untested(stream) {
                        lines.keep(line, if line == main { oldest } else { Oldest::Unasked });
                    }
                    lines.watch(stream, UNTESTED).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let holds_for = surveyed.holds_for(undecided);
            let unconfirmed = surveyed.is_unconfirmed();
            undecided = if surveyed.is_decided() { 0 } else { undecided + 1 };
            for line in &surveyed.contradicted {
                lines.withdraw(line, "the API reads its documentation differently now").await?;
            }
            for ended in &surveyed.ended {
                lines.end(stream, ended).await?;
            }
            if !surveyed.contradicted.is_empty() {
                crash::pass(CrashPoint::Contradicted);
            }
            self.record(stream, &surveyed).await?;
            // Another id may be what lists any rows.
            let told = self.reader.readings.of(stream).ids == ids;
            for line in &surveyed.lines {
                lines.keep(*line, if *line == main && told { oldest } else { Oldest::Unasked });
            }
            lines.end_orphans(stream).await?;
            if duty == Duty::Keep {
                self.compare_counts(stream, &surveyed.lines).await?;
                lines.watch(stream, holds_for).await?;
            } else {
                let outcome = lines.finish().await;
                if outcome.is_ok() {
                    self.compare_counts(stream, &surveyed.lines).await?;
                }
                let again = !doubted && self.reader.readings.is_doubted(stream);
                if unconfirmed && !std::mem::replace(&mut confirmed, true) {
                    self.rest_until(surveyed_at + self.settings.sync.empty_apart).await?;
                } else if !again {
                    return outcome;
                }
            }
            doubted = true;
        }
    }

    async fn rest_until(&self, at: Instant) -> Result<(), SyncError> {
        tokio::select! {
            () = tokio::time::sleep_until(at) => Ok(()),
            () = self.reader.cancel.cancelled() => Err(SyncError::Stopped),
        }
    }

    pub(super) async fn line(
        &self,
        line: Line,
        oldest: Oldest,
        run: i64,
        duty: Duty,
    ) -> Result<(), SyncError> {
        self.wait_for_member(&line, duty).await?;
        let oldest = match oldest {
            Oldest::Told(oldest) => oldest,
            Oldest::Unasked => self.oldest(&line).await?,
        };
        let errand = Errand { line, pass: STANDING.to_owned(), run, priority: Priority::Tail, oldest };
        LineTask::begin(self.clone(), errand).await?.work(duty).await
    }

    /// Returns once there is a request that lists the line. Until then nothing of it is held, and the ledger shows it.
    async fn wait_for_member(&self, line: &Line, duty: Duty) -> Result<(), SyncError> {
        let can_ask = || self.reader.readings.of(line.stream).ids.can_ask(line);
        if can_ask() {
            return Ok(());
        }
        let from = self.settings.streams.of(line.stream).history_start;
        let (key, now) = (line.key(STANDING), self.reader.server_now());
        self.store.begin_pass(&self.lease, &key, from, None, now).await?;
        while !can_ask() {
            if duty != Duty::Keep {
                return Err(SyncError::Open(1));
            }
            tokio::select! {
                () = self.reader.cancel.cancelled() => return Err(SyncError::Stopped),
                () = tokio::time::sleep(UNTESTED) => {}
            }
        }
        Ok(())
    }

    /// The time of the line's oldest row, as a hint for the fill; not asked for where nothing is to be filled.
    async fn oldest(&self, line: &Line) -> Result<Option<DateTime<Utc>>, SyncError> {
        // Changes are wanted from a time on that is younger than the line.
        if *line == Line::message_changes() {
            return Ok(None);
        }
        let held = self.store.pass(&line.key(STANDING)).await?;
        let complete = held.is_some_and(|state| match state.covered.as_slice() {
            [whole] => whole.start() <= state.wanted_from,
            _ => false,
        });
        if complete { Ok(None) } else { self.ask_oldest(line).await }
    }

    /// Sees to it that the server's time is known. Where nothing has to be asked before the first tick, one row is, once
    /// for all lines: by our own clock, a tick could begin above what can be proved.
    pub(super) async fn learn_clock(&self, line: &Line) -> Result<(), SyncError> {
        let learn = async || match self.reader.client.skew() {
            Some(_) => Ok(()),
            None => self.ask_oldest(line).await.map(drop),
        };
        self.clock.get_or_try_init(learn).await.map(drop)
    }

    pub(super) async fn ask_oldest(&self, line: &Line) -> Result<Option<DateTime<Utc>>, SyncError> {
        let ids = self.reader.readings.of(line.stream).ids;
        match self.reader.probe(&ids).oldest(line).await {
            Ok(oldest) => Ok(oldest),
            Err(error) if error.is_outage() || error.kind() == ErrorKind::Cancelled => Err(error.into()),
            // It only helps to divide the line.
            Err(error) => {
                let (stream, line, error) = (line.stream, line.name(), telemetry::chain(&error));
                warn!(%stream, line = &*line, error, "the line's oldest row could not be asked for");
                Ok(None)
            }
        }
    }
}
