//! Another try at rejects: asked for by anyone, carried out by whoever leads.

use bytes::Bytes;

use crate::api::model::{Rows, Stream};

use super::{
    Batch, Lease, Store, StoreError,
    commit::{COMMIT_TIMEOUT, Care, write_rows},
    lease,
};

/// Rejects that are taken up together: so many, and the first of them or all within so many bytes.
const MAX_TAKEN: i64 = 100;
const MAX_TAKEN_BYTES: i64 = 8 * 1024 * 1024;

/// A reject that waits for another try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    pub id: i64,
    pub stream: Stream,
    pub partial: bool,
    pub payload: Bytes,
    /// As it was counted when the payload was read.
    times: i64,
}

/// How retries that were asked for ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOutcome {
    pub resolved: usize,
    /// Number of each that is still open, and why.
    pub open: Vec<(i64, String)>,
}

impl Store {
    /// Asks for another try at the open rejects with these numbers, or all (`None`), and returns the numbers of
    /// those that were found. Whole pages are not among them: the daemon asks the API for them again by itself; nor are
    /// those whose bytes were not kept ([`Store::rejects_not_kept`]).
    pub async fn request_retries(&self, ids: Option<&[i64]>) -> Result<Vec<i64>, StoreError> {
        sqlx::query_scalar!(
            "UPDATE heymarket_sync.rejects SET retry_requested_at = coalesce(retry_requested_at, now())
             WHERE resolved_at IS NULL AND line IS NULL AND cut_bytes IS NULL
               AND ($1::bigint[] IS NULL OR id = ANY ($1))
             RETURNING id",
            ids as _,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("asking for a retry"))
    }

    /// The numbers of open rejects whose bytes were not kept, so that they cannot be tried again: of these, or of all
    /// (`None`).
    pub async fn rejects_not_kept(&self, ids: Option<&[i64]>) -> Result<Vec<i64>, StoreError> {
        sqlx::query_scalar!(
            "SELECT id FROM heymarket_sync.rejects
             WHERE resolved_at IS NULL AND cut_bytes IS NOT NULL AND ($1::bigint[] IS NULL OR id = ANY ($1))
             ORDER BY id",
            ids as _,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("looking for rejects that were not kept"))
    }

    /// How many of the rejects `ids` still wait for their try.
    pub async fn waiting_retries(&self, ids: &[i64]) -> Result<usize, StoreError> {
        let waiting = sqlx::query_scalar!(
            r#"SELECT count(*) AS "waiting!" FROM heymarket_sync.rejects
               WHERE retry_requested_at IS NOT NULL AND id = ANY ($1)"#,
            ids,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("looking for retries"))?;
        Ok(usize::try_from(waiting).unwrap_or_default())
    }

    /// Which of the rejects `ids` are resolved, and which are not, by ascending number.
    pub async fn retry_outcome(&self, ids: &[i64]) -> Result<RetryOutcome, StoreError> {
        let open = sqlx::query!(
            "SELECT id, reason FROM heymarket_sync.rejects
             WHERE resolved_at IS NULL AND id = ANY ($1) ORDER BY id",
            ids,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("looking for what became of retries"))?;
        let open: Vec<_> = open.into_iter().map(|row| (row.id, row.reason)).collect();
        Ok(RetryOutcome { resolved: ids.len() - open.len().min(ids.len()), open })
    }

