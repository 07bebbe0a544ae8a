//! The coverage ledger: which intervals of each time line are held, per pass.
//!
//! The only place that writes coverage. It grows by [`prove`], within the transaction that writes the rows. That of a
//! standing pass shrinks by [`Store::withdraw`], which is logged, and ends with its line; other passes end, or begin
//! again. The arithmetic is PostgreSQL's; only plain bounds cross the wire. A bound that is absent is unbounded.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::Stream;
use crate::crash::{self, CrashPoint};
use crate::interval::Interval;

use super::{Lease, LineKey, STANDING, Store, StoreError, lease};

/// One row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassState {
    /// The server's time when the pass began.
    pub started_at: DateTime<Utc>,
    /// `None`: from the beginning of history.
    pub wanted_from: Option<DateTime<Utc>>,
    /// `None`: the end moves on with time (the standing pass).
    pub wanted_to: Option<DateTime<Utc>>,
    /// What is held, newest first; disjoint, with gaps between.
    pub covered: Vec<Interval>,
    /// The part of it that rests on empty answers alone, newest first.
    pub believed: Vec<Interval>,
}

impl Store {
    /// Begins the pass, or goes on with it: a pass that exists keeps what it covered and its
    /// `started_at`. Only the standing pass takes the wanted window anew. Returns the row.
    ///
    /// # Errors
    /// [`StoreError::EmptyWindow`] where nothing lies between the wanted bounds; [`StoreError::LeadLost`] and
    /// [`StoreError::ServerRestarted`].
    pub async fn begin_pass(
        &self,
        lease: &Lease,
        key: &LineKey,
        wanted_from: Option<DateTime<Utc>>,
        wanted_to: Option<DateTime<Utc>>,
        started_at: DateTime<Utc>,
    ) -> Result<PassState, StoreError> {
        self.begin(Some(lease), key, (wanted_from, wanted_to), started_at).await
    }

    /// The same, of a pass that another process is to walk: the lead is not needed. Not for the standing pass.
    ///
    /// # Errors
    /// [`StoreError::EmptyWindow`] where nothing lies between the wanted bounds.
    pub async fn request_pass(
        &self,
        key: &LineKey,
        wanted_from: Option<DateTime<Utc>>,
        wanted_to: Option<DateTime<Utc>>,
        started_at: DateTime<Utc>,
    ) -> Result<PassState, StoreError> {
        debug_assert_ne!(key.pass, STANDING, "the standing pass is the leader's");
        self.begin(None, key, (wanted_from, wanted_to), started_at).await
    }

    async fn begin(
        &self,
        lease: Option<&Lease>,
        key: &LineKey,
        (wanted_from, wanted_to): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        started_at: DateTime<Utc>,
    ) -> Result<PassState, StoreError> {
        let failed = || StoreError::query("beginning a pass");
        check_window(key, wanted_from, wanted_to)?;
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "INSERT INTO heymarket_sync.coverage AS held (stream, line, pass, wanted, started_at)
             VALUES ($1, $2, $3, tstzrange($4, $5), $6)
             ON CONFLICT (stream, line, pass) DO UPDATE SET wanted = excluded.wanted
             WHERE held.pass = $7 AND held.wanted <> excluded.wanted",
            key.stream.name(),
            key.line,
            key.pass,
            wanted_from,
            wanted_to,
            started_at,
            STANDING,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        if let Some(lease) = lease {
            lease::check(&mut *transaction, lease).await?;
        }
        transaction.commit().await.map_err(failed())?;
        // Absent only where another process ended the pass in between.
        Ok(self.pass(key).await?.unwrap_or(PassState {
            started_at,
            wanted_from,
            wanted_to,
            covered: Vec::new(),
            believed: Vec::new(),
        }))
    }

