//! Connections: session settings, what the server is, and errors that say what to do.

use std::{io, str::FromStr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::Semaphore;

use crate::api::model::Stream;

use super::{
    Store, StoreError,
    address::{self, Address},
    availability::{Availability, Write},
    error::Cause,
    kept::Kept,
    sessions::Sessions,
    settings,
    settled::Stamps,
};

pub use super::address::Reread;

/// How long one connection may take to be made, or to be had from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The oldest PostgreSQL that has multiranges.
const OLDEST_SERVER: i32 = 140_000;

/// How long a session of the pool may take to say that it can be used.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to the database at `url` (`postgres://user:password@host:port/database`), with at most
/// `max_connections` connections (2 or more), made as they are needed. One for each stream, but half of them at most,
/// are kept for writing rows: their sessions have the plans ready, and their buffers are the only ones that grow with
/// the size of a batch. Of three or more, the leader keeps one for what it asks all the time.
///
/// # Errors
/// [`StoreError::Address`] where `url` cannot be read; [`StoreError::Pooled`] where a connection pooler leads each
/// transaction to another session; [`StoreError::Connect`] with what to do otherwise.
pub async fn connect(url: &SecretString, max_connections: u32) -> Result<Store, StoreError> {
    connect_rereading(url, max_connections, None).await
}

/// The same; `again` reads the address again where the server refuses the login, now or at any later connection.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_rereading(
    url: &SecretString,
    max_connections: u32,
    again: Option<Reread>,
) -> Result<Store, StoreError> {
    let mut url = url.clone();
    let mut options = options(&url)?;
    let mut reached = reach(&options).await;
    if let (Err(error), Some(again)) = (&reached, &again)
        && error.refuses_login()
        && let Some(other) = address::read(again).await
    {
        (url, options) = (other.url, other.options);
        reached = reach(&options).await;
    }
    reached?;
    let pool = |connections: u32| {
        PgPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(|session, _| Box::pin(settings::set(session)))
            // Instead of a ping. A session that was left on a server that takes no more writes (after a failover, or
            // a change of its defaults) is closed, so that the next one is made where the address leads now.
            .test_before_acquire(false)
            .before_acquire(|session, _| {
                Box::pin(async move {
                    let read_only = sqlx::query_scalar!(
                        r#"SELECT current_setting('transaction_read_only') = 'on' AS "read_only!""#
                    );
                    let told = tokio::time::timeout(CHECK_TIMEOUT, read_only.fetch_one(session)).await;
                    Ok(matches!(told, Ok(Ok(false))))
                })
            })
            .connect_lazy_with(options.clone())
    };
    let writers = (max_connections / 2).clamp(1, Stream::ALL.len() as u32);
    let others = max_connections.saturating_sub(writers);
    let (pool, writer) = (pool(others), pool(writers));
    let address = again.map(|again| Arc::new(Address::new(url, again, [pool.clone(), writer.clone()])));
    let sessions = |pool| Sessions::of(pool, address.clone());
    let (pool, writer) = (sessions(pool), sessions(writer));
    let asking = Kept::of(pool.clone(), usize::from(others > 1));
    let writing = Kept::of(writer.clone(), writers as usize);
    let turns = Arc::new(Semaphore::new(writers as usize));
    let over_unix_socket = is_unix_socket(&options);
    Ok(Store {
        pool,
        writer,
        asking,
        writing,
        turns,
        availability: Availability::default(),
        stamps: Stamps::default(),
        over_unix_socket,
        synchronous_commit: false,
    })
}

/// Whether the address leads to a Unix socket of this machine.
pub(super) fn is_unix_socket(options: &PgConnectOptions) -> bool {
    options.get_socket().is_some() || options.get_host().starts_with('/')
}

/// Makes connections and ends them: one as every session is, and one more to see whether sessions are our own. The pool
/// retries a refused connection until it only has a timeout to report; this gives the reason.
async fn reach(options: &PgConnectOptions) -> Result<(), StoreError> {
    let trying = async {
        let mut first = session(options).await?;
        let mut second = session(options).await?;
        let pooled = settings::is_pooled(&mut first, &mut second).await;
        // Whether the ends are acknowledged is of no interest.
        let _ = futures::join!(first.close(), second.close());
        pooled
    };
    let failed =
        |source: Cause, advice: String| StoreError::Connect { target: target(options), advice, source };
    match tokio::time::timeout(CONNECT_TIMEOUT, trying).await {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => Err(StoreError::Pooled { target: target(options) }),
        Ok(Err(error)) => {
            let advice = advice(&error, options);
            Err(failed(Cause::from(error), advice))
        }
        Err(_) => Err(failed(
            Cause::timed_out(CONNECT_TIMEOUT),
            "check host, port and firewall, and that a connection pooler there has a server connection left"
                .to_owned(),
        )),
    }
}

/// A session of its own, with the settings that every session has.
pub(super) async fn session(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut session = options.connect().await?;
    settings::set(&mut session).await?;
    Ok(session)
}

/// What is known of the server and of the role's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Such as 180001 for 18.1.
    pub version_num: i32,
    /// Such as `18.1`.
    pub version: String,
    pub encoding: String,
    /// The server is a standby, which takes no writes.
    pub in_recovery: bool,
    /// The server, the database or the role asks that nothing be written.
    pub read_only: bool,
    /// The role may create schemas in the database.
    pub can_create: bool,
}

