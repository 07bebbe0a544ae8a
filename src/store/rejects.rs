//! Rows, or parts of rows, that could not be read: set aside as they came.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::{Reject, Stream, Version};

use super::{Batch, Store, StoreError, commit::statements, refusal::Refused};

/// How many rejects are listed at once.
const LISTED: i64 = 500;

/// A reject without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldReject {
    pub id: i64,
    pub stream: String,
    pub source_id: Option<String>,
    pub partial: bool,
    pub reason: String,
    /// Length of the payload.
    pub bytes: i32,
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
            r#"SELECT id, stream, source_id, partial, reason, octet_length(payload) AS "bytes!", first_seen,
                      last_seen, times, resolved_at, retry_requested_at
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

    /// The reject with number `id`, and its payload as it came.
    pub async fn reject(&self, id: i64) -> Result<Option<(HeldReject, Vec<u8>)>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT id, stream, source_id, partial, reason, payload, first_seen, last_seen, times, resolved_at,
                      retry_requested_at
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
                bytes: i32::try_from(row.payload.len()).unwrap_or(i32::MAX),
                first_seen: row.first_seen,
                last_seen: row.last_seen,
                times: row.times,
                resolved_at: row.resolved_at,
                retry_requested_at: row.retry_requested_at,
            };
            (held, row.payload)
        }))
    }

    /// How many rejects of each stream are unresolved; streams without any are left out.
    pub async fn open_rejects(&self) -> Result<BTreeMap<Stream, u64>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT stream, count(*) AS "open!" FROM heymarket_sync.rejects
               WHERE resolved_at IS NULL GROUP BY stream"#
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
}

/// Sets `rejects` aside: one row per source id, or per payload where the id is unknown, with the payload and reason
/// of the newest version, the latest of several such. An unknown version may be the newest. What is known to be older
/// than the row held is kept as resolved, and in place of no open reject. Comes after the rows themselves. Returns
/// how many rows that wrote.
pub(super) async fn upsert(connection: &mut PgConnection, rejects: &[&Reject]) -> Result<u64, StoreError> {
    let mut written = 0;
    for rejects in statements(rejects, |reject| reject.payload.len() + reject.reason.len()) {
        written += upsert_together(connection, rejects).await?;
    }
    Ok(written)
}

async fn upsert_together(connection: &mut PgConnection, rejects: &[&Reject]) -> Result<u64, StoreError> {
    let streams: Vec<_> = rejects.iter().map(|reject| reject.stream.name()).collect();
    let source_ids: Vec<_> = rejects.iter().map(|reject| reject.source_id.as_deref()).collect();
    let ids: Vec<Option<i64>> =
        rejects.iter().map(|reject| reject.source_id.as_ref()?.parse().ok()).collect();
    let partials: Vec<_> = rejects.iter().map(|reject| reject.partial).collect();
    let reasons: Vec<_> = rejects.iter().map(|reject| reject.reason.as_str()).collect();
    let payloads: Vec<_> = rejects.iter().map(|reject| &reject.payload[..]).collect();
    let revs: Vec<_> = rejects.iter().map(|reject| reject.version.rev).collect();
    let updated: Vec<_> = rejects.iter().map(|reject| reject.version.updated).collect();
    let written = sqlx::query!(
        r#"
        INSERT INTO heymarket_sync.rejects AS held (
            stream, source_id, partial, reason, payload, times, rev, updated, resolved_at)
        SELECT DISTINCT ON (i.stream, i.identity)
               i.stream, i.source_id, i.partial, i.reason, i.payload,
               count(*) OVER (PARTITION BY i.stream, i.identity), i.rev, i.updated,
               CASE WHEN EXISTS (
                   SELECT FROM heymarket.messages h
                   WHERE i.stream = 'messages' AND h.id = i.id AND i.updated < h.updated
                   UNION ALL
                   SELECT FROM heymarket.conversations h
                   WHERE i.stream = 'conversations' AND h.id = i.id AND i.updated < h.updated
                   UNION ALL
                   SELECT FROM heymarket.contacts h
                   WHERE i.stream = 'contacts' AND h.id = i.id AND (
                       coalesce(i.rev, '-9223372036854775808') < coalesce(h.rev, '-9223372036854775808')
                           AND NOT (i.rev IS NULL AND i.updated IS NULL)
                       OR i.rev IS NOT DISTINCT FROM h.rev AND i.updated < h.updated)
               ) THEN now() END
        FROM (
            SELECT *, coalesce('id ' || source_id, 'sha256 ' || encode(sha256(payload), 'hex')) AS identity
            FROM unnest($1::text[], $2::text[], $3::boolean[], $4::text[], $5::bytea[], $6::bigint[],
                        $7::timestamptz[], $8::bigint[])
                 WITH ORDINALITY AS i (stream, source_id, partial, reason, payload, rev, updated, id, position)
        ) i
        ORDER BY i.stream, i.identity, (i.rev IS NULL AND i.updated IS NULL) DESC,
                 coalesce(i.rev, '-9223372036854775808') DESC, coalesce(i.updated, '-infinity') DESC,
                 i.position DESC
        ON CONFLICT (stream, identity) DO UPDATE
        SET partial = excluded.partial, reason = excluded.reason, payload = excluded.payload,
            last_seen = excluded.last_seen, times = held.times + excluded.times,
            resolved_at = CASE WHEN excluded.resolved_at IS NOT NULL THEN held.resolved_at END,
            rev = excluded.rev, updated = excluded.updated
        WHERE (excluded.resolved_at IS NULL OR held.resolved_at IS NOT NULL)
          AND (excluded.rev IS NULL AND excluded.updated IS NULL
               OR (coalesce(excluded.rev, '-9223372036854775808'), coalesce(excluded.updated, '-infinity'))
                  >= (coalesce(held.rev, '-9223372036854775808'), coalesce(held.updated, '-infinity')))
        "#,
        streams as _,
        source_ids as _,
        &partials,
        reasons as _,
        payloads as _,
        revs as _,
        updated as _,
        ids as _,
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
            Stream::Messages => batch.newest_messages().iter().map(|row| (row.id, row.version())).collect(),
            Stream::Conversations => {
                let newest = batch.newest_conversations();
                let listed = newest.iter().filter(|(_, embedded)| !embedded);
                listed.map(|(row, _)| (row.id, row.version())).collect()
            }
            Stream::Contacts => batch.newest_contacts().iter().map(|row| (row.id, row.version())).collect(),
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
          AND (coalesce(i.rev, '-9223372036854775808'), coalesce(i.updated, '-infinity'))
              >= (coalesce(r.rev, '-9223372036854775808'), coalesce(r.updated, '-infinity'))
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
