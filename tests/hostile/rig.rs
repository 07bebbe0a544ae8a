//! A hostile sandbox, a database, and an engine between them that can die at any request.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heymarket_sync::app::{App, AppError};
use heymarket_sync::config::Settings;
use heymarket_sync::sandbox::{PageRead, RateLimit, Sandbox, SandboxOptions, SandboxState, TeamOptions};
use heymarket_sync::store::Store;
use heymarket_sync::sync::scheduler::SyncError;
use sqlx::PgPool;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::support::database::{TestDatabase, database};
use crate::support::settings;

/// Requests of one sync, at most: beyond it is an endless loop.
const REQUESTS_MAX: u64 = 8_000;
/// How long one sync may take.
const SYNC_MAX: Duration = Duration::from_secs(120);
/// More than the settle margin of the default settings, and less than what a token lives.
pub const BEYOND_MARGIN: TimeDelta = TimeDelta::seconds(150);

pub struct Rig {
    pool: PgPool,
    database: TestDatabase,
    sandbox: Sandbox,
    settings: Vec<(String, String)>,
    runtime: Runtime,
    /// Time that the test has let pass.
    passed: Cell<TimeDelta>,
}

/// How a sync ended.
#[derive(Debug)]
pub enum End {
    Done,
    /// Intervals stayed open.
    Open,
    Failed(AppError),
    /// It was cut off as SIGKILL would cut it off: all its tasks at once.
    Crashed,
}

impl End {
    /// For a failed assertion.
    pub fn told(&self) -> String {
        match self {
            Self::Failed(error) => heymarket_sync::telemetry::chain(error),
            end => format!("{end:?}"),
        }
    }
}

enum Signal {
    Crash,
    Endless,
}

impl Rig {
    /// A team of no rows.
    pub fn new(options: SandboxOptions) -> Self {
        let team = TeamOptions { messages: 0, conversations: 0, contacts: 0, ..TeamOptions::default() };
        let rate_limit = RateLimit { per_minute: None, ..RateLimit::default() };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sandbox, database, pool) = runtime.block_on(async {
            let sandbox = Sandbox::start(SandboxOptions { team, rate_limit, ..options }).await.unwrap();
            let database = database().await;
            let pool = PgPool::connect(database.url()).await.unwrap();
            (sandbox, database, pool)
        });
        let rig = Self { pool, database, sandbox, settings: Vec::new(), runtime, passed: Cell::default() };
        // Rechecks would hide what the standing pass loses.
        rig.set("STREAMS__MESSAGES__RECHECK", "[]")
            .set("STREAMS__CONVERSATIONS__RECHECK", "[]")
            .set("STREAMS__CONTACTS__RECHECK", "[]")
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        let name = format!("HEYMARKET_SYNC__{key}");
        self.settings.retain(|(set, _)| *set != name);
        self.settings.push((name, value.to_owned()));
        self
    }

    pub fn state(&self) -> &SandboxState {
        self.sandbox.state()
    }

    pub fn address(&self) -> SocketAddr {
        self.sandbox.address()
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub fn store(&self) -> Store {
        Store::from_pool(self.pool.clone())
    }

    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Does `act` after `time`, whatever the engine does meanwhile.
    pub fn after(&self, time: Duration, act: impl FnOnce(&SandboxState) + Send + 'static) {
        let state = self.state().clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(time).await;
            act(&state);
        });
    }

    /// Does `act` so long after `told` is told.
    pub fn once(
        &self,
        told: std::sync::mpsc::Receiver<()>,
        time: Duration,
        act: impl FnOnce(&SandboxState) + Send + 'static,
    ) {
        let state = self.state().clone();
        std::thread::spawn(move || {
            if told.recv().is_ok() {
                std::thread::sleep(time);
                act(&state);
            }
        });
    }

    /// Lets time pass, for the sandbox and for the engine.
    pub fn pass(&self, time: TimeDelta) {
        let passed = self.passed.get() + time;
        self.passed.set(passed);
        self.state().set_clock_skew(passed);
    }

    /// Catches up once, in a process of its own as far as sandbox and database can tell; dies at the
    /// `crash_at`th request.
    pub fn sync(&self, crash_at: Option<u64>) -> End {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let endless = tell.clone();
        self.state().on_request(REQUESTS_MAX, move |_| drop(endless.send(Signal::Endless)));
        if let Some(nth) = crash_at {
            self.state().on_request(nth, move |_| drop(tell.send(Signal::Crash)));
        }
        let settings = self.settings();
        let engine = Builder::new_current_thread().enable_all().build().unwrap();
        heymarket_sync::clock::set_ahead(self.passed.get());
        let end = engine.block_on(async {
            let cancel = CancellationToken::new();
            let app = App::open(settings, "test", &cancel).await.unwrap();
            let outcome = tokio::select! {
                biased;
                Some(signal) = told.recv() => match signal {
                    Signal::Crash => return End::Crashed,
                    Signal::Endless => panic!("{REQUESTS_MAX} requests, and no end; the last: {:#?}", self.last_pages()),
                },
                outcome = tokio::time::timeout(SYNC_MAX, app.sync(&[], &cancel)) => outcome,
            };
            app.close().await;
            match outcome.expect("the sync does not end") {
                Ok(()) => End::Done,
                Err(AppError::Sync(SyncError::Open(_))) => End::Open,
                Err(error) => End::Failed(error),
            }
        });
        drop(engine);
        heymarket_sync::clock::set_ahead(TimeDelta::zero());
        // The lease of a dead process runs out by itself, after seconds that no test needs to wait.
        let free =
            sqlx::query("UPDATE heymarket_sync.lease SET expires_at = '-infinity'").execute(&self.pool);
        self.wait(free).unwrap();
        end
    }

    /// The latest page requests, for a failed assertion.
    fn last_pages(&self) -> Vec<PageRead> {
        let log = self.state().page_log();
        log[log.len().saturating_sub(12)..].to_vec()
    }

    /// When a sync that begins now has read everything up to.
    pub fn settled(&self) -> DateTime<Utc> {
        // The server tells its time in whole seconds.
        let margin = TimeDelta::from_std(self.settings().sync.settle_margin).unwrap();
        self.state().now() - margin - TimeDelta::seconds(3)
    }

    fn settings(&self) -> Settings {
        settings::between(&self.sandbox, &self.database, &self.settings)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.runtime.block_on(self.pool.close());
    }
}
