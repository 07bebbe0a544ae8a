//! What can go wrong with the database, and what may be done about it.

use std::{error::Error, fmt, time::Duration};

use sqlx::migrate::MigrateError;

use super::schema;

/// Why the store could not do what was asked.
///
/// Neither messages nor `Debug` ever hold a password or a value of a mirrored row.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database address cannot be used: {reason}; expected postgres://user@host:5432/database")]
    Address { reason: String },

    #[error("no connection to PostgreSQL at {target}; {advice}")]
    Connect {
        /// User, host, port and database; never the password.
        target: String,
        advice: String,
        source: Cause,
    },

    #[error(
        "a connection pooler at {target} leads each transaction to another session of the server (transaction or \
         statement pooling), where settings and prepared statements of the session are lost; have it pool sessions (for \
         PgBouncer: pool_mode=session of this database), or name the server's own port"
    )]
    Pooled { target: String },

    #[error(
        "PostgreSQL {version} is too old: version 14 or newer is needed; upgrade the server or name another one"
    )]
    TooOld { version: String },

    #[error(
        "database {database:?} has encoding {encoding}, which cannot hold every text: create one with \
         createdb --encoding=UTF8 --template=template0 and name that"
    )]
    NotUtf8 { database: String, encoding: String },

    #[error(
        "the schema is at version {found}, newer than this program, which knows {known}: run a newer \
         heymarket-sync; nothing was changed"
    )]
    SchemaTooNew { found: i64, known: i64 },

    #[error(
        "migration {version} was applied with other content than this program has: the database was made by \
         another build; nothing was changed"
    )]
    SchemaAltered { version: i64 },

    #[error(
        "the schema could not be brought up to date; the role needs CREATE on the database, or run `migrate` \
         as one that has it"
    )]
    Migrate { source: Cause },

    #[error("the lead was lost to another instance; nothing of this transaction was kept")]
    LeadLost,

    #[error(
        "the database server was started again or replaced, and may have lost what was committed last; reading goes \
         on from what it holds"
    )]
    ServerRestarted,

    #[error(
        "the rows would have appeared below heymarket.settled_at(), where readers may have been already; nothing of \
         this transaction was kept, and it is done again with a later stamp"
    )]
    Overtaken,

    #[error("the window of pass {pass:?} on {line:?} is empty")]
    EmptyWindow { line: String, pass: String },

    #[error(
        "the database names a stream {name:?} that this program does not know; run a newer heymarket-sync"
    )]
    UnknownStream { name: String },

    #[error("{doing} failed")]
    Query { doing: &'static str, source: Cause },
}

impl StoreError {
    pub(super) fn query(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| Self::Query { doing, source: Cause::from(error) }
    }

    /// What was being done was not done within `bound`, and the server said nothing.
    pub(super) fn unanswered(doing: &'static str, bound: Duration) -> Self {
        Self::Query { doing, source: Cause::timed_out(bound) }
    }

    /// Whether the server said nothing: the connection broke, none could be had, or no answer came in time.
    pub(super) fn is_unanswered(&self) -> bool {
        self.cause().is_some_and(|cause| cause.disconnected)
    }

    /// The schema is at version `found`, which this program does not know.
    pub fn too_new(found: i64) -> Self {
        Self::SchemaTooNew { found, known: schema::newest() }
    }

    /// Whether the server refuses the user or the password.
    pub(super) fn refuses_login(&self) -> bool {
        self.sqlstate().is_some_and(is_login_state)
    }

    /// Whether the same may succeed if it is tried again: connections lost, locks and serialization, a stamp that the
    /// mark has passed, a server that stops, starts, is full or only stands by.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Overtaken) || self.cause().is_some_and(Cause::is_transient)
    }

    /// Whether PostgreSQL refuses a value of a row (SQLSTATE class 22 or 54): a smaller batch finds it.
    pub fn is_data(&self) -> bool {
        matches!(self, Self::Query { .. }) && self.cause().is_some_and(|cause| is_data_state(&cause.sqlstate))
    }

    /// Whether another session has inserted a row that was to be new: an upsert goes through.
    pub fn is_duplicate(&self) -> bool {
        self.sqlstate() == Some("23505")
    }

    /// Whether another session holds a lock that was wanted, or both waited for each other.
    pub(super) fn is_lock(&self) -> bool {
        matches!(self.sqlstate(), Some("55P03" | "40P01"))
    }

    /// Whether a table of this program is not there: the schema was never applied, or the database was made anew.
    pub fn is_undefined(&self) -> bool {
        matches!(self.sqlstate(), Some("42P01" | "3F000"))
    }

    /// The five characters by which PostgreSQL names the error, where the server named one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.cause().map(|cause| cause.sqlstate.as_str()).filter(|state| !state.is_empty())
    }

    fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Connect { source, .. } | Self::Migrate { source } | Self::Query { source, .. } => {
                Some(source)
            }
            _ => None,
        }
    }
}

