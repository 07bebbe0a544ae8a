//! One transaction for rows and their proof.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use crate::crash::{self, CrashPoint};
use crate::interval::Interval;

use super::{
    Batch, Lease, LineKey, Store, StoreError,
    availability::Write,
    contradictions, coverage, lease, page_rejects,
    refusal::{Part, Refused},
    rejects, runs,
};

/// Begins a writing transaction. Without the setting, a plan that was made while a table was small scans
/// it once per row, and goes on so, while the table grows to millions, until the next ANALYZE.
const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off";
/// The same, of one that does not wait for the disk.
const BEGIN_ASYNCHRONOUS: &str = "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL synchronous_commit = off";

/// How long a transaction may take, all attempts to find what PostgreSQL refuses included. A server whose machine has
/// vanished sends nothing any more, not even an end of the connection.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of rows that one statement carries, or one row: it is in memory twice more while it is sent.
const STATEMENT_BYTES: usize = 1024 * 1024;

/// How many rows a commit wrote; unchanged and older ones are not written and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub messages: u64,
    pub conversations: u64,
    pub contacts: u64,
    pub rejects: u64,
    /// Rows that PostgreSQL refused; they are among `rejects`.
    pub refused: u64,
    /// Rows that turned up where all rows were proved to be held.
    pub contradictions: u64,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// New messages by COPY, the rest as [`Care::Together`]: the fastest, where nothing comes between.
    Copying,
    /// All of a table at once.
    Together,
    /// So that those which PostgreSQL refuses are found.
    Sifted,
}

impl Store {
    /// Writes `batch` in one transaction: messages, conversations with members, contacts with notes, rejects,
    /// tallies, coverage, each sorted by key, and at the end checks `lease` and its stamp. All of it is kept or
    /// none; the same batch may be committed again after an error.
    ///
    /// A row that PostgreSQL refuses is set aside alone, whole, in the same transaction. A proof for a line
    /// whose pass has ended is dropped; [`Store::begin_pass`] comes before the first.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`] and [`StoreError::ServerRestarted`], which end the lead; [`StoreError::is_transient`]
    /// errors may be tried again; that it took too long (a minute) is among them.
    pub async fn commit(&self, lease: &Lease, batch: &Batch) -> Result<Committed, StoreError> {
        let begun = Instant::now();
        let writing = async {
            match self.write(self.fastest(), lease, batch).await {
                Err(error) if error.is_data() || error.is_duplicate() => {
                    self.write(Care::Sifted, lease, batch).await
                }
                done => done,
            }
        };
        let outcome = match tokio::time::timeout(COMMIT_TIMEOUT, writing).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // The others go the same way.
                self.writing.end();
                Err(StoreError::unanswered("writing rows", COMMIT_TIMEOUT))
            }
        };
        if let Some(stream) = batch.stream() {
            self.availability.note_since(Write::Rows(stream), begun, &outcome);
        }
        outcome
    }

    /// How a transaction with rows begins.
    pub(super) fn begin_rows(&self) -> &'static str {
        if self.synchronous_commit { BEGIN } else { BEGIN_ASYNCHRONOUS }
    }

    /// Over TCP, the end of a COPY would wait up to 40 ms until its data are acknowledged: the client library does not
    /// switch Nagle's algorithm off.
    fn fastest(&self) -> Care {
        if self.over_unix_socket { Care::Copying } else { Care::Together }
    }

    async fn write(&self, care: Care, lease: &Lease, batch: &Batch) -> Result<Committed, StoreError> {
        let begun = || StoreError::query("beginning a transaction");
        // Never closed: a turn is missing only then.
        let _turn = self.turns.acquire().await.ok();
        let mut session = self.writing.session().await.map_err(begun())?;
        let mut transaction = session.connection().begin_with(self.begin_rows()).await.map_err(begun())?;
        let stamp = self.stamps.take(&mut transaction).await?;
        let contradictions = contradictions::note(&mut transaction, &batch.sighted).await?;
        let (mut written, refused, landed) = write_rows(&mut transaction, care, stamp.at(), batch).await?;
        written.contradictions = contradictions;
        let read = batch.rejects.iter().filter(|reject| rejects::is_of_a_row_held(reject, &landed));
        // The refused come last: of two rejects of a row, the later counts.
        let set_aside: Vec<_> = read.chain(&refused.rejects).collect();
        written.rejects = rejects::upsert(&mut transaction, &set_aside).await?;
        written.rejects += page_rejects::upsert(&mut transaction, &batch.pages).await?;
        rejects::resolve(&mut transaction, batch, &refused).await?;
        page_rejects::resolve(&mut transaction, &batch.proofs).await?;
        runs::credit(&mut transaction, &batch.tallies, &written, &refused, batch.conversations.is_empty())
            .await?;
        crash::pass(CrashPoint::RowsWritten);
        for (key, intervals) in by_line(&batch.proofs) {
            coverage::prove(&mut transaction, key, &intervals).await?;
        }
        crash::pass(CrashPoint::BeforeLeaseCheck);
        lease::check(&mut *transaction, lease).await?;
        stamp.check(&mut transaction).await?;
        crash::pass(CrashPoint::BeforeCommit);
        transaction.commit().await.map_err(StoreError::query("committing rows and their proof"))?;
        if batch.bytes() > STATEMENT_BYTES {
            // It would keep buffers for the largest statement that it ever sent.
            session.connection().shrink_buffers();
        }
        self.writing.keep(session);
        Ok(written)
    }
}

