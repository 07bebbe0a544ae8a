//! The lines of one stream: a task for each, and when what they rest on is to be tested again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::model::Stream;
use crate::store::{BACKFILL, STANDING};

use super::ended::EndedLine;
use super::line::Line;
use super::line_task::Duty;
use super::scheduler::{Engine, Oldest, SyncError, worse};

/// How long a test's answer stands at least, however loudly walks doubt it.
const DOUBTS_APART: Duration = Duration::from_secs(60);

pub(super) struct Lines {
    engine: Engine,
    run: i64,
    duty: Duty,
    running: HashMap<Line, CancellationToken>,
    tasks: JoinSet<(Line, Result<(), SyncError>)>,
}

impl Lines {
    pub(super) fn new(engine: Engine, run: i64, duty: Duty) -> Self {
        Self { engine, run, duty, running: HashMap::new(), tasks: JoinSet::new() }
    }

    pub(super) fn has(&self, line: &Line) -> bool {
        self.running.contains_key(line)
    }

    /// Begins the line, unless it runs already.
    pub(super) fn keep(&mut self, line: Line, oldest: Oldest) {
        if self.running.contains_key(&line) {
            return;
        }
        let mut engine = self.engine.clone();
        let stop = engine.reader.cancel.child_token();
        engine.reader.cancel = stop.clone();
        self.running.insert(line, stop);
        let (run, duty) = (self.run, self.duty);
        self.tasks.spawn(async move {
            let ended = engine.line(line, oldest, run, duty).await;
            (line, ended)
        });
    }

    /// Ends backfills of lines that the stream does not need any more: nobody would carry them out.
    pub(super) async fn end_orphans(&self, stream: Stream) -> Result<(), SyncError> {
        let needed: Vec<_> = self.running.keys().map(Line::name).collect();
        for (key, _) in self.engine.store.coverage().await? {
            let is_backfill = key.stream == stream && key.pass.starts_with(BACKFILL);
            if is_backfill && !needed.iter().any(|name| *name == key.line) {
                info!(%stream, line = key.line, pass = key.pass, "dropped: another line shows its rows");
                self.engine.store.end_pass(&self.engine.lease, &key).await?;
            }
        }
        Ok(())
    }

    /// Ends a line of the ledger. Where it had not read its rows yet, the lines that show them now had read past them:
    /// that is withdrawn.
    pub(super) async fn end(&mut self, stream: Stream, ended: &EndedLine) -> Result<(), SyncError> {
        let store = self.engine.store.clone();
        self.stop(&ended.name).await?;
        for heir in &ended.heirs {
            self.stop(&heir.name()).await?;
        }
        let mut coverage = store.coverage().await?;
        coverage.retain(|(key, _)| key.stream == stream && key.line == ended.name);
        let reason = "rows of another line that were not read are on this one now";
        for (key, state) in coverage {
            for heir in &ended.heirs {
                let shown_by = heir.key(&key.pass);
                if key.pass.starts_with(BACKFILL) {
                    let (from, to) = (state.wanted_from, state.wanted_to);
                    store.begin_pass(&self.engine.lease, &shown_by, from, to, state.started_at).await?;
                }
                let shown = store.pass(&shown_by).await?;
                for part in shown.into_iter().flat_map(|shown| shown.covered) {
                    for unread in store.gaps(&key, part).await? {
                        store.withdraw(&self.engine.lease, &shown_by, unread, reason).await?;
                    }
                }
            }
        }
        store.end_line(&self.engine.lease, stream, &ended.name).await?;
        info!(%stream, line = ended.name, reason = ended.reason, "the line ends");
        Ok(())
    }

    /// Stops the line and takes back what it proved since its reading was confirmed last.
    pub(super) async fn withdraw(&mut self, line: &Line, reason: &str) -> Result<(), SyncError> {
        self.stop(&line.name()).await?;
        self.engine.store.withdraw_unconfirmed(&self.engine.lease, &line.key(STANDING), reason).await?;
        Ok(())
    }

    /// Stops the lines of this name, and waits until what they proved is written.
    async fn stop(&mut self, name: &str) -> Result<(), SyncError> {
        for (_, stop) in self.running.iter().filter(|(line, _)| line.name() == name) {
            stop.cancel();
        }
        while self.running.keys().any(|line| line.name() == name)
            && let Some(ended) = self.tasks.join_next().await
        {
            self.ended(ended)?;
        }
        Ok(self.engine.reader.writer.flush().await?)
    }

    /// Watches over the lines for `time`, or until a walk doubts what they rest on.
    pub(super) async fn watch(&mut self, stream: Stream, time: Duration) -> Result<(), SyncError> {
        let cancel = self.engine.reader.cancel.clone();
        let readings = std::sync::Arc::clone(&self.engine.reader.readings);
        let over = async {
            tokio::time::sleep(DOUBTS_APART.min(time)).await;
            // Either way it is time for a test.
            let _ = tokio::time::timeout(time.saturating_sub(DOUBTS_APART), readings.doubted(stream)).await;
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return Ok(()),
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
                () = cancel.cancelled() => {
                    while self.tasks.join_next().await.is_some() {}
                    return Err(SyncError::Stopped);
                }
            }
        }
    }

    /// Waits until every line has ended; the worst outcome of them.
    pub(super) async fn finish(&mut self) -> Result<(), SyncError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = self.ended(ended) {
                outcome = worse(outcome, error);
            }
        }
        outcome
    }

    fn ended(&mut self, ended: Result<(Line, Result<(), SyncError>), JoinError>) -> Result<(), SyncError> {
        let (line, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(SyncError::Stopped),
            },
        };
        let stop = self.running.remove(&line);
        match outcome {
            Err(SyncError::Stopped)
                if stop.is_some_and(|stop| stop.is_cancelled())
                    && !self.engine.reader.cancel.is_cancelled() =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }
}
