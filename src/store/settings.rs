//! What every session has in force, whatever is set on the role, the database or the server, and however a connection
//! pooler left it.
//!
//! It is set once the session is there: a pooler such as PgBouncer refuses it at the start of one.

use std::fmt::Write as _;
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

/// Settings by name. One that the server does not know (`transaction_timeout` before PostgreSQL 17) is left out.
const SETTINGS: [(&str, &str); 22] = [
    // A frozen process must not hold rows against its successor, and a vanished one must not hold its session; over
    // Unix sockets the server ignores the TCP settings.
    ("idle_in_transaction_session_timeout", "2s"),
    ("lock_timeout", LOCK_TIMEOUT),
    ("statement_timeout", "60s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    // Sessions are kept between the ticks; a transaction has its own bound.
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    // What statements count on: each sees what others have committed by then, text reads as it was written, and names
    // without a schema are PostgreSQL's own.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("search_path", "pg_catalog, public"),
    ("client_encoding", "UTF8"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("row_security", "on"),
    // Compiling a plan costs more than the lookups that it speeds up.
    ("jit", "off"),
];

/// How long a statement waits for a lock; others may wait behind it for as long.
pub(super) const LOCK_TIMEOUT: &str = "3s";

/// Statements that set them. A session that a pooler had given to another client may still have plans of the names that
/// ours will get. A transaction that waits for the disk must do so: a withdrawal that a crash undoes would be a lie.
static STATEMENTS: LazyLock<String> = LazyLock::new(|| {
    let mut values = String::new();
    for (name, value) in SETTINGS {
        let comma = if values.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(values, "{comma}('{name}', '{value}')");
    }
    format!(
        "DEALLOCATE ALL;
         SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES {values}) AS s (name, value)
         WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL;
         SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
         WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"
    )
});

/// How often it is looked whether sessions are our own: a pooler with several idle ones may give the same twice.
const LOOKS: usize = 3;

/// Puts the settings in force.
pub(super) async fn set(session: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(STATEMENTS.as_str())).execute(session).await.map(drop)
}

/// Whether a pooler leads each transaction of these two connections to a session of its choice (transaction or statement
/// pooling), so that settings and prepared statements are not where they are needed.
pub(super) async fn is_pooled(first: &mut PgConnection, second: &mut PgConnection) -> sqlx::Result<bool> {
    let process = pid(first).await?;
    for _ in 0..LOOKS {
        // What the first one had is given to the second, and kept by its transaction.
        if let Err(error) = sqlx::raw_sql("BEGIN").execute(&mut *second).await {
            // Statement pooling has no transactions.
            return if error.as_database_error().is_some() { Ok(true) } else { Err(error) };
        }
        if pid(second).await? == process || pid(first).await? != process {
            return Ok(true);
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut *second).await?;
    }
    Ok(false)
}

/// The server's process behind the connection; without a prepared statement, which a pooler may not know.
async fn pid(session: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("SELECT pg_catalog.pg_backend_pid()").fetch_one(session).await?.try_get(0)
}
