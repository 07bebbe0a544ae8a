//! The embedded PostgreSQL with the product's durable settings, a database for each measurement, and raw COPY.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use heymarket_sync::embedded::{Durability, Embedded, EmbeddedOptions};
use heymarket_sync::store;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::cpu;

/// Copied for each measurement.
const TEMPLATE: &str = "bench_template";
/// The mirror, in an order that its foreign keys allow.
const TABLES: [&str; 5] = ["conversations", "conversation_members", "messages", "contacts", "contact_notes"];
/// Bytes that COPY sends at once.
const COPY_CHUNK: usize = 64 * 1024;
/// How long the server may take to add up what its sessions did.
const STATISTICS: Duration = Duration::from_secs(3);

pub struct Server {
    embedded: Embedded,
    admin: PgConnection,
    dir: TempDir,
    created: u32,
}

/// One database, migrated and empty at first.
pub struct Database {
    name: String,
    url: String,
}

/// Rows of the mirror outside the database, as binary COPY writes them, by ascending key.
pub struct Dump {
    tables: Vec<(&'static str, Vec<Vec<u8>>)>,
    /// Rows of the three streams; members and notes come along.
    pub rows: u64,
}

/// What the server had done at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    wal_bytes: i64,
    /// Rows inserted, changed or deleted in the mirror's tables.
    rows: i64,
    /// Dead tuples in them.
    dead: i64,
}

impl Server {
    pub async fn start(data_dir: Option<&Path>) -> Outcome<Self> {
        let parent = data_dir.map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::Builder::new().prefix("heymarket-bench-").tempdir_in(parent)?;
        // Where we are root, the server runs as another user, who must get through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let options = EmbeddedOptions {
            data_dir: Some(dir.path().join("postgres")),
            bin_dir: std::env::var_os("HEYMARKET_SYNC__EMBEDDED__BIN_DIR").map(PathBuf::from),
            durability: Durability::Durable,
        };
        let embedded = Embedded::start(&options, &CancellationToken::new()).await?;
        let mut admin = PgConnection::connect(&embedded.url()).await?;
        run(&mut admin, format!("CREATE DATABASE {TEMPLATE}")).await?;
        let url = url_of(&embedded, TEMPLATE);
        let store = store::connect(&SecretString::from(url), 2).await?;
        store.migrate().await?;
        store.pool().close().await;
        Ok(Self { embedded, admin, dir, created: 0 })
    }

    /// A directory that goes away with the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub async fn version(&mut self) -> Outcome<String> {
        Ok(sqlx::query_scalar("SHOW server_version").fetch_one(&mut self.admin).await?)
    }

    /// CPU time that its processes have spent, in seconds.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        let pid_file = fs::read_to_string(self.embedded.data_dir().join("postmaster.pid"))?;
        cpu::of_family(pid_file.lines().next().unwrap_or_default().parse()?)
    }

    /// A migrated database, with nothing left to do of what happened to the others.
    pub async fn database(&mut self) -> Outcome<Database> {
        self.created += 1;
        let name = format!("bench_{}", self.created);
        run(&mut self.admin, format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await?;
        run(&mut self.admin, "CHECKPOINT".to_owned()).await?;
        let url = url_of(&self.embedded, &name);
        Ok(Database { name, url })
    }

    /// Whether tables are vacuumed in the background, in all databases.
    pub async fn autovacuum(&mut self, on: bool) -> Outcome<()> {
        let setting = if on { "RESET autovacuum" } else { "SET autovacuum = off" };
        run(&mut self.admin, format!("ALTER SYSTEM {setting}")).await?;
        run(&mut self.admin, "SELECT pg_reload_conf()".to_owned()).await
    }

    pub async fn drop(&mut self, database: Database) -> Outcome<()> {
        run(&mut self.admin, format!("DROP DATABASE {} WITH (FORCE)", database.name)).await
    }

    pub async fn stop(self) -> Outcome<()> {
        self.admin.close().await?;
        Ok(self.embedded.stop().await?)
    }
}

