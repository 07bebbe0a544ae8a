//! The schema's version: migrations compiled in, applied in order, each in a transaction.

use sqlx::{Connection, migrate::Migrator};

use super::{Store, StoreError, error::Cause};

/// Where applied migrations are recorded.
const TABLE: &str = "heymarket_sync._migrations";

/// How the database's schema stands to this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// Nothing of this program is in the database.
    Empty,
    /// So many migrations are still to be applied.
    Pending(usize),
    Current,
    /// A newer program brought it to this version.
    Newer(i64),
}

impl Store {
    /// Brings the schema up to date and returns how many migrations that took. A schema that is up to
    /// date needs no right to create anything. Two programs that start together wait for each other.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`], [`StoreError::SchemaAltered`]: the database is untouched.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let pending = match self.schema_state().await? {
            SchemaState::Current => return Ok(0),
            SchemaState::Newer(found) => return Err(StoreError::SchemaTooNew { found, known: newest() }),
            SchemaState::Pending(pending) => pending,
            SchemaState::Empty => migrator().iter().count(),
        };
        let failed = |error| StoreError::Migrate { source: Cause::from(error) };
        let mut connection = self.pool.acquire().await.map_err(failed)?.detach();
        // Building an index over millions of rows takes as long as it takes, and so does
        // waiting for the program that is at it.
        sqlx::query!(
            r#"SELECT set_config('statement_timeout', '0', false) AS "statement!",
                      set_config('lock_timeout', '0', false) AS "lock!""#
        )
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
        let migrated = migrator().run_direct(None, &mut connection, false).await;
        // Closing the session also gives back the migration lock after an error.
        let closed = connection.close().await;
        migrated.map_err(|error| StoreError::Migrate { source: Cause::from(error) })?;
        closed.map_err(failed)?;
        Ok(pending)
    }

    /// Compares the recorded migrations with those compiled in. Reads only.
    ///
    /// # Errors
    /// [`StoreError::SchemaAltered`] where a migration was applied with other content.
    pub async fn schema_state(&self) -> Result<SchemaState, StoreError> {
        let failed = || StoreError::query("reading the schema's version");
        let exists = sqlx::query_scalar!(
            r#"SELECT to_regclass('heymarket_sync._migrations') IS NOT NULL AS "exists!""#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(failed())?;
        if !exists {
            return Ok(SchemaState::Empty);
        }
        // Not a checked query: the table is sqlx's own and not in the migrations.
        let applied: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT version, checksum FROM heymarket_sync._migrations ORDER BY version")
                .fetch_all(&self.pool)
                .await
                .map_err(failed())?;
        compare(&applied)
    }
}

fn compare(applied: &[(i64, Vec<u8>)]) -> Result<SchemaState, StoreError> {
    let known = migrator();
    for (version, checksum) in applied {
        match known.iter().find(|migration| migration.version == *version) {
            None if *version > newest() => {
                let last = applied.iter().map(|(version, _)| *version).max().unwrap_or(*version);
                return Ok(SchemaState::Newer(last));
            }
            Some(migration) if migration.checksum.as_ref() == checksum.as_slice() => {}
            _ => return Err(StoreError::SchemaAltered { version: *version }),
        }
    }
    Ok(match known.iter().count() - applied.len() {
        0 => SchemaState::Current,
        _ if applied.is_empty() => SchemaState::Empty,
        pending => SchemaState::Pending(pending),
    })
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name(TABLE);
    migrator.create_schema("heymarket_sync");
    migrator
}

/// The newest version that this program knows.
fn newest() -> i64 {
    migrator().iter().map(|migration| migration.version).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_migrations_tell_the_state() {
        let all: Vec<(i64, Vec<u8>)> =
            migrator().iter().map(|known| (known.version, known.checksum.to_vec())).collect();
        assert_eq!(compare(&[]).unwrap(), SchemaState::Empty);
        assert_eq!(compare(&all[..1]).unwrap(), SchemaState::Pending(all.len() - 1));
        assert_eq!(compare(&all).unwrap(), SchemaState::Current);

        let mut newer = all.clone();
        newer.push((newest() + 1, vec![1]));
        newer.push((newest() + 2, vec![2]));
        assert_eq!(compare(&newer).unwrap(), SchemaState::Newer(newest() + 2));

        let mut altered = all;
        altered[0].1[0] ^= 1;
        assert!(matches!(compare(&altered), Err(StoreError::SchemaAltered { version: 1 })));
    }
}