impl Store {
    /// Whether a connection can be made now, and why not; an error counts as an outage.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let reached = reach(&self.pool().connect_options()).await;
        if reached.is_err() {
            self.availability.note(Write::Lease, &reached);
        }
        reached
    }

    /// Asks the server what it is.
    ///
    /// # Errors
    /// [`StoreError::TooOld`] below PostgreSQL 14; [`StoreError::NotUtf8`] for another encoding.
    pub async fn check_server(&self) -> Result<ServerInfo, StoreError> {
        let row = sqlx::query!(
            r#"
            SELECT current_setting('server_version_num')::int AS "version_num!",
                   current_setting('server_version') AS "version!",
                   current_setting('server_encoding') AS "encoding!",
                   current_database()::text AS "database!",
                   pg_is_in_recovery() AS "in_recovery!",
                   current_setting('transaction_read_only') = 'on' AS "read_only!",
                   has_database_privilege(current_database(), 'CREATE') AS "can_create!"
            "#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::query("asking for the server's version"))?;
        if row.version_num < OLDEST_SERVER {
            return Err(StoreError::TooOld { version: row.version });
        }
        if row.encoding != "UTF8" {
            return Err(StoreError::NotUtf8 { database: row.database, encoding: row.encoding });
        }
        Ok(ServerInfo {
            version_num: row.version_num,
            version: row.version,
            encoding: row.encoding,
            in_recovery: row.in_recovery,
            read_only: row.read_only,
            can_create: row.can_create,
        })
    }
}

/// How to connect to `url`. Settings of the session are no part of it: a connection pooler refuses those.
pub(super) fn options(url: &SecretString) -> Result<PgConnectOptions, StoreError> {
    let url = url.expose_secret();
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(StoreError::Address { reason: "it does not begin with postgres://".to_owned() });
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Address {
        reason: match error {
            sqlx::Error::Configuration(reason) => reason.to_string(),
            other => other.to_string(),
        },
    })?;
    Ok(options
        .application_name("heymarket-sync")
        .extra_float_digits(None)
        // Statements are long and slow ones are expected while history is filled.
        .disable_statement_logging())
}

/// Where a connection goes to, without the password.
fn target(options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    let host = match options.get_socket() {
        Some(directory) => directory.display().to_string(),
        None => options.get_host().to_owned(),
    };
    format!("{host}, port {}, database {database:?}, as user {user:?}", options.get_port())
}

/// What the reader of `error` can do.
fn advice(error: &sqlx::Error, options: &PgConnectOptions) -> String {
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    match error {
        sqlx::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "nothing listens there: start PostgreSQL, or correct host and port".to_owned()
            }
            io::ErrorKind::NotFound => {
                "there is no such socket: start PostgreSQL, or correct the directory and port".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                "the socket may not be opened by this user: check the directory's permissions".to_owned()
            }
            _ => "check that the host name is right and that the server can be reached".to_owned(),
        },
        sqlx::Error::Tls(_) => {
            "encryption could not be agreed on: set sslmode (require, verify-full, or disable \
                                where the server has no TLS) and sslrootcert in the address"
                .to_owned()
        }
        sqlx::Error::Database(said) => match said.code().as_deref() {
            Some("28P01") => {
                format!("the password of user {user:?} is wrong or missing: correct the address")
            }
            Some("28000") => {
                format!("user {user:?} may not log in: create the role, or allow it in pg_hba.conf")
            }
            Some("3D000") => {
                format!(
                    "the database does not exist: create it with `createdb {database}`, or correct the address"
                )
            }
            Some("42501") => format!("grant it: GRANT CONNECT ON DATABASE {database} TO {user}"),
            Some("08P01") => {
                "a connection pooler refuses that: correct user and password, take `options` out of the \
                              address, or name the server's own port"
                    .to_owned()
            }
            Some("53300") => "the server has no connection left: lower database.max_connections, or raise \
                              max_connections of the server"
                .to_owned(),
            Some("57P03") => "the server is starting or stopping: try again in a moment".to_owned(),
            _ => "see the server's log".to_owned(),
        },
        _ => "check that PostgreSQL answers there, not another service".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> PgConnectOptions {
        options(&SecretString::from(url)).unwrap()
    }

    #[test]
    fn a_target_names_everything_but_the_password() {
        let options = parsed("postgres://sync:hunter2@db.example:6543/mirror");
        assert_eq!(target(&options), "db.example, port 6543, database \"mirror\", as user \"sync\"");
        let options = parsed("postgres://sync:hunter2@%2Frun%2Fpg/mirror");
        assert_eq!(target(&options), "/run/pg, port 5432, database \"mirror\", as user \"sync\"");
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        for url in ["mysql://root@localhost/mirror", "localhost/mirror", "postgres://sync@host:port/mirror"] {
            let error = options(&SecretString::from(url)).unwrap_err();
            assert!(matches!(error, StoreError::Address { .. }), "{url}: {error}");
        }
    }

    #[test]
    fn nothing_but_the_address_names_startup_options() {
        let options = parsed("postgres://sync@localhost/mirror");
        assert_eq!(options.get_options(), None);
        let options = parsed("postgres://sync@localhost/mirror?options=-c%20work_mem%3D8MB");
        assert_eq!(options.get_options(), Some("-c work_mem=8MB"));
    }

    #[test]
    fn each_way_to_fail_says_what_to_do() {
        let options = parsed("postgres://sync@localhost/mirror");
        let io = |kind| sqlx::Error::Io(io::Error::from(kind));
        for (error, told) in [
            (io(io::ErrorKind::ConnectionRefused), "start PostgreSQL"),
            (io(io::ErrorKind::NotFound), "no such socket"),
            (io(io::ErrorKind::Other), "host name"),
            (sqlx::Error::Tls("bad certificate".into()), "sslmode"),
            (sqlx::Error::Protocol("what?".to_owned()), "not another service"),
        ] {
            let advice = advice(&error, &options);
            assert!(advice.contains(told), "{error}: {advice}");
        }
    }
}
