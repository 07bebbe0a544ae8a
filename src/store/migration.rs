//! Bringing the schema up to date.
//!
//! A migration that waits for a lock holds up everybody who comes after it, so it waits for a short time only, gives way,
//! and tries again. What it does may take hours (an index over millions of rows) and has no bound; instead a second
//! session sees that the server is at it.

use std::time::Duration;

use sqlx::migrate::Migrate;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    SchemaState, Store, StoreError,
    error::Cause,
    schema::{self, TABLE},
    sessions::Session,
    settings::LOCK_TIMEOUT,
};

/// The schema that the table of migrations is in.
const SCHEMA: &str = "heymarket_sync";
/// How long others are let through after a migration has waited for a lock in vain.
const GIVE_WAY: Duration = Duration::from_secs(2);
/// How often it is looked what a migration waits for, and whether the server is at it.
const LOOK: Duration = Duration::from_secs(1);
/// How long such a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may say nothing of a migration, or that it does not work on it, until it is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// How often the log is told that a migration goes on.
const PROGRESS: Duration = Duration::from_secs(60);
/// How long a session may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

impl Store {
    /// Brings the schema up to date and returns how many migrations that took. A schema that is up to
    /// date needs no right to create anything. Two programs that start together wait for each other.
    ///
    /// Waits for locks of others for as long as it takes, in short turns, between which others go first; the log tells
    /// for whom. Dropped, it ends: the migration under way is undone, those before it stay.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`], [`StoreError::SchemaAltered`]: the database is untouched.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let mut applied = 0;
        loop {
            match self.schema_state().await? {
                SchemaState::Current => return Ok(applied),
                SchemaState::Newer(found) => {
                    return Err(StoreError::too_new(found));
                }
                SchemaState::Empty | SchemaState::Pending(_) => {}
            }
            match self.apply(&mut applied).await {
                Ok(()) => return Ok(applied),
                Err(error) if error.is_lock() => tokio::time::sleep(GIVE_WAY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Applies what is pending, and counts it in `applied`.
    async fn apply(&self, applied: &mut usize) -> Result<(), StoreError> {
        let mut session = self.pool.session().await.map_err(failed)?.detach();
        let pid = prepare(&mut session).await.map_err(failed)?;
        let outcome = tokio::select! {
            outcome = apply_pending(&mut session, applied) => outcome,
            lost = self.lost(pid) => Err(lost),
        };
        let ending = async {
            // Its end would do that, but a pooler may keep it.
            let _ = session.unlock().await;
            session.close().await
        };
        // Whoever comes next waits until the server has noticed, where this fails.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ending).await;
        outcome
    }

    /// Returns when the server does not work on the session `pid` any more, though its answer has not come; logs what
    /// it waits for, and that it goes on.
    async fn lost(&self, pid: i32) -> StoreError {
        let mut watching = None;
        let begun = Instant::now();
        let mut working = begun;
        let mut told = Vec::new();
        let mut progress = begun;
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = tokio::time::timeout(LOOK_TIMEOUT, self.look(watching.take(), pid)).await;
            if let Ok(Ok((session, at_work, blockers))) = looked {
                watching = Some(session);
                if at_work {
                    working = Instant::now();
                }
                for blocker in blockers {
                    if told.contains(&blocker.pid) {
                        continue;
                    }
                    let (pid, user, application) = (blocker.pid, blocker.user, blocker.application);
                    let (state, since) = (blocker.state, blocker.since);
                    warn!(
                        pid,
                        user,
                        application,
                        state,
                        since,
                        "a migration waits for a lock that another session holds; it tries again until that has ended"
                    );
                    told.push(pid);
                }
            }
            if working.elapsed() > SILENCE {
                return StoreError::Migrate { source: Cause::timed_out(SILENCE) };
            }
            if progress.elapsed() > PROGRESS {
                info!(seconds = begun.elapsed().as_secs(), "the migration goes on");
                progress = Instant::now();
            }
        }
    }

    /// Whether the server works on the session `pid`, and which sessions that one waits for.
    async fn look(
        &self,
        session: Option<Session>,
        pid: i32,
    ) -> Result<(Session, bool, Vec<Blocker>), sqlx::Error> {
        let mut session = match session {
            Some(session) => session,
            None => self.pool.session().await?,
        };
        // Where the server does not track what sessions do, this one is taken to be at work.
        let at_work = sqlx::query_scalar!(
            r#"SELECT coalesce(state IN ('active', 'disabled'), true) AS "at_work!" FROM pg_stat_activity WHERE pid = $1"#,
            pid
        )
        .fetch_optional(&mut session)
        .await?;
        let blockers = sqlx::query_as!(
            Blocker,
            r#"SELECT pid AS "pid!", usename::text AS user, application_name AS application, state,
                      xact_start::text AS since
               FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))"#,
            pid
        )
        .fetch_all(&mut session)
        .await?;
        Ok((session, at_work.unwrap_or(false), blockers))
    }
}

/// A session that holds what a migration waits for. What is unknown of it is of a role that may not be looked at.
struct Blocker {
    pid: i32,
    user: Option<String>,
    application: Option<String>,
    state: Option<String>,
    /// Since when its transaction is open.
    since: Option<String>,
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Migrate { source: Cause::from(error) }
}

/// Readies the session for statements that take long, and returns the server's process behind it.
async fn prepare(session: &mut PgConnection) -> sqlx::Result<i32> {
    let row = sqlx::query!(
        r#"SELECT pg_backend_pid() AS "pid!", set_config('statement_timeout', '0', false) AS "statement!",
                  set_config('lock_timeout', $1, false) AS "lock!""#,
        LOCK_TIMEOUT
    )
    .fetch_one(&mut *session)
    .await?;
    // An index is not built to its end for a program that has ended. Servers on some systems cannot do it.
    let _ = sqlx::raw_sql("SET client_connection_check_interval = '5s'").execute(session).await;
    Ok(row.pid)
}

async fn apply_pending(session: &mut PgConnection, applied: &mut usize) -> Result<(), StoreError> {
    let failed = |error| StoreError::Migrate { source: Cause::from(error) };
    session.lock().await.map_err(failed)?;
    session.create_schema_if_not_exists(SCHEMA).await.map_err(failed)?;
    session.ensure_migrations_table(TABLE).await.map_err(failed)?;
    let known = schema::migrator();
    let present = session.list_applied_migrations(TABLE).await.map_err(failed)?;
    let present: Vec<_> =
        present.into_iter().map(|migration| (migration.version, migration.checksum.to_vec())).collect();
    // Another program may have been at it meanwhile.
    if let SchemaState::Newer(found) = schema::compare(&present)? {
        return Err(StoreError::too_new(found));
    }
    let pending: Vec<_> = known
        .iter()
        .filter(|migration| !present.iter().any(|(version, _)| *version == migration.version))
        .collect();
    for (position, migration) in pending.iter().enumerate() {
        let (version, description) = (migration.version, &*migration.description);
        let (number, of) = (position + 1, pending.len());
        info!(version, description, number, of, "applying a migration");
        let took = session.apply(TABLE, migration).await.map_err(failed)?;
        info!(version, seconds = took.as_secs_f64(), "applied the migration");
        *applied += 1;
    }
    Ok(())
}
