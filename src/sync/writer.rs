//! A stream's writer: takes what has queued and commits it, rows and proof together.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::client::Share;
use crate::api::model::{Rows, Stream};
use crate::clock;
use crate::crash::{self, CrashPoint};
use crate::interval::Interval;
use crate::store::{Batch, Committed, Lease, LineKey, Sighted, Store, StoreError, Tally, UnreadablePage};

use super::known::Known;
use super::progress::Progress;

/// Pages of one walk that may be asked for, or wait for the database, at once: one is asked while the one before
/// is written. A process that is killed has at most these to ask again.
pub const UNWRITTEN_PAGES: usize = 2;
/// Transactions of a stream that may be open at once: while one is prepared, or ends, the database works on another.
const LANES: usize = 2;
/// Pages that may wait for the database in each lane; walkers wait beyond that.
const QUEUE_PAGES: usize = 16;
/// Pages that wait while the writer keeps up: those that came during one transaction of each lane.
const BEHIND_PAGES: usize = 4;
/// Rows after which a transaction takes no further page.
const BATCH_ROWS: usize = 1_000;
/// Bytes of rows after which it takes none.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// One page on its way to the database.
#[derive(Debug)]
pub struct Page {
    pub stream: Stream,
    pub run: i64,
    pub rows: Rows,
    pub sighted: Sighted,
    pub proofs: Vec<(LineKey, Interval)>,
    /// The page's share of [`UNWRITTEN_PAGES`], given back once it is committed.
    pub unwritten: OwnedSemaphorePermit,
    /// What its body takes of the memory for bodies, given back once it is committed.
    pub room: Option<Share>,
}

enum Work {
    Page(Box<Page>),
    Unreadable(Box<UnreadablePage>),
    Flush(oneshot::Sender<()>),
}

/// The way to the writer. When the last one is dropped, the writer commits what has queued and ends.
///
/// A page proves what it brings together with what the pages before it on its walk brought, so those of one walk
/// take one lane, in which pages are committed in the order in which they are handed over.
#[derive(Clone)]
pub struct Writer {
    lanes: [mpsc::Sender<Work>; LANES],
    lane: usize,
    known: Arc<Known>,
    failure: Arc<OnceLock<String>>,
}

/// The writer has ended; its join handle tells why.
#[derive(Debug, thiserror::Error)]
#[error("the writer has ended")]
pub struct WriterGone;

impl Writer {
    /// Starts the writer of a stream; `known` is shared by all of a term. Its tasks end with an error only where trying
    /// again cannot help (the lead is lost, the database refuses), or where they are cancelled while the database is
    /// away.
    pub(super) fn spawn(
        stream: Stream,
        store: &Store,
        lease: &Lease,
        progress: &Arc<Progress>,
        known: &Arc<Known>,
        cancel: &CancellationToken,
    ) -> (Self, Vec<JoinHandle<Result<(), StoreError>>>) {
        let mut tasks = Vec::with_capacity(LANES);
        let failure = Arc::<OnceLock<String>>::default();
        let lanes = std::array::from_fn(|_| {
            let (lane, work) = mpsc::channel(QUEUE_PAGES);
            let task = Task {
                stream,
                store: store.clone(),
                lease: lease.clone(),
                progress: Arc::clone(progress),
                known: Arc::clone(known),
                cancel: cancel.clone(),
                failure: Arc::clone(&failure),
            };
            tasks.push(tokio::spawn(task.run(work)));
            lane
        });
        (Self { lanes, lane: 0, known: Arc::clone(known), failure }, tasks)
    }

    /// The same writer, for the walk of this number among those that go on at once.
    pub fn for_walk(&self, walk: usize) -> Self {
        Self { lane: walk % LANES, ..self.clone() }
    }

    /// Why the writer has ended, where it failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// Whether this version of the conversation, or a newer one, has been committed; `false` where it is not known.
    pub fn has_conversation(&self, id: i64, updated: Option<DateTime<Utc>>) -> bool {
        self.known.is_held(id, updated)
    }

    /// Whether pages wait for the database: more walkers would only make more of them wait.
    pub fn is_behind(&self) -> bool {
        let waiting = |lane: &mpsc::Sender<Work>| lane.max_capacity() - lane.capacity();
        self.lanes.iter().map(waiting).sum::<usize>() >= BEHIND_PAGES
    }

    /// Hands over a page; waits while the lane's queue is full.
    pub async fn page(&self, page: Page) -> Result<(), WriterGone> {
        self.send(self.lane, Work::Page(Box::new(page))).await
    }

    /// Hands over a page that was no list of rows, to be set aside.
    pub async fn unreadable(&self, page: UnreadablePage) -> Result<(), WriterGone> {
        self.send(self.lane, Work::Unreadable(Box::new(page))).await
    }

