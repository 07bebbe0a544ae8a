//! A PostgreSQL database per test, on one server per test process.
//!
//! The server is the embedded one, fast and unsafe, with its data in memory if there is room; a container
//! where there are no server programs or `TEST_POSTGRES=container` is set; or the one that
//! `TEST_DATABASE_URL` names, on which databases are created and dropped.
//! `HEYMARKET_SYNC__EMBEDDED__BIN_DIR` chooses the embedded server's version.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{OnceLock, mpsc as blocking},
    time::Duration,
};

use heymarket_sync::embedded::{Durability, Embedded, EmbeddedError, EmbeddedOptions};
use heymarket_sync::store::Store;
use reqwest::Url;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use testcontainers_modules::{
    postgres::Postgres,
    testcontainers::{ContainerAsync, ImageExt as _, runners::AsyncRunner as _},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Room that the shared-memory file system must have.
const ROOM: u64 = 1 << 30;

/// Jobs that may wait for the server's thread.
const QUEUE: usize = 64;

/// How long the end of a test waits for its database to be dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(30);

const CONTAINER_TAG: &str = "17";

static SERVER: OnceLock<Result<mpsc::Sender<Job>, String>> = OnceLock::new();

/// A database of one test's own; dropped with this value, whoever is still connected.
#[derive(Debug)]
pub struct TestDatabase {
    /// None on a server that is thrown away whole.
    name: Option<String>,
    url: String,
}

impl TestDatabase {
    /// A database on a server of the test's own.
    pub fn elsewhere(url: String) -> Self {
        Self { name: None, url }
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let (done, wait) = blocking::channel();
        if server().try_send(Job::Drop { name, done }).is_ok() {
            let _ = wait.recv_timeout(DROP_TIMEOUT);
        }
    }
}

/// A new database with all migrations applied.
pub async fn database() -> TestDatabase {
    create(true).await
}

/// A new database with nothing in it.
pub async fn empty_database() -> TestDatabase {
    create(false).await
}

/// Brings an empty database to the current schema: the template of all others.
async fn migrate_template(pool: &PgPool) -> Result<(), sqlx::Error> {
    Store::from_pool(pool.clone())
        .migrate()
        .await
        .map(drop)
        .map_err(|error| sqlx::Error::Configuration(error.into()))
}

async fn create(migrated: bool) -> TestDatabase {
    let server = tokio::task::spawn_blocking(server).await.unwrap();
    let (made, wait) = oneshot::channel();
    server.send(Job::Create { migrated, made }).await.expect("the test server's thread lives");
    wait.await.expect("the test server's thread lives").unwrap_or_else(|error| panic!("no database: {error}"))
}

enum Job {
    Create { migrated: bool, made: oneshot::Sender<Result<TestDatabase, sqlx::Error>> },
    Drop { name: String, done: blocking::Sender<()> },
}

/// The way to the thread that owns the server: it outlives the runtimes of the single tests.
fn server() -> &'static mpsc::Sender<Job> {
    let started = SERVER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (ready, wait) = blocking::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                match Server::start().await {
                    Ok(server) => {
                        ready.send(Ok(())).unwrap();
                        server.serve(queue).await;
                    }
                    Err(error) => ready.send(Err(error)).unwrap(),
                }
            });
        });
        wait.recv().unwrap_or_else(|_| Err("its thread panicked".to_owned())).map(|()| jobs)
    });
    started.as_ref().unwrap_or_else(|error| panic!("no PostgreSQL for the tests: {error}"))
}

struct Server {
    host: Host,
    url: Url,
    admin: PgConnection,
    /// None on a server that is not ours, where it would stay behind.
    template: Option<String>,
    /// From version 15 on copying files must be asked for.
    copy_strategy: &'static str,
    created: u32,
}

/// What keeps the server running.
enum Host {
    Embedded { _server: Embedded, _cleaner: ChildStdin },
    Container { _container: Box<ContainerAsync<Postgres>>, _cleaner: ChildStdin },
    Elsewhere,
}

impl Server {
    async fn start() -> Result<Server, String> {
        let (host, url) = host().await?;
        let url = Url::parse(&url).map_err(|error| format!("TEST_DATABASE_URL: {error}"))?;
        let connected = PgConnection::connect(url.as_str()).await;
        let mut admin = connected.map_err(|error| format!("can't connect: {error}"))?;
        let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
            .fetch_one(&mut admin)
            .await
            .map_err(|error| error.to_string())?;
        let copy_strategy = if version >= 150_000 { "STRATEGY FILE_COPY" } else { "" };
        let mut server = Server { host, url, admin, template: None, copy_strategy, created: 0 };
        if !matches!(server.host, Host::Elsewhere) {
            let name = "heymarket_test_template".to_owned();
            let made = server.create_migrated(&name).await;
            made.map_err(|error| format!("can't make the template: {error}"))?;
            server.template = Some(name);
        }
        Ok(server)
    }