impl Database {
    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn connect(&self) -> Outcome<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    /// Rows of the three streams.
    pub async fn rows(&self) -> Outcome<u64> {
        let mut session = self.connect().await?;
        let rows: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM heymarket.messages) + (SELECT count(*) FROM heymarket.conversations)
                  + (SELECT count(*) FROM heymarket.contacts)",
        )
        .fetch_one(&mut session)
        .await?;
        Ok(rows.unsigned_abs())
    }

    /// Time lines that the daemon keeps.
    pub async fn lines(&self) -> Outcome<u64> {
        let mut session = self.connect().await?;
        let lines: i64 =
            sqlx::query_scalar("SELECT count(*) FROM heymarket_sync.coverage WHERE pass = 'standing'")
                .fetch_one(&mut session)
                .await?;
        Ok(lines.unsigned_abs())
    }

    /// Requests for pages that the daemon has noted, and rows that came with them.
    pub async fn noted(&self) -> Outcome<(u64, u64)> {
        let mut session = self.connect().await?;
        let (requests, rows): (i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(requests), 0)::bigint, coalesce(sum(rows_read), 0)::bigint
             FROM heymarket_sync.runs",
        )
        .fetch_one(&mut session)
        .await?;
        Ok((requests.unsigned_abs(), rows.unsigned_abs()))
    }

    /// Does now what autovacuum and the checkpointer would do some time later, so that neither falls into a
    /// measurement.
    pub async fn settle(&self) -> Outcome<()> {
        let mut session = self.connect().await?;
        run(&mut session, "VACUUM (ANALYZE)".to_owned()).await?;
        run(&mut session, "CHECKPOINT".to_owned()).await
    }

    /// What the server has done until now; sessions that have ended are counted.
    pub async fn writes(&self) -> Outcome<Writes> {
        tokio::time::sleep(STATISTICS).await;
        let mut session = self.connect().await?;
        let (wal_bytes, rows, dead): (i64, i64, i64) = sqlx::query_as(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
                    sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint, sum(n_dead_tup)::bigint
             FROM pg_stat_user_tables WHERE schemaname = 'heymarket'",
        )
        .fetch_one(&mut session)
        .await?;
        Ok(Writes { wal_bytes, rows, dead })
    }

    /// All rows of the mirror.
    pub async fn dump(&self) -> Outcome<Dump> {
        let mut session = self.connect().await?;
        let mut tables = Vec::new();
        for table in TABLES {
            let copy =
                format!("COPY (SELECT * FROM heymarket.{table} ORDER BY 1, 2) TO STDOUT (FORMAT binary)");
            let mut rows = session.copy_out_raw(&copy).await?;
            let mut chunks = vec![Vec::with_capacity(COPY_CHUNK)];
            while let Some(row) = rows.try_next().await? {
                if chunks.last().is_none_or(|chunk| chunk.len() + row.len() > COPY_CHUNK) {
                    chunks.push(Vec::with_capacity(COPY_CHUNK));
                }
                if let Some(chunk) = chunks.last_mut() {
                    chunk.extend_from_slice(&row);
                }
            }
            drop(rows);
            tables.push((table, chunks));
        }
        Ok(Dump { tables, rows: self.rows().await? })
    }

    /// Copies all of `dump` into the empty tables, one COPY and one commit a table; seconds.
    pub async fn copy(&self, dump: &Dump) -> Outcome<f64> {
        let mut session = self.connect().await?;
        let started = Instant::now();
        for (table, chunks) in &dump.tables {
            let copy = format!("COPY heymarket.{table} FROM STDIN (FORMAT binary)");
            let mut sink = session.copy_in_raw(&copy).await?;
            for chunk in chunks {
                sink.send(chunk.as_slice()).await?;
            }
            sink.finish().await?;
        }
        Ok(started.elapsed().as_secs_f64())
    }
}

impl Writes {
    pub fn wal_bytes_since(&self, before: &Self) -> f64 {
        (self.wal_bytes - before.wal_bytes) as f64
    }

    pub fn rows_since(&self, before: &Self) -> f64 {
        (self.rows - before.rows) as f64
    }

    pub fn dead_since(&self, before: &Self) -> f64 {
        (self.dead - before.dead) as f64
    }
}

fn url_of(embedded: &Embedded, database: &str) -> String {
    let url = embedded.url();
    let (head, parameters) = url.split_once('?').unwrap_or((&url, ""));
    let server = head.rsplit_once('/').map_or(head, |(server, _)| server);
    format!("{server}/{database}?{parameters}")
}

async fn run(session: &mut PgConnection, statement: String) -> Outcome<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(session).await?;
    Ok(())
}
