//! Rows, or parts of rows, that could not be read: set aside as they came.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::api::model::{Reject, Stream, Version};

use super::{
    Batch, Store, StoreError,
    commit::{column, statements},
    refusal::Refused,
};

/// How many rejects are listed at once.
const LISTED: i64 = 500;
/// The most bytes that the payloads of open rejects take: 1 GiB, less room for the few pages set aside.
const MOST_OPEN_BYTES: i64 = 1008 * 1024 * 1024;
/// The most that they take while transactions add to them at one time.
const SHARED_BYTES: i64 = MOST_OPEN_BYTES / 4;
/// The advisory lock of transactions that add to them.
const TURNS: i64 = 0x6865_796d_0001;
/// Ends the reason of a reject whose payload was left out.
pub(super) const NOT_KEPT: &str = "; its bytes were not kept, since the open rejects take 1 GiB";
/// How long a resolved reject is kept.
const KEPT_RESOLVED: TimeDelta = TimeDelta::days(30);
/// The most resolved rejects that one statement deletes.
const DELETED_AT_ONCE: i64 = 1_000;

/// A reject without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldReject {
    pub id: i64,
    pub stream: String,
    pub source_id: Option<String>,
    pub partial: bool,
    pub reason: String,
    /// How many bytes came.
    pub bytes: i64,
    /// Whether they were kept.
    pub kept: bool,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    pub times: i64,
    pub resolved_at: Option<DateTime<Utc>>,
    pub retry_requested_at: Option<DateTime<Utc>>,
}

impl Store {
    /// The rejects after number `after`, by ascending number, the next few hundred of them; empty at the end.
    /// Of one stream, or of all; open ones, or resolved ones too (`all`).
    pub async fn list_rejects(
        &self,
        after: i64,
        stream: Option<Stream>,
        all: bool,
    ) -> Result<Vec<HeldReject>, StoreError> {
        sqlx::query_as!(
            HeldReject,
            r#"SELECT id, stream, source_id, partial, reason, coalesce(cut_bytes, octet_length(payload)) AS "bytes!",
                      cut_bytes IS NULL AS "kept!", first_seen, last_seen, times, resolved_at,
                      retry_requested_at
               FROM heymarket_sync.rejects
               WHERE id > $1 AND ($2::text IS NULL OR stream = $2) AND ($3 OR resolved_at IS NULL)
               ORDER BY id LIMIT $4"#,
            after,
            stream.map(Stream::name),
            all,
            LISTED,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("listing rejects"))
    }

