//! One transaction for rows and their proof.

use std::collections::BTreeMap;

use crate::crash::{self, CrashPoint};
use crate::interval::Interval;

use super::{
    Batch, Lease, LineKey, Store, StoreError, availability::Write, contacts, conversations, coverage, lease,
    messages, rejects, runs,
};

/// Begins a writing transaction. Without the setting, a plan that was made while a table was small scans
/// it once per row, and goes on so, while the table grows to millions, until the next ANALYZE.
const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off";

/// How many rows a commit wrote; unchanged and older ones are not written and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    pub messages: u64,
    pub conversations: u64,
    pub contacts: u64,
    pub rejects: u64,
}

impl Store {
    /// Writes `batch` in one transaction: conversations with members, messages, contacts with notes,
    /// rejects, tallies, coverage, each sorted by key, and at the end checks `lease`. All of it is kept or
    /// none; the same batch may be committed again after an error.
    ///
    /// A proof for a line whose pass has ended is dropped; [`Store::begin_pass`] comes before the first.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`]; [`StoreError::is_transient`] errors may be tried again;
    /// [`StoreError::is_data`] errors are due to a row.
    pub async fn commit(&self, lease: &Lease, batch: &Batch) -> Result<Committed, StoreError> {
        let outcome = self.write(lease, batch).await;
        self.availability.note(Write::Rows, &outcome);
        outcome
    }

    async fn write(&self, lease: &Lease, batch: &Batch) -> Result<Committed, StoreError> {
        let mut transaction =
            self.pool.begin_with(BEGIN).await.map_err(StoreError::query("beginning a transaction"))?;
        let conversations = batch.newest_conversations();
        let messages = batch.newest_messages();
        let contacts = batch.newest_contacts();
        let written = Committed {
            conversations: conversations::upsert(&mut transaction, &conversations).await?,
            messages: messages::upsert(&mut transaction, &messages).await?,
            contacts: contacts::upsert(&mut transaction, &contacts).await?,
            rejects: rejects::upsert(&mut transaction, &batch.rejects).await?,
        };
        rejects::resolve(&mut transaction, batch, &messages, &conversations, &contacts).await?;
        runs::credit(&mut transaction, &batch.tallies, &written, batch.conversations.is_empty()).await?;
        crash::pass(CrashPoint::RowsWritten);
        for (key, intervals) in by_line(&batch.proofs) {
            coverage::prove(&mut transaction, key, &intervals).await?;
        }
        crash::pass(CrashPoint::BeforeLeaseCheck);
        lease::check(&mut transaction, lease).await?;
        crash::pass(CrashPoint::BeforeCommit);
        transaction.commit().await.map_err(StoreError::query("committing rows and their proof"))?;
        Ok(written)
    }
}

/// Proofs of each line, lines in the order in which every writer locks them.
fn by_line(proofs: &[(LineKey, Interval)]) -> BTreeMap<&LineKey, Vec<Interval>> {
    let mut lines = BTreeMap::<_, Vec<_>>::new();
    for (key, interval) in proofs {
        lines.entry(key).or_default().push(*interval);
    }
    lines
}

/// One column of `rows`, for UNNEST.
pub(super) fn column<R: Copy, C>(rows: &[R], field: impl Fn(R) -> C) -> Vec<C> {
    rows.iter().copied().map(field).collect()
}