    /// Begins the pass again with nothing covered: a new round of a recheck.
    ///
    /// # Errors
    /// [`StoreError::EmptyWindow`] where nothing lies between the wanted bounds; [`StoreError::LeadLost`] and
    /// [`StoreError::ServerRestarted`].
    pub async fn restart_pass(
        &self,
        lease: &Lease,
        key: &LineKey,
        wanted_from: Option<DateTime<Utc>>,
        wanted_to: Option<DateTime<Utc>>,
        started_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let failed = || StoreError::query("beginning a pass again");
        check_window(key, wanted_from, wanted_to)?;
        debug_assert_ne!(key.pass, STANDING, "the standing pass shrinks by withdrawals alone");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "INSERT INTO heymarket_sync.coverage (stream, line, pass, wanted, started_at)
             SELECT $1, $2, $3, tstzrange($4, $5), $6 WHERE $3 <> $7
             ON CONFLICT (stream, line, pass) DO UPDATE
             SET wanted = excluded.wanted, started_at = excluded.started_at, covered = '{}', believed = '{}'",
            key.stream.name(),
            key.line,
            key.pass,
            wanted_from,
            wanted_to,
            started_at,
            STANDING,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())?;
        crash::pass(CrashPoint::RecheckRestarted);
        Ok(())
    }

    /// Drops the record of a pass that is done. The standing pass stays.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`], and [`StoreError::ServerRestarted`], where the pass may not be done any longer.
    pub async fn end_pass(&self, lease: &Lease, key: &LineKey) -> Result<(), StoreError> {
        let failed = || StoreError::query("ending a pass");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "DELETE FROM heymarket_sync.coverage WHERE stream = $1 AND line = $2 AND pass = $3 AND pass <> $4",
            key.stream.name(),
            key.line,
            key.pass,
            STANDING,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())
    }

    /// Drops the record of all passes of a line that is not needed any longer. What other lines proved without its
    /// rows is withdrawn before.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`], and [`StoreError::ServerRestarted`], where the line may have been needed.
    pub async fn end_line(&self, lease: &Lease, stream: Stream, line: &str) -> Result<(), StoreError> {
        let failed = || StoreError::query("ending a line");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "DELETE FROM heymarket_sync.coverage WHERE stream = $1 AND line = $2",
            stream.name(),
            line,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())
    }

    /// The pass's row, or `None` where it has not begun or is done.
    pub async fn pass(&self, key: &LineKey) -> Result<Option<PassState>, StoreError> {
        let rows = self.read_coverage(Some(key), false).await?;
        Ok(rows.into_iter().next().map(|(_, state)| state))
    }

    /// All rows of the ledger, by stream, line and pass.
    pub async fn coverage(&self) -> Result<Vec<(LineKey, PassState)>, StoreError> {
        self.read_coverage(None, false).await
    }

    /// The passes on the line of `key` whose names begin with the name of its pass.
    pub async fn passes_named_like(&self, key: &LineKey) -> Result<Vec<(LineKey, PassState)>, StoreError> {
        self.read_coverage(Some(key), true).await
    }

    /// What of `wanted` is not covered, newest first; all of it where the pass has not begun.
    pub async fn gaps(&self, key: &LineKey, wanted: Interval) -> Result<Vec<Interval>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT lower(gap) AS "start", upper(gap) AS "end!"
            FROM unnest(
                tstzmultirange(tstzrange($4, $5)) - coalesce((
                    SELECT covered FROM heymarket_sync.coverage
                    WHERE stream = $1 AND line = $2 AND pass = $3), '{}')
            ) AS gap
            ORDER BY gap DESC
            "#,
            key.stream.name(),
            key.line,
            key.pass,
            wanted.start(),
            wanted.end(),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading gaps"))?;
        Ok(rows.into_iter().filter_map(|row| Interval::new(row.start, row.end)).collect())
    }

    /// Takes back what was proved of `interval`, with the reason in the log, and returns what that was,
    /// newest first. Rows stay; they are read again.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`] and [`StoreError::ServerRestarted`].
    pub async fn withdraw(
        &self,
        lease: &Lease,
        key: &LineKey,
        interval: Interval,
        reason: &str,
    ) -> Result<Vec<Interval>, StoreError> {
        let failed = || StoreError::query("withdrawing coverage");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        let rows = sqlx::query!(
            r#"
            WITH held AS (
                SELECT stream, line, pass, covered * tstzmultirange(tstzrange($4, $5)) AS withdrawn
                FROM heymarket_sync.coverage
                WHERE stream = $1 AND line = $2 AND pass = $3
                FOR UPDATE
            ), shrunk AS (
                UPDATE heymarket_sync.coverage c
                SET covered = c.covered - held.withdrawn, believed = c.believed - held.withdrawn
                FROM held
                WHERE c.stream = held.stream AND c.line = held.line AND c.pass = held.pass
                  AND NOT isempty(held.withdrawn)
                RETURNING held.withdrawn
            )
            SELECT lower(part) AS "start", upper(part) AS "end!"
            FROM shrunk, unnest(withdrawn) AS part
            ORDER BY part DESC
            "#,
            key.stream.name(),
            key.line,
            key.pass,
            interval.start(),
            interval.end(),
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())?;
        let withdrawn: Vec<_> =
            rows.into_iter().filter_map(|row| Interval::new(row.start, row.end)).collect();
        for part in &withdrawn {
            tracing::warn!(
                stream = key.stream.name(), line = key.line, pass = key.pass, interval = %part, reason,
                "coverage withdrawn: the interval is read again"
            );
        }
        Ok(withdrawn)
    }

    /// Adds `interval` to what is covered, marked as resting on empty answers where rows did not prove it.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`], and [`StoreError::ServerRestarted`].
    pub async fn believe(&self, lease: &Lease, key: &LineKey, interval: Interval) -> Result<(), StoreError> {
        let failed = || StoreError::query("recording that a line ends");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "UPDATE heymarket_sync.coverage c
             SET believed = c.believed + (tstzmultirange(tstzrange($4, $5)) - c.covered),
                 covered = c.covered + tstzmultirange(tstzrange($4, $5))
             WHERE stream = $1 AND line = $2 AND pass = $3 AND NOT covered @> tstzrange($4, $5)",
            key.stream.name(),
            key.line,
            key.pass,
            interval.start(),
            interval.end(),
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())
    }

    /// Notes that a test has just confirmed the reading of the API that the line rests on: what is covered now
    /// is not withdrawn by [`Store::withdraw_unconfirmed`].
    ///
    /// # Errors
    /// [`StoreError::LeadLost`] and [`StoreError::ServerRestarted`].
    pub async fn confirm(&self, lease: &Lease, key: &LineKey) -> Result<(), StoreError> {
        let failed = || StoreError::query("confirming coverage");
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "UPDATE heymarket_sync.coverage SET confirmed = covered
             WHERE stream = $1 AND line = $2 AND pass = $3 AND confirmed <> covered",
            key.stream.name(),
            key.line,
            key.pass,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())
    }

    /// Takes back what was proved since [`Store::confirm`], with the reason in the log, and returns what that
    /// was, newest first.
    pub async fn withdraw_unconfirmed(
        &self,
        lease: &Lease,
        key: &LineKey,
        reason: &str,
    ) -> Result<Vec<Interval>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT lower(part) AS "start", upper(part) AS "end!"
            FROM heymarket_sync.coverage, unnest(covered - confirmed) AS part
            WHERE stream = $1 AND line = $2 AND pass = $3
            ORDER BY part DESC
            "#,
            key.stream.name(),
            key.line,
            key.pass,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading unconfirmed coverage"))?;
        let mut withdrawn = Vec::new();
        for part in rows.into_iter().filter_map(|row| Interval::new(row.start, row.end)) {
            withdrawn.extend(self.withdraw(lease, key, part, reason).await?);
        }
        Ok(withdrawn)
    }

    async fn read_coverage(
        &self,
        key: Option<&LineKey>,
        prefix: bool,
    ) -> Result<Vec<(LineKey, PassState)>, StoreError> {
        let rows = sqlx::query!(
            r#"
            SELECT stream, line, pass, started_at,
                   lower(wanted) AS wanted_from, upper(wanted) AS wanted_to,
                   ARRAY(SELECT lower(r) FROM unnest(covered) AS r ORDER BY r DESC)
                       AS "starts!: Vec<Option<DateTime<Utc>>>",
                   ARRAY(SELECT upper(r) FROM unnest(covered) AS r ORDER BY r DESC)
                       AS "ends!: Vec<DateTime<Utc>>",
                   ARRAY(SELECT lower(r) FROM unnest(believed) AS r ORDER BY r DESC)
                       AS "believed_starts!: Vec<Option<DateTime<Utc>>>",
                   ARRAY(SELECT upper(r) FROM unnest(believed) AS r ORDER BY r DESC)
                       AS "believed_ends!: Vec<DateTime<Utc>>"
            FROM heymarket_sync.coverage
            WHERE $1::text IS NULL
               OR (stream = $1 AND line = $2 AND (pass = $3 OR $4 AND starts_with(pass, $3)))
            ORDER BY stream, line, pass
            "#,
            key.map(|key| key.stream.name()),
            key.map(|key| key.line.as_str()),
            key.map(|key| key.pass.as_str()),
            prefix,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("reading coverage"))?;
        rows.into_iter()
            .map(|row| {
                let stream =
                    row.stream.parse().map_err(|_| StoreError::UnknownStream { name: row.stream })?;
                let intervals = |starts: Vec<Option<DateTime<Utc>>>, ends: Vec<DateTime<Utc>>| {
                    starts
                        .into_iter()
                        .zip(ends)
                        .filter_map(|(start, end)| Interval::new(start, end))
                        .collect()
                };
                let state = PassState {
                    started_at: row.started_at,
                    wanted_from: row.wanted_from,
                    wanted_to: row.wanted_to,
                    covered: intervals(row.starts, row.ends),
                    believed: intervals(row.believed_starts, row.believed_ends),
                };
                Ok((LineKey { stream, line: row.line, pass: row.pass }, state))
            })
            .collect()
    }
}