    /// Returns when all pages handed over before, in any lane, are committed.
    pub async fn flush(&self) -> Result<(), WriterGone> {
        let mut committing = Vec::with_capacity(LANES);
        for lane in 0..LANES {
            let (done, committed) = oneshot::channel();
            self.send(lane, Work::Flush(done)).await?;
            committing.push(committed);
        }
        for committed in committing {
            committed.await.map_err(|_| WriterGone)?;
        }
        Ok(())
    }

    async fn send(&self, lane: usize, work: Work) -> Result<(), WriterGone> {
        self.lanes[lane].send(work).await.map_err(|_| WriterGone)
    }
}

struct Task {
    stream: Stream,
    store: Store,
    lease: Lease,
    progress: Arc<Progress>,
    known: Arc<Known>,
    cancel: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Task {
    async fn run(self, mut work: mpsc::Receiver<Work>) -> Result<(), StoreError> {
        while let Some(first) = work.recv().await {
            let mut batch = Batch::default();
            let mut flushes = Vec::new();
            let mut streams = Vec::new();
            let mut unwritten = Vec::new();
            let (mut rows, mut bytes) = (0, 0);
            let mut next = Some(first);
            while let Some(work_item) = next.take() {
                match work_item {
                    Work::Flush(done) => flushes.push(done),
                    Work::Unreadable(page) => batch.pages.push(*page),
                    Work::Page(mut page) => {
                        self.known.reduce(&mut page.rows);
                        rows += page.rows.elements.max(1);
                        bytes += page.rows.bytes();
                        streams.push(page.stream);
                        self.count(&page);
                        batch.tallies.push(tally(&page));
                        batch.proofs.extend(page.proofs);
                        batch.sight(page.sighted);
                        unwritten.push((page.unwritten, page.room));
                        batch.push(page.rows);
                    }
                }
                if rows < BATCH_ROWS && bytes < BATCH_BYTES {
                    next = work.try_recv().ok();
                }
            }
            if !streams.is_empty() || !batch.pages.is_empty() {
                crash::pass(CrashPoint::PageQueued);
                let held = Known::held(&batch);
                let committed = match self.commit(batch).await {
                    Ok(committed) => committed,
                    Err(error) => {
                        // The other lane may have failed before.
                        let _ = self.failure.set(crate::telemetry::chain(&error));
                        // Whoever uses the other lane would not notice.
                        self.cancel.cancel();
                        return Err(error);
                    }
                };
                if committed.refused == 0 {
                    self.known.remember(held);
                }
                crash::pass(CrashPoint::AfterCommit);
                drop(unwritten);
                for stream in streams {
                    self.progress.of(stream).committed(clock::now());
                }
            }
            for done in flushes {
                // Nobody waits any longer: nothing is lost by that.
                let _ = done.send(());
            }
        }
        Ok(())
    }

    fn count(&self, page: &Page) {
        let progress = self.progress.of(page.stream);
        progress.requests.fetch_add(1, Relaxed);
        progress.rows_read.fetch_add(page.rows.elements as u64, Relaxed);
        progress.rejected.fetch_add(page.rows.rejects.len() as u64, Relaxed);
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let mut delay = RETRY_FIRST;
        // The state last told of, none without a server's word; another one is told anew.
        let mut failing: Option<Option<String>> = None;
        loop {
            match self.store.commit(&self.lease, &batch).await {
                Ok(committed) => {
                    if failing.is_some() {
                        info!(stream = %self.stream, "the database takes writes again");
                    }
                    let written = [
                        (Stream::Messages, committed.messages),
                        (Stream::Conversations, committed.conversations),
                        (Stream::Contacts, committed.contacts),
                    ];
                    for (stream, rows) in written {
                        self.progress.of(stream).rows_written.fetch_add(rows, Relaxed);
                    }
                    if committed.contradictions > 0 {
                        let rows = committed.contradictions;
                        self.progress.of(self.stream).contradictions.fetch_add(rows, Relaxed);
                        warn!(
                            stream = %self.stream,
                            rows,
                            "rows turned up where all rows were proved to be held: they contradict the coverage"
                        );
                    }
                    if committed.refused > 0 {
                        let rows = committed.refused;
                        warn!(
                            rows,
                            "PostgreSQL refused rows, which were set aside; see `heymarket-sync rejects`"
                        );
                    }
                    debug!(?written, "committed");
                    return Ok(committed);
                }
                Err(error) if error.is_transient() && !self.cancel.is_cancelled() => {
                    let state = Some(error.sqlstate().map(str::to_owned));
                    if failing != state {
                        let error = crate::telemetry::chain(&error);
                        warn!(stream = %self.stream, error, "the database refused a write; trying again");
                    }
                    failing = state;
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = self.cancel.cancelled() => return Err(error),
                    }
                    delay = (delay * 2).min(RETRY_MOST);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn tally(page: &Page) -> Tally {
    Tally {
        run: page.run,
        requests: 1,
        rows_read: page.rows.elements as i64,
        rejected: page.rows.rejects.len() as i64,
    }
}
