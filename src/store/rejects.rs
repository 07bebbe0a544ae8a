//! Rows, or parts of rows, that could not be read: set aside as they came.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::{Reject, Stream};

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

/// Sets `rejects` aside: one row per source id, or per payload where the id is unknown, with the latest
/// payload and reason. Returns how many rows that wrote.
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
    let partials: Vec<_> = rejects.iter().map(|reject| reject.partial).collect();
    let reasons: Vec<_> = rejects.iter().map(|reject| reject.reason.as_str()).collect();
    let payloads: Vec<_> = rejects.iter().map(|reject| &reject.payload[..]).collect();
    let written = sqlx::query!(
        r#"
        INSERT INTO heymarket_sync.rejects AS held (stream, source_id, partial, reason, payload, times)
        SELECT DISTINCT ON (i.stream, i.identity)
               i.stream, i.source_id, i.partial, i.reason, i.payload,
               count(*) OVER (PARTITION BY i.stream, i.identity)
        FROM (
            SELECT *, coalesce('id ' || source_id, 'sha256 ' || encode(sha256(payload), 'hex')) AS identity
            FROM unnest($1::text[], $2::text[], $3::boolean[], $4::text[], $5::bytea[])
                 WITH ORDINALITY AS i (stream, source_id, partial, reason, payload, position)
        ) i
        ORDER BY i.stream, i.identity, i.position DESC
        ON CONFLICT (stream, identity) DO UPDATE
        SET partial = excluded.partial, reason = excluded.reason, payload = excluded.payload,
            last_seen = excluded.last_seen, times = held.times + excluded.times, resolved_at = NULL
        "#,
        streams as _,
        source_ids as _,
        &partials,
        reasons as _,
        payloads as _,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("setting rejects aside"))?;
    Ok(written.rows_affected())
}

/// Resolves the rejects of rows that this batch brought readable, where the version held is the one that
/// it brought. Embedded conversations resolve nothing: they may be shorter than the row itself.
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
        let mut versions: Vec<Version> = match stream {
            Stream::Messages => {
                batch.newest_messages().iter().map(|row| (row.id, None, row.updated)).collect()
            }
            Stream::Conversations => {
                let newest = batch.newest_conversations();
                let listed = newest.iter().filter(|(_, embedded)| !embedded);
                listed.map(|(row, _)| (row.id, None, row.updated)).collect()
            }
            Stream::Contacts => {
                batch.newest_contacts().iter().map(|row| (row.id, row.rev, row.updated)).collect()
            }
        };
        versions.retain(|(id, ..)| refused.reason(stream, *id).is_none());
        resolve_stream(connection, batch, stream, &versions).await?;
    }
    Ok(())
}

/// A row's id, its `rev` (contacts) and its `updated`.
type Version = (i64, Option<i64>, Option<DateTime<Utc>>);

async fn resolve_stream(
    connection: &mut PgConnection,
    batch: &Batch,
    stream: Stream,
    versions: &[Version],
) -> Result<(), StoreError> {
    let unreadable = batch.unreadable(stream);
    let mut source_ids = Vec::new();
    let (mut ids, mut revs, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for (id, rev, updated) in versions {
        let source_id = id.to_string();
        if !unreadable.contains(source_id.as_str()) {
            source_ids.push(source_id);
            ids.push(*id);
            revs.push(*rev);
            times.push(*updated);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        UPDATE heymarket_sync.rejects r SET resolved_at = now(), retry_requested_at = NULL
        FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::timestamptz[]) AS i (source_id, id, rev, updated)
        WHERE r.stream = $1 AND r.source_id = i.source_id AND r.resolved_at IS NULL
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