/// What the server or the connection said.
#[derive(Debug)]
pub struct Cause {
    text: String,
    /// Empty where the error did not come from the server.
    sqlstate: String,
    /// The connection broke, or none could be had.
    disconnected: bool,
}

impl Cause {
    pub(super) fn timed_out(after: Duration) -> Self {
        Self { text: format!("no answer within {after:?}"), sqlstate: String::new(), disconnected: true }
    }

    fn is_transient(&self) -> bool {
        self.disconnected || is_transient_state(&self.sqlstate)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Cause {}

impl From<sqlx::Error> for Cause {
    fn from(error: sqlx::Error) -> Self {
        let disconnected = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed
        );
        let (text, sqlstate) = match &error {
            sqlx::Error::Database(said) => {
                let sqlstate = said.code().unwrap_or_default().into_owned();
                // The text of a refused value quotes the value.
                let text = if is_data_state(&sqlstate) {
                    format!("PostgreSQL refused a value (SQLSTATE {sqlstate})")
                } else {
                    format!("{} (SQLSTATE {sqlstate})", said.message())
                };
                (text, sqlstate)
            }
            sqlx::Error::PoolTimedOut => {
                let text = "no connection could be had in time: the server is away or has none left, or all of \
                            database.max_connections are in use";
                (text.to_owned(), String::new())
            }
            sqlx::Error::Migrate(migrate) => (migrate.to_string(), String::new()),
            other => (other.to_string(), String::new()),
        };
        Self { text, sqlstate, disconnected }
    }
}

impl From<MigrateError> for Cause {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => Self::from(error),
            MigrateError::ExecuteMigration(error, version) => {
                let cause = Self::from(error);
                Self { text: format!("migration {version}: {}", cause.text), ..cause }
            }
            other => Self { text: other.to_string(), sqlstate: String::new(), disconnected: false },
        }
    }
}

/// Class 22: data exception; 54: a program limit, such as a value too long for an index.
fn is_data_state(sqlstate: &str) -> bool {
    matches!(sqlstate.get(..2), Some("22" | "54"))
}

/// Whether the server, or a connection pooler before it, refuses the user or the password.
pub(super) fn refuses_login(error: &sqlx::Error) -> bool {
    let sqlstate = error.as_database_error().and_then(|said| said.code());
    sqlstate.is_some_and(|sqlstate| is_login_state(&sqlstate))
}

/// The last is what PgBouncer answers before version 1.19, to this and to all else that it refuses.
fn is_login_state(sqlstate: &str) -> bool {
    matches!(sqlstate, "28P01" | "28000" | "08P01")
}

fn is_transient_state(sqlstate: &str) -> bool {
    match sqlstate {
        // Serialization failure, deadlock, lock not available, idle in transaction too long,
        // read-only (a standby, or during failover), cancelled, I/O error.
        "40001" | "40P01" | "55P03" | "25P03" | "25006" | "57014" | "58030" => true,
        // The server stops, crashed, starts, or ended the session.
        "57P01" | "57P02" | "57P03" | "57P05" => true,
        // 08: connection; 53: out of disk, memory or connections.
        other => matches!(other.get(..2), Some("08" | "53")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_one_policy() {
        let cases = [
            ("22P02", true, false),
            ("22021", true, false),
            ("54000", true, false),
            ("23503", false, false),
            ("42501", false, false),
            ("42P01", false, false),
            ("40001", false, true),
            ("40P01", false, true),
            ("55P03", false, true),
            ("25P03", false, true),
            ("25006", false, true),
            ("57014", false, true),
            ("57P01", false, true),
            ("57P04", false, false),
            ("53100", false, true),
            ("53300", false, true),
            ("08006", false, true),
            ("", false, false),
        ];
        for (sqlstate, data, transient) in cases {
            assert_eq!(is_data_state(sqlstate), data, "{sqlstate} data");
            assert_eq!(is_transient_state(sqlstate), transient, "{sqlstate} transient");
        }
    }

    #[test]
    fn a_lost_connection_may_be_tried_again() {
        let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let error = StoreError::query("reading")(sqlx::Error::Io(lost));
        assert!(error.is_transient());
        assert!(!error.is_data());
        assert!(!StoreError::LeadLost.is_transient());
    }
}
