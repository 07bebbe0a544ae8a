//! Which reading of the API's documentation was found to hold.

use chrono::{DateTime, Utc};

use crate::api::model::Stream;

use super::{Store, StoreError};

/// The answer of a test whose rows could not have shown the opposite.
pub const UNDECIDED: &str = "undecided";

/// A question that the documentation leaves open, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub stream: String,
    pub question: String,
    pub answer: String,
    /// What the finding rests on.
    pub evidence: String,
    /// When this answer was found first.
    pub decided_at: DateTime<Utc>,
    /// When it was found last.
    pub tested_at: DateTime<Utc>,
}

impl Store {
    /// Records a finding and returns the answer that stood before, if there was one. [`UNDECIDED`] leaves a
    /// decided answer as it is.
    pub async fn put_reading(
        &self,
        stream: Stream,
        question: &str,
        answer: &str,
        evidence: &str,
    ) -> Result<Option<String>, StoreError> {
        // Every part of the statement sees the table as it was before the statement.
        sqlx::query_scalar!(
            r#"
            WITH before AS (
                SELECT answer FROM heymarket_sync.readings WHERE stream = $1 AND question = $2
            ), stored AS (
                INSERT INTO heymarket_sync.readings AS held (stream, question, answer, evidence)
                VALUES ($1, $2, $3, $4)
                ON CONFLICT (stream, question) DO UPDATE
                SET answer = excluded.answer, evidence = excluded.evidence, tested_at = excluded.tested_at,
                    decided_at = CASE WHEN held.answer = excluded.answer THEN held.decided_at
                                      ELSE excluded.decided_at END
                WHERE excluded.answer <> $5 OR held.answer = $5
            )
            SELECT (SELECT answer FROM before) AS before
            "#,
            stream.name(),
            question,
            answer,
            evidence,
            UNDECIDED,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("recording a finding about the API"))
    }

    /// All findings, by stream and question.
    pub async fn readings(&self) -> Result<Vec<Reading>, StoreError> {
        sqlx::query_as!(
            Reading,
            "SELECT stream, question, answer, evidence, decided_at, tested_at FROM heymarket_sync.readings
             ORDER BY stream, question"
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading the findings about the API"))
    }
}
