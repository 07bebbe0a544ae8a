//! One term of leadership: every stream's lines are read to the present, kept there, and filled backwards.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::client::Client;
use crate::api::endpoints::View;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::{Stream, TimeField};
use crate::config::Settings;
use crate::store::{Lease, STANDING, Store, StoreError};
use crate::telemetry;

use super::detect::{self, Verdict};
use super::fill::Spend;
use super::line::Line;
use super::line_task::LineTask;
use super::progress::Progress;
use super::retry::Retries;
use super::walker::{Errand, Reader, WalkError};
use super::writer::{Writer, WriterGone};

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
    pub settings: Arc<Settings>,
    holder: Arc<str>,
    pub spend: Spend,
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
                client: if forever { self.client.patient() } else { self.client.clone() },
                writer,
                progress: Arc::clone(&self.progress),
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
        let retries = Retries::spawn(self.store.clone(), self.lease.clone(), &cancel);
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
        retries.stop().await;
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
        let run = self.start_run(stream, STANDING).await?;
        let outcome = self.lines(stream, run, forever).await;
        let told = match &outcome {
            Ok(()) => "done".to_owned(),
            Err(SyncError::Stopped) => "stopped".to_owned(),
            Err(error) => telemetry::chain(error),
        };
        self.note_end(run, &told).await;
        outcome
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

    /// Keeps a task per line; lines are added as readings are decided.
    async fn lines(&self, stream: Stream, run: i64, forever: bool) -> Result<(), SyncError> {
        let mut known: Vec<Line> = Vec::new();
        let mut tasks = JoinSet::new();
        let mut retry = RETRY_FIRST;
        loop {
            let (lines, decided) = match self.detect(stream).await {
                Ok(found) => found,
                Err(SyncError::Api(error)) if forever => {
                    let error = telemetry::chain(&error);
                    warn!(%stream, error, "the API could not be tested; trying again");
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
        let oldest = match detect::oldest(&self.reader, &line).await {
            Ok(oldest) => oldest,
            Err(error) if error.is_outage() || error.kind() == ErrorKind::Cancelled => {
                return Err(error.into());
            }
            // It only helps to divide the line.
            Err(error) => {
                let (stream, line, error) = (line.stream, line.name(), telemetry::chain(&error));
                warn!(%stream, line, error, "the line's oldest row could not be asked for");
                None
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
