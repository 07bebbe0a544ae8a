//! The real binary between a sandbox API and a PostgreSQL: crashes, signals, two at once, outages, bad input, and
//! what its verbs and pages tell.

mod api_outage;
mod backfill;
mod bad_input;
mod chaos;
mod crash;
mod database;
mod doubt;
mod fill;
mod lead;
mod memory;
mod outage;
mod pages;
mod pgbouncer;
mod rejects;
mod roles;
mod secrets;
mod settled;
mod signals;
#[path = "../support/mod.rs"]
mod support;
mod team;
mod verbs;
mod views;

use std::time::Duration;

use chrono::{DateTime, Utc};
use heymarket_sync::sandbox::{
    Endpoint, RateLimit, Sandbox, SandboxCredentials, SandboxOptions, SandboxState,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use support::database::{TestDatabase, database};
use support::mirror::{assert_equals, differences};
use support::process::{Ended, Process, reached};
use support::team::team;

/// How long the mirror may take to become equal.
const EQUAL: Duration = Duration::from_secs(20);
/// The contract's bound on the end after a signal.
const STOP: Duration = Duration::from_secs(10);
/// How long a verb may take that has nothing to wait for.
const VERB: Duration = Duration::from_secs(20);

const SECRET_ID: &str = "id-3f9c1d7a";
const SECRET_KEY: &str = "key-b81f6e0c52d94a37";
/// Left at a second where it is not what a test is about: many teams of tests have an empty list.
const EMPTY_APART: &str = "HEYMARKET_SYNC__SYNC__EMPTY_APART";
const DATABASE_PASSWORD: &str = "password-77ac20";

/// A sandbox, a database, and the environment of programs between them.
struct Rig {
    sandbox: Option<Sandbox>,
    source: SandboxState,
    database: TestDatabase,
    pool: PgPool,
    environment: Vec<(String, String)>,
}

impl Rig {
    async fn new(messages: usize) -> Self {
        Self::with(SandboxOptions { team: team(messages), ..SandboxOptions::default() }).await
    }

    async fn with(options: SandboxOptions) -> Self {
        Self::on(database().await, options).await
    }

    async fn on(database: TestDatabase, options: SandboxOptions) -> Self {
        let sandbox = Sandbox::start(SandboxOptions {
            rate_limit: RateLimit { per_minute: None, ..RateLimit::default() },
            credentials: SandboxCredentials::secret(SECRET_ID, SECRET_KEY),
            ..options
        })
        .await
        .unwrap();
        let pool = PgPool::connect(database.url()).await.unwrap();
        let mut url = reqwest::Url::parse(database.url()).unwrap();
        // The test server trusts: a password is sent nowhere, but must be hidden all the same.
        if url.password().is_none() {
            url.set_password(Some(DATABASE_PASSWORD)).unwrap();
        }
        let environment = [
            ("HEYMARKET_API_BASE_URL", sandbox.base_url()),
            ("HEYMARKET_API_SECRET_ID", SECRET_ID.to_owned()),
            ("HEYMARKET_API_SECRET_KEY", SECRET_KEY.to_owned()),
            ("DATABASE_URL", url.into()),
            ("HEYMARKET_SYNC__API__REQUESTS_PER_MINUTE", "10000000".to_owned()),
            ("HEYMARKET_SYNC__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
            (EMPTY_APART, "1s".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let source = sandbox.state().clone();
        Self { sandbox: Some(sandbox), source, database, pool, environment }.each_stream("INTERVAL", "1s")
    }

    /// Sets a variable; an empty value takes it away.
    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    fn each_stream(self, key: &str, value: &str) -> Self {
        ["MESSAGES", "CONVERSATIONS", "CONTACTS"]
            .iter()
            .fold(self, |rig, stream| rig.set(&format!("HEYMARKET_SYNC__STREAMS__{stream}__{key}"), value))
    }

    /// Many small pages, a few at a time; some traffic came before, so that the order of messages by their changes
    /// can be told from that by date.
    fn in_small_pages(self) -> Self {
        for _ in 0..100 {
            self.source().apply_event(self.source().now());
        }
        // Late rows lie up to 30 s in the past.
        self.set("HEYMARKET_SYNC__SYNC__SETTLE_MARGIN", "35s")
            .set("HEYMARKET_SYNC__API__PAGE_SIZE", "50")
            .set("HEYMARKET_SYNC__API__MAX_IN_FLIGHT", "4")
    }

    fn source(&self) -> &SandboxState {
        &self.source
    }

    fn start(&self, arguments: &[&str]) -> Process {
        Process::start(arguments, &self.environment)
    }

    /// Starts a daemon that kills itself when it passes `point` for the `nth` time.
    fn start_armed(&self, point: &str, nth: u64) -> Process {
        let armed = ("HEYMARKET_SYNC_CRASH_AT".to_owned(), format!("{point}:{nth}"));
        let environment: Vec<_> = self.environment.iter().cloned().chain([armed]).collect();
        Process::start(&["run"], &environment)
    }

    /// What would come by itself 4 s after the leader was killed.
    async fn end_lease(&self) {
        sqlx::query("UPDATE heymarket_sync.lease SET expires_at = '-infinity'")
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// Runs a verb to its end.
    async fn verb(&self, arguments: &[&str]) -> Ended {
        let ended = self.start(arguments).ended(VERB).await;
        assert_hidden(&ended.output());
        ended
    }

    /// Waits until the mirror equals the source.
    async fn equal(&self) {
        let equal = async || differences(self.source(), &self.pool).await.is_empty();
        if reached("an equal mirror", EQUAL, equal).await.is_err() {
            assert_equals(self.source(), &self.pool).await;
        }
    }

    /// Waits until all of history is proved to be held.
    async fn complete(&self, daemon: &Process) {
        self.complete_within(daemon, EQUAL).await;
    }

    async fn complete_within(&self, daemon: &Process, within: Duration) {
        let complete = async || {
            let status: Value = serde_json::from_str(&daemon.get("/status").await.body).unwrap();
            let streams = status["streams"].as_array().unwrap();
            streams.iter().all(|stream| {
                let lines = stream["lines"].as_array().unwrap();
                !lines.is_empty() && lines.iter().all(|line| line["complete"] == true)
            })
        };
        if let Err(error) = reached("complete history", within, complete).await {
            panic!("{error}: {}\n{}", daemon.get("/status").await.body, daemon.log());
        }
    }

    /// Ends the traffic, sees that the mirror becomes equal and all of history held, and ends the daemon.
    async fn catches_up(&self, daemon: Process) {
        self.source().set_live_rate(0.0);
        self.complete(&daemon).await;
        let equal = async || differences(self.source(), &self.pool).await.is_empty();
        if reached("an equal mirror", EQUAL, equal).await.is_err() {
            eprintln!("{}", daemon.log());
            assert_equals(self.source(), &self.pool).await;
        }
        self.stop(daemon).await;
        self.covered_is_held().await;
        assert_equals(self.source(), &self.pool).await;
    }

    /// Every row of the source that lies in a held interval is in the mirror, in that version.
    async fn covered_is_held(&self) {
        let messages = self.source().messages().into_values().map(|row| (row.id, row.date)).unzip();
        self.held("messages", "date", messages).await;
        let conversations =
            self.source().conversations().into_values().map(|row| (row.id, row.updated)).unzip();
        self.held("conversations", "updated", conversations).await;
        let contacts = self.source().contacts().into_values().map(|row| (row.id, row.updated)).unzip();
        self.held("contacts", "updated", contacts).await;
    }

    async fn held(&self, stream: &str, line: &str, (ids, times): (Vec<i64>, Vec<DateTime<Utc>>)) {
        let missing: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT s.id FROM unnest($1::bigint[], $2::timestamptz[]) s (id, at)
             JOIN heymarket_sync.coverage c ON c.covered @> s.at
             WHERE c.stream = '{stream}' AND c.line = '{line}' AND c.pass = 'standing'
               AND NOT EXISTS (SELECT FROM heymarket.{stream} m WHERE m.id = s.id AND m.{line} = s.at)"
        )))
        .bind(ids)
        .bind(times)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(missing.is_empty(), "{stream} {missing:?} lie in held intervals and are not in the mirror");
    }

    /// Page requests so far.
    fn pages(&self) -> u64 {
        let counters = self.source().counters();
        [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts]
            .iter()
            .map(|endpoint| counters.requests_to(*endpoint))
            .sum()
    }

    /// Ends a daemon by SIGTERM, and sees that it ended well.
    async fn stop(&self, daemon: Process) {
        daemon.signal(rustix::process::Signal::TERM);
        let ended = daemon.ended(STOP).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_hidden(&ended.output());
    }
}

/// Rows arrive and change.
fn traffic(source: &SandboxState) {
    for _ in 0..50 {
        source.apply_event(source.now());
    }
}

/// Neither a secret nor a token made from it is in `text`.
fn assert_hidden(text: &str) {
    // Every token begins with the same header.
    for secret in [SECRET_ID, SECRET_KEY, DATABASE_PASSWORD, "eyJ"] {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is told: {}", line.unwrap_or_default());
    }
}

/// Waits until `daemon` answers on `/readyz` with status 200 and all of `words`.
async fn ready(daemon: &Process, words: &[&str], within: Duration) {
    let what = format!("ready, with {words:?}");
    let told = async || {
        let page = daemon.get("/readyz").await;
        page.status == 200 && words.iter().all(|word| page.body.contains(word))
    };
    if let Err(error) = reached(&what, within, told).await {
        panic!("{error}: {:?}\n{}", daemon.get("/readyz").await, daemon.log());
    }
}