/// Adds `intervals` to what the line has covered; does nothing where the pass has ended, or where
/// they are covered already.
pub(super) async fn prove(
    connection: &mut PgConnection,
    key: &LineKey,
    intervals: &[Interval],
) -> Result<(), StoreError> {
    let starts: Vec<_> = intervals.iter().map(Interval::start).collect();
    let ends: Vec<_> = intervals.iter().map(Interval::end).collect();
    sqlx::query!(
        "UPDATE heymarket_sync.coverage c
         SET covered = c.covered + p.proved, believed = c.believed - p.proved
         FROM (
             SELECT range_agg(tstzrange(lower_end, upper_end)) AS proved
             FROM unnest($4::timestamptz[], $5::timestamptz[]) AS i (lower_end, upper_end)
         ) p
         WHERE c.stream = $1 AND c.line = $2 AND c.pass = $3 AND NOT c.covered @> p.proved",
        key.stream.name(),
        key.line,
        key.pass,
        starts as _,
        &ends,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("recording coverage"))?;
    Ok(())
}

fn check_window(
    key: &LineKey,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Result<(), StoreError> {
    match (from, to) {
        (Some(from), Some(to)) if from >= to => {
            Err(StoreError::EmptyWindow { line: key.line.clone(), pass: key.pass.clone() })
        }
        _ => Ok(()),
    }
}