    /// The next rejects that wait for another try; a bounded number of bounded size.
    pub async fn requested_retries(&self) -> Result<Vec<Requested>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT id AS "id!", stream AS "stream!", partial AS "partial!", payload AS "payload!",
                   times AS "times!"
            FROM (
                SELECT *, row_number() OVER (ORDER BY id) AS position,
                       sum(octet_length(payload)) OVER (ORDER BY id) AS bytes
                FROM (
                    SELECT id, stream, partial, payload, times FROM heymarket_sync.rejects
                    WHERE retry_requested_at IS NOT NULL AND resolved_at IS NULL
                    ORDER BY id LIMIT $1
                ) waiting
            ) counted
            WHERE position = 1 OR bytes <= $2
            ORDER BY id
            "#,
            MAX_TAKEN,
            MAX_TAKEN_BYTES,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("looking for retries"))?;
        rows.into_iter()
            .map(|row| {
                let stream =
                    row.stream.parse().map_err(|_| StoreError::UnknownStream { name: row.stream })?;
                let payload = row.payload.into();
                Ok(Requested { id: row.id, stream, partial: row.partial, payload, times: row.times })
            })
            .collect()
    }

    /// Writes what was read of `tried` this time, never over a newer version, and resolves those that are
    /// readable now; of the others it notes why not. One transaction; nothing is kept where one of the rejects
    /// was set aside anew meanwhile: it waits on, with its new payload.
    ///
    /// # Errors
    /// As of [`Store::commit`].
    pub async fn settle_retries(
        &self,
        lease: &Lease,
        tried: Vec<(Requested, Rows)>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut verdicts = Vec::new();
        for (request, mut rows) in tried {
            verdicts.push(Verdict::of(request.id, request.times, request.stream, &rows));
            // What else the row brought has rejects of its own.
            rows.rejects.clear();
            if request.stream == Stream::Conversations && !request.partial {
                // It may have come embedded in a message: then it may not overwrite an equal version.
                rows.embedded.append(&mut rows.conversations);
            }
            batch.push(rows);
        }
        let settling = async {
            match self.settle_with(Care::Together, lease, &batch, &verdicts).await {
                Err(error) if error.is_data() => {
                    self.settle_with(Care::Sifted, lease, &batch, &verdicts).await
                }
                done => done,
            }
        };
        let late = |_| Err(StoreError::unanswered("noting what became of retries", COMMIT_TIMEOUT));
        tokio::time::timeout(COMMIT_TIMEOUT, settling).await.unwrap_or_else(late)
    }

    async fn settle_with(
        &self,
        care: Care,
        lease: &Lease,
        batch: &Batch,
        verdicts: &[Verdict],
    ) -> Result<(), StoreError> {
        let failed = || StoreError::query("noting what became of retries");
        let mut transaction = self
            .pool
            .begin_with(self.begin_rows())
            .await
            .map_err(StoreError::query("beginning a transaction"))?;
        let stamp = self.stamps.take(transaction.connection()).await?;
        let (_, refused, _) = write_rows(transaction.connection(), care, stamp.at(), batch).await?;
        let (reasons, partials): (Vec<_>, Vec<_>) = verdicts
            .iter()
            .map(|verdict| {
                let refusal = verdict.row.and_then(|(stream, id)| refused.reason(stream, id));
                let landed = verdict.row.is_some() && refusal.is_none();
                (refusal.or(verdict.reason.as_deref()), landed)
            })
            .unzip();
        let ids: Vec<_> = verdicts.iter().map(|verdict| verdict.id).collect();
        let times: Vec<_> = verdicts.iter().map(|verdict| verdict.times).collect();
        // In the order in which every writer locks them.
        let unchanged = sqlx::query_scalar!(
            "SELECT r.id FROM heymarket_sync.rejects r
             JOIN unnest($1::bigint[], $2::bigint[]) AS i (id, times) ON i.id = r.id AND i.times = r.times
             WHERE r.resolved_at IS NULL
             ORDER BY r.stream, r.identity FOR UPDATE OF r",
            &ids,
            &times,
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed())?;
        if unchanged.len() != ids.len() {
            return transaction.rollback().await.map_err(failed());
        }
        sqlx::query!(
            "UPDATE heymarket_sync.rejects r
             SET retry_requested_at = NULL, reason = coalesce(i.reason, r.reason),
                 partial = CASE WHEN i.reason IS NULL THEN r.partial ELSE i.landed END,
                 resolved_at = CASE WHEN i.reason IS NULL THEN now() END
             FROM unnest($1::bigint[], $2::text[], $3::boolean[]) AS i (id, reason, landed)
             WHERE r.id = i.id",
            &ids,
            reasons as _,
            &partials,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        stamp.check(transaction.connection()).await?;
        transaction.commit().await.map_err(failed())
    }
}

/// What this try made of a reject.
struct Verdict {
    id: i64,
    times: i64,
    /// The row that was read.
    row: Option<(Stream, i64)>,
    /// Why it stays open; none if all of it could be read.
    reason: Option<String>,
}

impl Verdict {
    fn of(id: i64, times: i64, stream: Stream, rows: &Rows) -> Self {
        let row = match stream {
            Stream::Messages => rows.messages.first().map(|row| row.id),
            Stream::Conversations => rows.conversations.first().map(|row| row.id),
            Stream::Contacts => rows.contacts.first().map(|row| row.id),
        };
        let unread = rows.rejects.iter().find(|reject| reject.stream == stream);
        Self {
            id,
            times,
            row: row.map(|id| (stream, id)),
            reason: unread.map(|reject| reject.reason.clone()),
        }
    }
}