    async fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.recv().await {
            match job {
                Job::Create { migrated, made } => {
                    let _ = made.send(self.create(migrated).await);
                }
                Job::Drop { name, done } => {
                    let _ = self.run(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
                    let _ = done.send(());
                }
            }
        }
    }

    async fn create(&mut self, migrated: bool) -> Result<TestDatabase, sqlx::Error> {
        self.created += 1;
        let name = format!("heymarket_test_{}_{}", std::process::id(), self.created);
        match self.template.clone() {
            Some(template) if migrated => self.copy(&template, &name).await?,
            None if migrated => self.create_migrated(&name).await?,
            _ => self.copy("template0", &name).await?,
        }
        Ok(TestDatabase { url: self.url_of(&name), name: Some(name) })
    }

    async fn create_migrated(&mut self, name: &str) -> Result<(), sqlx::Error> {
        self.copy("template0", name).await?;
        let pool = PgPool::connect(&self.url_of(name)).await?;
        migrate_template(&pool).await?;
        pool.close().await;
        Ok(())
    }

    async fn copy(&mut self, template: &str, name: &str) -> Result<(), sqlx::Error> {
        self.run(format!("CREATE DATABASE {name} TEMPLATE {template} {}", self.copy_strategy)).await
    }

    async fn run(&mut self, statement: String) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.admin).await.map(drop)
    }

    fn url_of(&self, name: &str) -> String {
        let mut url = self.url.clone();
        url.set_path(name);
        url.into()
    }
}

/// A running server and the address of a database on it that tests leave alone.
async fn host() -> Result<(Host, String), String> {
    if let Ok(url) = env::var("TEST_DATABASE_URL") {
        return Ok((Host::Elsewhere, url));
    }
    match env::var("TEST_POSTGRES").as_deref() {
        Ok("container") => container().await,
        Ok(other) => Err(format!("TEST_POSTGRES={other} is not known; the one value is \"container\"")),
        Err(_) => match embedded().await {
            Err(missing @ EmbeddedError::NoPrograms { .. }) => {
                container().await.map_err(|error| format!("{missing}\nand {error}"))
            }
            started => started.map_err(|error| error.to_string()),
        },
    }
}

async fn embedded() -> Result<(Host, String), EmbeddedError> {
    let dir = tempfile::Builder::new().prefix("heymarket-test-").tempdir_in(base_dir()).unwrap().keep();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let data_dir = dir.join("data");
    let wait =
        "n=0; while [ -e \"$1/data/postmaster.pid\" ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done";
    let cleaner = cleaner(&format!("{wait}; rm -rf \"$1\""), dir.to_str().expect("a plain path"));
    let options = EmbeddedOptions {
        data_dir: Some(data_dir),
        bin_dir: env::var_os("HEYMARKET_SYNC__EMBEDDED__BIN_DIR").map(PathBuf::from),
        durability: Durability::Fast,
    };
    let server = Embedded::start(&options, &CancellationToken::new()).await?;
    let url = server.url();
    Ok((Host::Embedded { _server: server, _cleaner: cleaner }, url))
}

/// Memory, if it has room, else the directory for temporary files.
fn base_dir() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize >= ROOM);
    if has_room { memory.to_owned() } else { PathBuf::from("/tmp") }
}

async fn container() -> Result<(Host, String), String> {
    let unsafe_and_roomy = ["postgres", "-c", "fsync=off", "-c", "max_connections=300"];
    let image = Postgres::default().with_tag(CONTAINER_TAG).with_cmd(unsafe_and_roomy);
    let no_container = |error| format!("no container: {error} (is the Docker daemon running?)");
    let container = image.start().await.map_err(no_container)?;
    let cleaner = cleaner("docker rm -f -v \"$1\"", container.id());
    let host = container.get_host().await.map_err(no_container)?;
    let port = container.get_host_port_ipv4(5432).await.map_err(no_container)?;
    let url = format!("postgres://postgres:postgres@{host}:{port}/postgres");
    Ok((Host::Container { _container: Box::new(container), _cleaner: cleaner }, url))
}

/// A shell that runs `script` on `argument` when this process has ended, however it ended: then the kernel
/// closes the pipe that the shell reads.
#[expect(clippy::zombie_processes, reason = "it outlives this process")]
fn cleaner(script: &str, argument: &str) -> ChildStdin {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &format!("read -r _; {script}"), "heymarket-test-cleaner", argument])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    shell.stdin.take().expect("invariant: its input is piped")
}