    /// The reject with number `id`, and its payload as it came; empty if it was not kept.
    pub async fn reject(&self, id: i64) -> Result<Option<(HeldReject, Vec<u8>)>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT id, stream, source_id, partial, reason, payload,
                      coalesce(cut_bytes, octet_length(payload)) AS "bytes!", cut_bytes IS NULL AS "kept!",
                      first_seen, last_seen, times, resolved_at, retry_requested_at
               FROM heymarket_sync.rejects WHERE id = $1"#,
            id,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("reading a reject"))?;
        Ok(row.map(|row| {
            let held = HeldReject {
                id: row.id,
                stream: row.stream,
                source_id: row.source_id,
                partial: row.partial,
                reason: row.reason,
                bytes: row.bytes,
                kept: row.kept,
                first_seen: row.first_seen,
                last_seen: row.last_seen,
                times: row.times,
                resolved_at: row.resolved_at,
                retry_requested_at: row.retry_requested_at,
            };
            (held, row.payload)
        }))
    }

    /// How many rejects of each stream are open; streams without any are left out. Takes no longer where there are
    /// millions: they are counted as they come and go.
    pub async fn open_rejects(&self) -> Result<BTreeMap<Stream, u64>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT stream, sum(open)::bigint AS "open!" FROM heymarket_sync.reject_counts
               GROUP BY stream HAVING sum(open) > 0"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("counting rejects"))?;
        rows.into_iter()
            .map(|row| {
                let stream =
                    row.stream.parse().map_err(|_| StoreError::UnknownStream { name: row.stream })?;
                Ok((stream, row.open.unsigned_abs()))
            })
            .collect()
    }

    /// Deletes rejects that were resolved 30 days ago or earlier, a thousand at most; returns whether that was all of
    /// them. One lookup in an index where there are none.
    pub async fn delete_old_rejects(&self) -> Result<bool, StoreError> {
        // Those that another transaction writes right now are not waited for.
        let deleted = sqlx::query!(
            "DELETE FROM heymarket_sync.rejects
             WHERE id = ANY (ARRAY(
                 SELECT id FROM heymarket_sync.rejects WHERE resolved_at < now() - make_interval(secs => $1)
                 ORDER BY resolved_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
            KEPT_RESOLVED.as_seconds_f64(),
            DELETED_AT_ONCE,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("deleting old rejects"))?;
        Ok(deleted.rows_affected() < DELETED_AT_ONCE.unsigned_abs())
    }
}

/// Whether what `reject` says is true of a row held: a partial one of an embedded conversation, only where that landed.
pub(super) fn is_of_a_row_held(reject: &Reject, landed: &HashSet<i64>) -> bool {
    let id = reject.source_id.as_ref().and_then(|id| id.parse().ok());
    !(reject.partial && reject.embedded) || id.is_some_and(|id| landed.contains(&id))
}

/// Sets `rejects` aside: one row per source id, or per payload where the id is unknown, with the payload and reason
/// of the newest version, the latest of several such. What is known to be older than the row held is kept as resolved,
/// and in place of no open reject. What is there already, unchanged, is not written. Where the payloads of open rejects
/// would take more than [`MOST_OPEN_BYTES`], a payload is left out. Comes after the rows themselves. Returns how many
/// rows that wrote.
pub(super) async fn upsert(connection: &mut PgConnection, rejects: &[&Reject]) -> Result<u64, StoreError> {
    if rejects.is_empty() {
        return Ok(0);
    }
    let rejects = newest(rejects);
    take_turns(connection, rejects.iter().map(|reject| reject.payload.len() as i64).sum()).await?;
    let mut written = 0;
    for rejects in statements(&rejects, |reject| reject.payload.len() + reject.reason.len()) {
        written += upsert_together(connection, rejects).await?;
    }
    Ok(written)
}

/// One reject per row in the order in which every writer locks them, that of the newest version.
fn newest<'a>(rejects: &[&'a Reject]) -> Vec<&'a Reject> {
    let mut newest = HashMap::with_capacity(rejects.len());
    for reject in rejects.iter().copied() {
        let row = match &reject.source_id {
            Some(id) => (reject.stream.name(), id.as_bytes(), true),
            None => (reject.stream.name(), &reject.payload[..], false),
        };
        newest
            .entry(row)
            .and_modify(|kept: &mut &Reject| {
                if reject.version.against(kept.version) != Ordering::Less {
                    *kept = reject;
                }
            })
            .or_insert(reject);
    }
    let mut newest: Vec<_> = newest.into_values().collect();
    newest.sort_by_key(|reject| {
        (reject.stream.name(), reject.source_id.is_none(), reject.source_id.as_deref())
    });
    newest
}

/// Waits until this transaction may add `bytes` of payloads: one that could come near the bound is alone, so that it sees
/// what the others added.
async fn take_turns(connection: &mut PgConnection, bytes: i64) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        SELECT CASE WHEN open.bytes + $1 <= $2
               THEN pg_advisory_xact_lock_shared($3)::text
               ELSE pg_advisory_xact_lock($3)::text END AS turn
        FROM (SELECT coalesce(sum(open_bytes), 0)::bigint AS bytes FROM heymarket_sync.reject_counts) open
        "#,
        bytes,
        SHARED_BYTES,
        TURNS,
    )
    .fetch_optional(connection)
    .await
    .map_err(StoreError::query("waiting to set rejects aside"))?;
    Ok(())
}

