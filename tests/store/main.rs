//! The store on a real PostgreSQL.

mod books;
mod coverage;
mod hostile_role;
mod lead;
mod new_messages;
mod pgbouncer;
mod reject_bounds;
mod rows;
mod schema;
mod sessions;
mod settled;
#[path = "../support/mod.rs"]
mod support;
mod upserts;
mod versions;

use chrono::DateTime;
use heymarket_sync::store::{Lease, Store, connect};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Executor, Row};
use support::database::{TestDatabase, database, empty_database};

use rows::at;

/// A database of its own for a test.
struct Database {
    held: TestDatabase,
    store: Store,
}

impl Database {
    async fn empty() -> Self {
        Self::on(empty_database().await).await
    }

    async fn migrated() -> Self {
        Self::on(database().await).await
    }

    async fn on(held: TestDatabase) -> Self {
        let store = connect(&SecretString::from(held.url()), 8).await.unwrap();
        Self { held, store }
    }

    async fn led() -> (Self, Lease) {
        let database = Self::migrated().await;
        let lease = database.store.acquire_lease("test").await.unwrap().unwrap();
        (database, lease)
    }

    async fn drop(self) {
        self.store.close().await;
    }

    /// Lets the lease run out, as if its holder had fallen silent.
    async fn void_lease(&self) {
        let void = "UPDATE heymarket_sync.lease SET expires_at = clock_timestamp() - interval '1 ms'";
        self.store.pool().execute(void).await.unwrap();
    }

    /// The only row of a table, times as seconds of [`at`].
    async fn row(&self, table: &str) -> serde_json::Value {
        let select = format!("SELECT to_jsonb(t) - '_synced_at' FROM heymarket.{table} t");
        let mut row: serde_json::Value =
            sqlx::query_scalar(AssertSqlSafe(select)).fetch_one(self.store.pool()).await.unwrap();
        for value in row.as_object_mut().unwrap().values_mut() {
            if let Some(time) = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()) {
                *value = (time.to_utc() - at(0)).num_seconds().into();
            }
        }
        row
    }

    /// A text column of a table, by id.
    async fn texts(&self, table: &str, column: &str) -> Vec<String> {
        let select = format!("SELECT {column} FROM heymarket.{table} ORDER BY id");
        sqlx::query_scalar(AssertSqlSafe(select)).fetch_all(self.store.pool()).await.unwrap()
    }

    /// Where each row of the mirror lies, which transaction wrote it or locked it, and when.
    async fn places(&self) -> Vec<String> {
        let mut places = Vec::new();
        for (table, written) in [
            ("messages", "_synced_at"),
            ("conversations", "_synced_at"),
            ("contacts", "_synced_at"),
            ("conversation_members", "NULL"),
            ("contact_notes", "NULL"),
        ] {
            let select = format!(
                "SELECT format('%s %s %s %s %s', '{table}', ctid, xmin, xmax, {written}) AS place
                 FROM heymarket.{table} ORDER BY 1"
            );
            let rows = self.store.pool().fetch_all(AssertSqlSafe(select)).await.unwrap();
            places.extend(rows.iter().map(|row| row.get::<String, _>("place")));
        }
        places
    }
}
