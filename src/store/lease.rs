//! The lead: one lease row, kept by the database's clock.
//!
//! A takeover locks the row `FOR UPDATE`; a writing transaction checks its epoch at its end with
//! `FOR KEY SHARE`, which a renewal does not wait for and a takeover does. So what a leader commits is
//! committed before its successor begins, and what a former leader still has in hand fails.
//!
//! A server that crashes may undo what was committed last, rows and proof together, and then a leader must forget
//! what it remembers of them. So a lead ends with a crash, too: its epoch is in an unlogged table, which a crash (or a
//! failover) empties.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{Store, StoreError, availability::Write};

/// How long the lead holds without a renewal, by the database's clock.
pub const LEASE_TTL: Duration = Duration::from_secs(4);
/// How far ahead of the database's clock a lease may end: it was written by that clock, so one that ends later is from
/// another (the clock was set back, or the database is a copy), and void. The second more is for a clock that is slewed.
const LEASE_AHEAD: Duration = LEASE_TTL.saturating_add(Duration::from_secs(1));
/// How often the leader renews.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// How often a renewal that could not advance the mark for readers is repeated, since a transaction was committing.
const ADVANCES: u32 = 5;
const ADVANCE_PAUSE: Duration = Duration::from_millis(20);
/// How often one that stands by looks whether the lead is free.
pub const LEASE_POLL: Duration = Duration::from_millis(500);

/// The lead, as long as nobody took it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    holder: String,
    epoch: i64,
}

impl Lease {
    /// Who holds it.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Grows with each change of leader. The first is the second in which it began: a leader of a database that was
    /// made anew under the same name meets another.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }
}

/// Who leads, and since when by the database's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub holder: String,
    pub acquired_at: DateTime<Utc>,
}

impl Store {
    /// Takes the lead for `holder` if it is free or void; `Ok(Err(_))` names who has it.
    pub async fn acquire_lease(&self, holder: &str) -> Result<Result<Lease, Holder>, StoreError> {
        let outcome = self.take_lease(holder).await;
        self.availability.note(Write::Lease, &outcome);
        if matches!(outcome, Ok(Ok(_))) {
            self.availability.begin_lead();
        }
        outcome
    }

    async fn take_lease(&self, holder: &str) -> Result<Result<Lease, Holder>, StoreError> {
        let failed = || StoreError::query("taking the lead");
        // Looked at without a lock first: those that stand by must not make the leader wait.
        if let Some(present) = self.leader().await? {
            return Ok(Err(present));
        }
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        let first = sqlx::query_scalar!(
            "INSERT INTO heymarket_sync.lease (epoch, holder, acquired_at, expires_at)
             VALUES (extract(epoch FROM clock_timestamp())::bigint, $1,
                     clock_timestamp(), clock_timestamp() + make_interval(secs => $2))
             ON CONFLICT (singleton) DO NOTHING
             RETURNING epoch",
            holder,
            LEASE_TTL.as_secs_f64(),
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed())?;
        if let Some(epoch) = first {
            begin_uncrashed(&mut *transaction, epoch).await?;
            transaction.commit().await.map_err(failed())?;
            return Ok(Ok(Lease { holder: holder.to_owned(), epoch }));
        }
        let present = sqlx::query!(
            r#"SELECT holder, acquired_at,
                      expires_at > clock_timestamp()
                      AND expires_at <= clock_timestamp() + make_interval(secs => $1) AS "alive!"
               FROM heymarket_sync.lease FOR UPDATE"#,
            LEASE_AHEAD.as_secs_f64(),
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed())?;
        if present.alive {
            let present = Holder { holder: present.holder, acquired_at: present.acquired_at };
            return Ok(Err(present));
        }
        let epoch = sqlx::query_scalar!(
            "UPDATE heymarket_sync.lease
             SET epoch = epoch + 1, holder = $1, acquired_at = clock_timestamp(),
                 expires_at = clock_timestamp() + make_interval(secs => $2)
             RETURNING epoch",
            holder,
            LEASE_TTL.as_secs_f64(),
        )
        .fetch_one(&mut *transaction)
        .await
        .map_err(failed())?;
        begin_uncrashed(&mut *transaction, epoch).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(Ok(Lease { holder: holder.to_owned(), epoch }))
    }

