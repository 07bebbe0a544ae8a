//! What is held and who is at work, for `status` and the status page.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::api::model::Stream;

use super::{BoundTeam, Holder, LineKey, PassState, Reading, Run, RunError, Store, StoreError, team};

/// How many runs a status lists.
const LISTED_RUNS: u32 = 20;

/// What the database says of the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// Bytes on disk, the whole database.
    pub database_bytes: i64,
    pub leader: Option<Holder>,
    pub team: Option<BoundTeam>,
    pub streams: BTreeMap<Stream, StreamStatus>,
    pub coverage: Vec<(LineKey, PassState)>,
    pub readings: Vec<Reading>,
    /// The newest runs, newest first.
    pub runs: Vec<Run>,
    /// The last error of each stream that had one.
    pub last_errors: BTreeMap<Stream, RunError>,
}

/// What the database says of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStatus {
    /// The planner's estimate: counting millions of rows takes seconds.
    pub estimated_rows: i64,
    /// Time of the newest row: `date` of messages, `updated` of the others.
    pub newest: Option<DateTime<Utc>>,
    pub open_rejects: u64,
    /// Rows that turned up where all rows were proved to be held, and whose place was not read again since.
    pub open_contradictions: u64,
}

impl Store {
    /// Reads the whole status: no statement takes longer on a larger mirror.
    pub async fn status(&self) -> Result<Status, StoreError> {
        let database =
            sqlx::query!(r#"SELECT now() AS "now!", pg_database_size(current_database()) AS "bytes!""#)
                .fetch_one(&self.pool)
                .await
                .map_err(StoreError::query("reading the database's size"))?;
        Ok(Status {
            now: database.now,
            database_bytes: database.bytes,
            leader: self.leader().await?,
            team: self.bound_team().await?,
            streams: self.stream_status().await?,
            coverage: self.coverage().await?,
            readings: self.readings().await?,
            runs: self.recent_runs(LISTED_RUNS).await?,
            last_errors: self.last_errors().await?,
        })
    }

    /// How many rows of the stream are held, those left out that are gone at the source. Counts them: it takes longer on
    /// a larger mirror.
    pub async fn held_rows(&self, stream: Stream) -> Result<u64, StoreError> {
        let held = match stream {
            Stream::Messages => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "held!" FROM heymarket.messages WHERE _deleted_at IS NULL"#
                )
                .fetch_one(&self.pool)
                .await
            }
            Stream::Conversations => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "held!" FROM heymarket.conversations WHERE _deleted_at IS NULL"#
                )
                .fetch_one(&self.pool)
                .await
            }
            Stream::Contacts => {
                sqlx::query_scalar!(
                    r#"SELECT count(*) AS "held!" FROM heymarket.contacts WHERE _deleted_at IS NULL"#
                )
                .fetch_one(&self.pool)
                .await
            }
        };
        Ok(held.map_err(StoreError::query("counting the rows held"))?.unsigned_abs())
    }

    async fn bound_team(&self) -> Result<Option<BoundTeam>, StoreError> {
        let failed = || StoreError::query("reading which team the database is bound to");
        let mut session = self.pool.session().await.map_err(failed())?;
        let bound = team::read(session.connection()).await.map_err(failed())?;
        session.release();
        Ok(bound)
    }

    async fn stream_status(&self) -> Result<BTreeMap<Stream, StreamStatus>, StoreError> {
        // Of a table that was never analyzed the planner knows no rows, only its size;
        // then the count is bounded.
        let rows = sqlx::query!(
            r#"
            SELECT 'messages' AS "stream!", (SELECT max(date) FROM heymarket.messages) AS newest,
                   (SELECT reltuples::bigint FROM pg_class WHERE oid = 'heymarket.messages'::regclass) AS "rows!",
                   (SELECT count(*) FROM (SELECT FROM heymarket.messages LIMIT 100000) m) AS "counted!"
            UNION ALL
            SELECT 'conversations', (SELECT max(updated) FROM heymarket.conversations),
                   (SELECT reltuples::bigint FROM pg_class WHERE oid = 'heymarket.conversations'::regclass),
                   (SELECT count(*) FROM (SELECT FROM heymarket.conversations LIMIT 100000) c)
            UNION ALL
            SELECT 'contacts', (SELECT max(updated) FROM heymarket.contacts),
                   (SELECT reltuples::bigint FROM pg_class WHERE oid = 'heymarket.contacts'::regclass),
                   (SELECT count(*) FROM (SELECT FROM heymarket.contacts LIMIT 100000) c)
            "#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading what is held"))?;
        let open = self.open_rejects().await?;
        let contradictions = self.open_contradictions().await?;
        rows.into_iter()
            .map(|row| {
                let stream =
                    row.stream.parse().map_err(|_| StoreError::UnknownStream { name: row.stream })?;
                let estimated_rows =
                    if row.counted < 100_000 { row.counted } else { row.rows.max(row.counted) };
                let open_rejects = open.get(&stream).copied().unwrap_or_default();
                let of_stream = contradictions.iter().filter(|(of, ..)| *of == stream);
                let open_contradictions = of_stream.map(|(.., open)| open).sum();
                let newest = row.newest;
                Ok((stream, StreamStatus { estimated_rows, newest, open_rejects, open_contradictions }))
            })
            .collect()
    }
}
