//! The record of runs: what each pass read, wrote and spent, and how it ended.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::Stream;

use super::{Committed, STANDING, Store, StoreError, Tally, refusal::Refused};

/// How many runs of each stream are kept; older ones that have ended, or were another process's, are deleted when a run
/// starts, but for the last that failed and the last of the standing pass that did.
const KEPT_RUNS: i64 = 1000;

/// One run of one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub id: i64,
    pub stream: String,
    pub pass: String,
    pub holder: String,
    pub started_at: DateTime<Utc>,
    /// `None`: still running, or its process was killed.
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    pub requests: i64,
    pub rows_read: i64,
    pub rows_written: i64,
    pub rejected: i64,
}

/// The last error of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError {
    pub pass: String,
    pub at: DateTime<Utc>,
    /// What failed, with the API's request id where it gave one.
    pub error: String,
    /// A later run of the same pass has read pages, or is done.
    pub over: bool,
}

impl Store {
    /// Records that a run begins and returns its number, for [`Tally::run`].
    pub async fn start_run(&self, stream: Stream, pass: &str, holder: &str) -> Result<i64, StoreError> {
        let id = sqlx::query_scalar!(
            "INSERT INTO heymarket_sync.runs (stream, pass, holder) VALUES ($1, $2, $3) RETURNING id",
            stream.name(),
            pass,
            holder,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("recording a run"))?;
        sqlx::query!(
            "DELETE FROM heymarket_sync.runs
             WHERE stream = $1 AND (ended_at IS NOT NULL OR holder <> $3) AND id <= (
                 SELECT id FROM heymarket_sync.runs WHERE stream = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)
               AND id NOT IN (
                 SELECT unnest(ARRAY[coalesce(max(id), 0), coalesce(max(id) FILTER (WHERE pass = $4), 0)]) FROM heymarket_sync.runs
                 WHERE stream = $1 AND outcome NOT IN ('done', 'stopped'))",
            stream.name(),
            KEPT_RUNS,
            holder,
            STANDING,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("deleting old runs"))?;
        Ok(id)
    }

    /// Records how the run ended, such as `done`, `stopped` (also where the lead was lost) or an error.
    pub async fn end_run(&self, run: i64, outcome: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE heymarket_sync.runs SET ended_at = now(), outcome = $2 WHERE id = $1 AND ended_at IS NULL",
            run,
            outcome,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("recording the end of a run"))?;
        Ok(())
    }

    /// The newest runs, newest first, `limit` at most.
    pub async fn recent_runs(&self, limit: u32) -> Result<Vec<Run>, StoreError> {
        sqlx::query_as!(
            Run,
            "SELECT id, stream, pass, holder, started_at, ended_at, outcome, requests, rows_read,
                    rows_written, rejected
             FROM heymarket_sync.runs ORDER BY id DESC LIMIT $1",
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading the runs"))
    }

    /// The last error of each stream that had one: of the last failure of each pass, one that is not over, else the
    /// newest.
    pub async fn last_errors(&self) -> Result<BTreeMap<Stream, RunError>, StoreError> {
        let rows = sqlx::query!(
            r#"
            WITH failed AS (
                SELECT DISTINCT ON (stream, pass) * FROM heymarket_sync.runs
                WHERE outcome NOT IN ('done', 'stopped') ORDER BY stream, pass, id DESC
            ), judged AS (
                SELECT f.*, EXISTS (
                    SELECT FROM heymarket_sync.runs r
                    WHERE r.stream = f.stream AND r.pass = f.pass AND r.id > f.id
                      AND (r.requests > 0 OR r.outcome = 'done')) AS over
                FROM failed f
            )
            SELECT DISTINCT ON (stream) stream AS "stream!", pass AS "pass!", outcome AS "error!", over AS "over!",
                   coalesce(ended_at, started_at) AS "at!"
            FROM judged ORDER BY stream, over, id DESC
            "#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading the last errors"))?;
        rows.into_iter()
            .map(|row| {
                let stream =
                    row.stream.parse().map_err(|_| StoreError::UnknownStream { name: row.stream })?;
                Ok((stream, RunError { pass: row.pass, at: row.at, error: row.error, over: row.over }))
            })
            .collect()
    }
}

/// Adds `tallies` to their runs. Rows written and refused are credited once, to the first of the stream's runs;
/// conversations to a run of messages where they all came embedded.
pub(super) async fn credit(
    connection: &mut PgConnection,
    tallies: &[Tally],
    written: &Committed,
    refused: &Refused,
    only_embedded: bool,
) -> Result<(), StoreError> {
    if tallies.is_empty() {
        return Ok(());
    }
    let (embedded, listed) =
        if only_embedded { (written.conversations, 0) } else { (0, written.conversations) };
    let streams = [Stream::Messages, Stream::Conversations, Stream::Contacts].map(Stream::name);
    let rows_written = [written.messages + embedded, listed, written.contacts].map(|rows| rows as i64);
    let refused = [Stream::Messages, Stream::Conversations, Stream::Contacts].map(|stream| {
        let from_messages = only_embedded && stream == Stream::Messages;
        let conversations = if from_messages { refused.count(Stream::Conversations) } else { 0 };
        refused.count(stream) + conversations
    });
    sqlx::query!(
        r#"
        WITH tally AS (
            SELECT run, min(position) AS position, sum(requests)::bigint AS requests,
                   sum(rows_read)::bigint AS rows_read, sum(rejected)::bigint AS rejected
            FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
                 WITH ORDINALITY AS t (run, requests, rows_read, rejected, position)
            GROUP BY run
        ), present AS (
            -- In the order in which every writer locks them.
            SELECT id, stream FROM heymarket_sync.runs WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE
        ), credited AS (
            SELECT tally.*,
                   CASE row_number() OVER (PARTITION BY present.stream ORDER BY position)
                   WHEN 1 THEN coalesce(w.rows_written, 0) ELSE 0 END AS rows_written,
                   CASE row_number() OVER (PARTITION BY present.stream ORDER BY position)
                   WHEN 1 THEN coalesce(w.refused, 0) ELSE 0 END AS refused
            FROM tally
            JOIN present ON present.id = tally.run
            LEFT JOIN unnest($5::text[], $6::bigint[], $7::bigint[]) AS w (stream, rows_written, refused)
                 ON w.stream = present.stream
        )
        UPDATE heymarket_sync.runs r
        SET requests = r.requests + c.requests, rows_read = r.rows_read + c.rows_read,
            rejected = r.rejected + c.rejected + c.refused,
            rows_written = r.rows_written + c.rows_written
        FROM credited c
        WHERE r.id = c.run
        "#,
        &tallies.iter().map(|tally| tally.run).collect::<Vec<_>>(),
        &tallies.iter().map(|tally| tally.requests).collect::<Vec<_>>(),
        &tallies.iter().map(|tally| tally.rows_read).collect::<Vec<_>>(),
        &tallies.iter().map(|tally| tally.rejected).collect::<Vec<_>>(),
        streams.as_slice() as _,
        rows_written.as_slice(),
        refused.as_slice(),
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("adding to the runs"))?;
    Ok(())
}