    /// Holds the lead for another [`LEASE_TTL`] from now, and advances `heymarket.settled_at()`. A lease that ran out
    /// but that nobody took over holds again.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`] where another took over.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let renewed = self.prolong(lease).await;
        self.availability.note(Write::Lease, &renewed);
        if renewed? { Ok(()) } else { Err(StoreError::LeadLost) }
    }

    /// Whether the lease was still this one.
    async fn prolong(&self, lease: &Lease) -> Result<bool, StoreError> {
        let failed = || StoreError::query("renewing the lead");
        let mut session = self.asking.session().await.map_err(failed())?;
        let mut led = true;
        for _ in 0..ADVANCES {
            // The lead must not wait for a transaction that holds the mark while it commits.
            let renewed = sqlx::query!(
                r#"
                WITH renewed AS (
                    UPDATE heymarket_sync.lease SET expires_at = clock_timestamp() + make_interval(secs => $2)
                    WHERE epoch = $1
                    RETURNING epoch
                ), free AS (
                    SELECT s.singleton FROM heymarket.settled s WHERE EXISTS (SELECT FROM renewed)
                    FOR NO KEY UPDATE SKIP LOCKED
                ), advanced AS (
                    UPDATE heymarket.settled s SET settled_at = $3 FROM free
                    WHERE s.singleton = free.singleton AND s.settled_at < $3
                )
                SELECT EXISTS (SELECT FROM renewed) AS "led!", EXISTS (SELECT FROM free) AS "free!",
                       clock_timestamp() AS "clock!"
                "#,
                lease.epoch,
                LEASE_TTL.as_secs_f64(),
                self.stamps.settled(),
            )
            .fetch_one(&mut session)
            .await
            .map_err(failed())?;
            self.stamps.learn(renewed.clock);
            led = renewed.led;
            if !led || renewed.free {
                break;
            }
            tokio::time::sleep(ADVANCE_PAUSE).await;
        }
        self.asking.keep(session);
        Ok(led)
    }

    /// Gives the lead back, for another to take at once, and advances `heymarket.settled_at()` to just above the last
    /// stamp. Does nothing where it is lost already.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let failed = || StoreError::query("giving the lead back");
        // On the session that is known to work.
        let mut session = self.asking.session().await.map_err(failed())?;
        self.asking.end();
        sqlx::query!(
            "WITH advanced AS (
                 UPDATE heymarket.settled s SET settled_at = $2 FROM heymarket_sync.lease l
                 WHERE l.epoch = $1 AND s.settled_at < $2
             )
             UPDATE heymarket_sync.lease SET expires_at = '-infinity' WHERE epoch = $1",
            lease.epoch,
            self.stamps.settled(),
        )
        .execute(&mut session)
        .await
        .map_err(failed())?;
        session.release();
        Ok(())
    }

    /// Who leads now, by the database's clock.
    pub async fn leader(&self) -> Result<Option<Holder>, StoreError> {
        sqlx::query_as!(
            Holder,
            "SELECT holder, acquired_at FROM heymarket_sync.lease
             WHERE expires_at > clock_timestamp()
               AND expires_at <= clock_timestamp() + make_interval(secs => $1)",
            LEASE_AHEAD.as_secs_f64(),
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(StoreError::query("asking who leads"))
    }
}

async fn begin_uncrashed(connection: impl PgExecutor<'_>, epoch: i64) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH former AS (DELETE FROM heymarket_sync.uncrashed WHERE epoch <> $1)
         INSERT INTO heymarket_sync.uncrashed (epoch) VALUES ($1) ON CONFLICT DO NOTHING",
        epoch
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("taking the lead"))?;
    Ok(())
}

/// Fails the transaction of a former leader, and of one whose server has been started again, and makes a takeover wait
/// for that of the present one.
pub(super) async fn check(connection: impl PgExecutor<'_>, lease: &Lease) -> Result<(), StoreError> {
    let same_server = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM heymarket_sync.uncrashed u
                          WHERE u.epoch = l.epoch AND u.server_started = pg_postmaster_start_time()) AS "same_server!"
           FROM heymarket_sync.lease l WHERE l.epoch = $1 FOR KEY SHARE OF l"#,
        lease.epoch
    )
    .fetch_optional(connection)
    .await
    .map_err(StoreError::query("checking the lead"))?;
    match same_server {
        Some(true) => Ok(()),
        Some(false) => Err(StoreError::ServerRestarted),
        None => Err(StoreError::LeadLost),
    }
}