/// Writes the rows of `batch` with `stamp`, and returns what was written, what PostgreSQL refused, and the ids of
/// conversations that were written.
pub(super) async fn write_rows(
    connection: &mut PgConnection,
    care: Care,
    stamp: DateTime<Utc>,
    batch: &Batch,
) -> Result<(Committed, Refused, HashSet<i64>), StoreError> {
    let (conversations, messages, contacts) = (batch.conversations(), batch.messages(), batch.contacts());
    let mut written = Committed::default();
    let mut refused = Refused::default();
    let mut landed = HashSet::new();
    // Conversations after messages: their own stream's transactions write them too, and wait for these until they
    // are committed.
    let messages = messages.iter().map(|rows| Part::Messages(rows));
    let conversations = conversations.iter().map(|rows| Part::Conversations(rows));
    let contacts = contacts.iter().map(|rows| Part::Contacts(rows));
    for part in messages.chain(conversations).chain(contacts) {
        let rows = match care {
            Care::Copying => part.copy(connection, stamp, &mut landed).await?,
            Care::Together => part.upsert(connection, stamp, &mut landed).await?,
            Care::Sifted => part.sift(connection, stamp, &mut refused, &mut landed).await?,
        };
        match part {
            Part::Messages(_) => written.messages += rows,
            Part::Conversations(_) => written.conversations += rows,
            Part::Contacts(_) => written.contacts += rows,
        }
    }
    written.refused = refused.rejects.len() as u64;
    Ok((written, refused, landed))
}

/// Proofs of each line, lines in the order in which every writer locks them.
fn by_line(proofs: &[(LineKey, Interval)]) -> BTreeMap<&LineKey, Vec<Interval>> {
    let mut lines = BTreeMap::<_, Vec<_>>::new();
    for (key, interval) in proofs {
        lines.entry(key).or_default().push(*interval);
    }
    lines
}

/// `rows` in order, cut into what one statement each carries; `bytes` tells how much a row takes.
pub(super) fn statements<R>(rows: &[R], bytes: impl Fn(&R) -> usize) -> impl Iterator<Item = &[R]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut taken = 0;
        let fits = |row: &&R| {
            taken += bytes(row);
            taken <= STATEMENT_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (statement, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(statement)
    })
}

/// One column of `rows`, for UNNEST.
pub(super) fn column<R: Copy, C>(rows: &[R], field: impl Fn(R) -> C) -> Vec<C> {
    rows.iter().copied().map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_carries_so_many_bytes_or_one_row() {
        const HALF: usize = STATEMENT_BYTES / 2;
        let cases: [(&[usize], &[usize]); 6] = [
            (&[], &[]),
            (&[1, 2, 3], &[3]),
            (&[HALF, HALF, 1], &[2, 1]),
            (&[3 * HALF], &[1]),
            (&[1, 3 * HALF, 1, 1], &[1, 1, 2]),
            (&[3 * HALF, 3 * HALF], &[1, 1]),
        ];
        for (rows, expected) in cases {
            let found: Vec<_> = statements(rows, |bytes| *bytes).map(<[_]>::len).collect();
            assert_eq!(found, expected, "{rows:?}");
        }
    }
}