async fn upsert_together(connection: &mut PgConnection, rejects: &[&Reject]) -> Result<u64, StoreError> {
    let ids = column(rejects, |reject| reject.source_id.as_ref().and_then(|id| id.parse::<i64>().ok()));
    // The OFFSET keeps what is found out of each reject from being found out again wherever it is used.
    let written = sqlx::query!(
        r#"
        INSERT INTO heymarket_sync.rejects AS held (
            stream, source_id, partial, reason, payload, cut_bytes, cut_sha256, rev, updated, resolved_at)
        SELECT n.stream, n.source_id, n.partial,
               CASE WHEN n.fits THEN n.reason ELSE n.reason || $11 END,
               CASE WHEN n.fits THEN n.payload ELSE '' END,
               CASE WHEN NOT n.fits THEN octet_length(n.payload) END,
               CASE WHEN NOT n.fits THEN sha256(n.payload) END,
               n.rev, n.updated, CASE WHEN n.superseded THEN now() END
        FROM (
            SELECT c.*, c.growth = 0 OR sum(c.growth) OVER (ORDER BY c.position) <= c.free AS fits
            FROM (
                SELECT i.*, greatest(octet_length(i.payload) - coalesce(h.open_bytes, 0), 0) AS growth
                FROM (
                    SELECT u.*, coalesce('id ' || u.source_id, 'sha256 ' || encode(sha256(u.payload), 'hex'))
                               AS identity,
                           EXISTS (
                               SELECT FROM heymarket.messages m
                               WHERE u.stream = 'messages' AND m.id = u.id
                                 AND NOT heymarket_sync.supersedes(NULL, u.updated, NULL, m.updated, true)
                               UNION ALL
                               SELECT FROM heymarket.conversations m
                               WHERE u.stream = 'conversations' AND m.id = u.id
                                 AND NOT heymarket_sync.supersedes(
                                     NULL, u.updated, NULL, m.updated, u.partial OR NOT u.embedded)
                               UNION ALL
                               SELECT FROM heymarket.contacts m
                               WHERE u.stream = 'contacts' AND m.id = u.id
                                 AND NOT heymarket_sync.supersedes(u.rev, u.updated, m.rev, m.updated, true)
                           ) AS superseded,
                           (SELECT $10 - coalesce(sum(s.open_bytes), 0) FROM heymarket_sync.reject_counts s)
                               AS free
                    FROM unnest($1::text[], $2::text[], $3::boolean[], $4::boolean[], $5::text[], $6::bytea[],
                                $7::bigint[], $8::timestamptz[], $9::bigint[])
                         WITH ORDINALITY AS u (
                             stream, source_id, partial, embedded, reason, payload, rev, updated, id, position)
                    OFFSET 0
                ) i
                LEFT JOIN LATERAL (
                    SELECT r.*, r.resolved_at IS NULL AS is_open,
                           CASE WHEN r.resolved_at IS NULL THEN octet_length(r.payload) END AS open_bytes
                    FROM heymarket_sync.rejects r
                    WHERE r.stream = i.stream AND r.identity = i.identity LIMIT 1
                ) h ON true
                WHERE h.id IS NULL
                   OR NOT (i.superseded AND h.is_open)
                  AND heymarket_sync.supersedes(i.rev, i.updated, h.rev, h.updated, true)
                  AND (NOT (i.superseded OR h.is_open)
                       OR (i.partial, i.rev, i.updated) IS DISTINCT FROM (h.partial, h.rev, h.updated)
                       OR CASE WHEN h.cut_sha256 IS NULL
                          THEN i.reason <> h.reason OR i.payload <> h.payload
                          ELSE i.reason || $11 <> h.reason OR sha256(i.payload) <> h.cut_sha256
                               OR octet_length(i.payload) <= i.free END)
            ) c
        ) n
        ORDER BY n.stream, n.identity
        ON CONFLICT (stream, identity) DO UPDATE
        SET partial = excluded.partial, reason = excluded.reason, payload = excluded.payload,
            cut_bytes = excluded.cut_bytes, cut_sha256 = excluded.cut_sha256,
            last_seen = excluded.last_seen, times = held.times + 1,
            resolved_at = CASE WHEN excluded.resolved_at IS NOT NULL THEN held.resolved_at END,
            rev = excluded.rev, updated = excluded.updated
        WHERE (excluded.resolved_at IS NULL OR held.resolved_at IS NOT NULL)
          AND heymarket_sync.supersedes(excluded.rev, excluded.updated, held.rev, held.updated, true)
        "#,
        column(rejects, |reject| reject.stream.name()) as _,
        column(rejects, |reject| reject.source_id.as_deref()) as _,
        &column(rejects, |reject| reject.partial),
        &column(rejects, |reject| reject.embedded),
        column(rejects, |reject| reject.reason.as_str()) as _,
        column(rejects, |reject| &reject.payload[..]) as _,
        column(rejects, |reject| reject.version.rev) as _,
        column(rejects, |reject| reject.version.updated) as _,
        ids as _,
        MOST_OPEN_BYTES as _,
        NOT_KEPT,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("setting rejects aside"))?;
    Ok(written.rows_affected())
}

