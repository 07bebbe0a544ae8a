//! The schema's version: migrations compiled in, applied in order, each in a transaction.

use sqlx::migrate::Migrator;

use super::{Store, StoreError};

/// Where applied migrations are recorded.
pub(super) const TABLE: &str = "heymarket_sync._migrations";

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

/// How a database with these migrations stands to this program.
///
/// # Errors
/// [`StoreError::SchemaAltered`] where one was applied with other content.
pub(super) fn compare(applied: &[(i64, Vec<u8>)]) -> Result<SchemaState, StoreError> {
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

/// The migrations that this program has.
pub(super) fn migrator() -> Migrator {
    sqlx::migrate!()
}

/// The newest version that this program knows.
pub(super) fn newest() -> i64 {
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
