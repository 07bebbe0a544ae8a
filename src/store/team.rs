//! The team that the database mirrors.

use std::time::Duration;

use chrono::{DateTime, Utc};

use sqlx::PgConnection;

use super::{Lease, Store, StoreError, lease};

/// How long a statement on the one row may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How long the look through the contacts may take; the server itself ends a statement after a minute.
const CONTACTS_WITHIN: Duration = Duration::from_secs(70);
/// Teams that the contacts are looked through for: more are as good as none in common.
const TEAMS_LOOKED_FOR: i64 = 100;

/// The team that the database is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundTeam {
    pub id: i64,
    pub name: Option<String>,
    /// The endpoint that named it last.
    pub source: String,
    pub bound_at: DateTime<Utc>,
    /// When a key was last found to be the team's.
    pub confirmed_at: DateTime<Utc>,
}

impl Store {
    /// The team that the database is bound to; `None` before the first binding.
    pub async fn team(&self) -> Result<Option<BoundTeam>, StoreError> {
        let failed = || StoreError::query("reading which team the database is bound to");
        in_time(WITHIN, failed(), async {
            let mut session = self.asking.session().await.map_err(failed())?;
            let bound = read(session.connection()).await.map_err(failed())?;
            self.asking.keep(session);
            Ok(bound)
        })
        .await
    }

    /// The teams that the held contacts name, those of most contacts first, at most 100. Reads all contacts.
    pub async fn contacts_teams(&self) -> Result<Vec<i64>, StoreError> {
        let failed = || StoreError::query("reading which teams the contacts belong to");
        in_time(CONTACTS_WITHIN, failed(), async {
            let mut session = self.asking.session().await.map_err(failed())?;
            // 0 stands for "not set", as in all of the source's integers.
            let teams = sqlx::query_scalar!(
                r#"SELECT team_id AS "team_id!" FROM heymarket.contacts WHERE team_id <> 0
                   GROUP BY team_id ORDER BY count(*) DESC, team_id LIMIT $1"#,
                TEAMS_LOOKED_FOR
            )
            .fetch_all(&mut session)
            .await
            .map_err(failed())?;
            self.asking.keep(session);
            Ok(teams)
        })
        .await
    }

    /// Binds the database to a team, or notes that a key of the team it is bound to was seen. Returns the team that
    /// it is bound to then: another one, if it is bound to another.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`] and [`StoreError::ServerRestarted`], which end the lead.
    pub async fn bind_team(
        &self,
        lease: &Lease,
        id: i64,
        name: Option<&str>,
        source: &str,
    ) -> Result<Option<BoundTeam>, StoreError> {
        let failed = || StoreError::query("binding the database to a team");
        in_time(WITHIN, failed(), async {
            let mut transaction = self.pool.begin().await.map_err(failed())?;
            sqlx::query!(
                "INSERT INTO heymarket_sync.team AS held (id, name, source) VALUES ($1, $2, $3)
                 ON CONFLICT (singleton) DO UPDATE
                 SET name = coalesce(excluded.name, held.name), source = excluded.source,
                     confirmed_at = excluded.confirmed_at
                 WHERE held.id = excluded.id",
                id,
                name,
                source,
            )
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
            let bound = read(transaction.connection()).await.map_err(failed())?;
            lease::check(&mut *transaction, lease).await?;
            transaction.commit().await.map_err(failed())?;
            Ok(bound)
        })
        .await
    }
}

/// As [`Store::team`], on a session of the caller's.
pub(super) async fn read(connection: &mut PgConnection) -> Result<Option<BoundTeam>, sqlx::Error> {
    sqlx::query_as!(BoundTeam, "SELECT id, name, source, bound_at, confirmed_at FROM heymarket_sync.team")
        .fetch_optional(connection)
        .await
}

/// Returns what `asking` brings, or that it took too long: a server whose machine has vanished never answers.
async fn in_time<T>(
    within: Duration,
    late: impl FnOnce(sqlx::Error) -> StoreError,
    asking: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(late(sqlx::Error::Io(elapsed.into()))),
    }
}
