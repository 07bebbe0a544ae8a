//! A PostgreSQL server of one test's own, which may be killed: it loses nothing that it has acknowledged, and is
//! started anew by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use heymarket_sync::embedded::{Durability, Embedded, EmbeddedOptions};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::database::TestDatabase;
use super::process::reached;

/// How long a killed server may take to come back: its children notice within seconds, then it replays its log.
const RESTART: Duration = Duration::from_secs(60);

pub struct TestServer {
    embedded: Embedded,
    _dir: TempDir,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::on(directory()).await
    }

    async fn on(dir: TempDir) -> Self {
        let options = EmbeddedOptions {
            data_dir: Some(dir.path().join("data")),
            bin_dir: std::env::var_os("HEYMARKET_SYNC__EMBEDDED__BIN_DIR").map(PathBuf::from),
            durability: Durability::Durable,
        };
        let embedded = Embedded::start(&options, &CancellationToken::new()).await.unwrap();
        Self { embedded, _dir: dir }
    }

    /// Stops the server and starts it again; the second one has all that it had until now.
    pub async fn forked(self) -> (Self, Self) {
        let Self { embedded, _dir: old } = self;
        embedded.stop().await.unwrap();
        let new = directory();
        let copied =
            Command::new("cp").arg("-a").arg(old.path().join("data")).arg(new.path()).status().unwrap();
        assert!(copied.success());
        (Self::on(old).await, Self::on(new).await)
    }

    /// The server's one database.
    pub fn database(&self) -> TestDatabase {
        TestDatabase::elsewhere(self.embedded.url())
    }

    pub fn data_dir(&self) -> &Path {
        self.embedded.data_dir()
    }

    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.embedded.url()).await
    }

    pub async fn run(&self, statements: &str) {
        let mut session = self.connect().await.unwrap();
        // One at a time: some may not be in a transaction.
        for statement in statements.split(';') {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut session).await.unwrap();
        }
    }

    /// Ends the server by `signal`, and returns when it takes connections again.
    pub async fn kill(&self, signal: Signal) {
        let before = self.postmaster().expect("the server runs");
        kill_process(before, signal).unwrap();
        let again =
            async || self.postmaster().is_some_and(|pid| pid != before) && self.connect().await.is_ok();
        reached("a new server", RESTART, again).await.unwrap();
    }

    /// Ends a session's process by SIGKILL: the server ends all others, and begins anew without being started again.
    pub async fn crash(&self) {
        let (mut victim, mut other) = (self.connect().await.unwrap(), self.connect().await.unwrap());
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut victim).await.unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        tokio::time::timeout(RESTART, async { while other.ping().await.is_ok() {} }).await.unwrap();
        reached("the server", RESTART, async || self.connect().await.is_ok()).await.unwrap();
    }

    pub async fn stop(self) {
        self.embedded.stop().await.unwrap();
    }

    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }
}

/// The server's user may pass it.
fn directory() -> TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}