/// Resolves the rejects of rows that this batch brought readable, where the version held is the one that
/// it brought, and not older than the one refused. Embedded conversations resolve nothing: they may be shorter than the row itself.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    batch: &Batch,
    refused: &Refused,
) -> Result<(), StoreError> {
    let streams = Stream::ALL.map(Stream::name);
    let open = sqlx::query_scalar!(
        r#"SELECT s AS "stream!" FROM unnest($1::text[]) AS s
           WHERE EXISTS (
               SELECT FROM heymarket_sync.rejects r
               WHERE r.stream = s AND r.source_id IS NOT NULL AND r.resolved_at IS NULL
                 AND r.line IS NULL)"#,
        streams.as_slice() as _,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::query("looking for open rejects"))?;
    for stream in Stream::ALL.into_iter().filter(|stream| open.iter().any(|name| name == stream.name())) {
        let mut rows: Vec<(i64, Version)> = match stream {
            Stream::Messages => batch.messages().concat().iter().map(|row| (row.id, row.version())).collect(),
            Stream::Conversations => {
                let rows = batch.conversations().concat();
                let listed = rows.iter().filter(|(_, embedded)| !embedded);
                listed.map(|(row, _)| (row.id, row.version())).collect()
            }
            Stream::Contacts => batch.contacts().concat().iter().map(|row| (row.id, row.version())).collect(),
        };
        rows.retain(|(id, version)| {
            refused.reason(stream, *id).is_none() && !batch.is_unread(stream, *id, *version)
        });
        resolve_stream(connection, stream, &rows).await?;
    }
    Ok(())
}

async fn resolve_stream(
    connection: &mut PgConnection,
    stream: Stream,
    rows: &[(i64, Version)],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let source_ids: Vec<_> = rows.iter().map(|(id, _)| id.to_string()).collect();
    let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
    let revs: Vec<_> = rows.iter().map(|(_, version)| version.rev).collect();
    let times: Vec<_> = rows.iter().map(|(_, version)| version.updated).collect();
    sqlx::query!(
        r#"
        UPDATE heymarket_sync.rejects r SET resolved_at = now(), retry_requested_at = NULL
        FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS i (source_id, id, rev, updated)
        WHERE r.stream = $1 AND r.source_id = i.source_id AND r.resolved_at IS NULL
          AND heymarket_sync.supersedes(i.rev, i.updated, r.rev, r.updated, true)
          AND CASE $1
              WHEN 'messages' THEN EXISTS (
                  SELECT FROM heymarket.messages h WHERE h.id = i.id AND h.updated IS NOT DISTINCT FROM i.updated)
              WHEN 'conversations' THEN EXISTS (
                  SELECT FROM heymarket.conversations h
                  WHERE h.id = i.id AND h.updated IS NOT DISTINCT FROM i.updated)
              ELSE EXISTS (
                  SELECT FROM heymarket.contacts h
                  WHERE h.id = i.id AND (h.rev, h.updated) IS NOT DISTINCT FROM (i.rev, i.updated)) END
        "#,
        stream.name(),
        &source_ids,
        &ids,
        revs as _,
        times as _,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("resolving rejects"))?;
    Ok(())
}
