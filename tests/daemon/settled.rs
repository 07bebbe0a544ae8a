//! Readers that go by `heymarket.settled_at()`, beside daemons that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use chrono::{DateTime, Utc};
use heymarket_sync::sandbox::SandboxOptions;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::support::process::Process;
use super::support::reader::Reader;
use super::{EQUAL, Rig, VERB, reached, ready, team};

const TAKEOVER: Duration = Duration::from_secs(20);
const READ_COMMITTED: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";
const REPEATABLE_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

async fn rig() -> Rig {
    let latency = Duration::from_millis(20);
    let options = SandboxOptions { team: team(4_000), latency, live_rate: 20.0, ..SandboxOptions::default() };
    Rig::with(options).await.in_small_pages().set("HEYMARKET_SYNC__API__MAX_IN_FLIGHT", "8")
}

/// Readers that look again and again.
struct Readers {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Reader>>,
}

impl Readers {
    async fn start(rig: &Rig) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for begin in [READ_COMMITTED, REPEATABLE_READ] {
            let mut reader = Reader::of(rig.database.url(), begin).await;
            let over = Arc::clone(&over);
            tasks.push(tokio::spawn(async move {
                while !over.load(Relaxed) {
                    reader.look().await.unwrap();
                }
                reader
            }));
        }
        Self { over, tasks }
    }

    /// No daemon leads any longer: all that was written is read, each version once.
    async fn have_all(self) {
        self.over.store(true, Relaxed);
        for task in self.tasks {
            let mut reader = task.await.unwrap();
            assert!(reader.len() > 0, "nothing was read while the daemons ran");
            reader.look().await.unwrap();
            reader.has_all().await;
        }
    }
}

async fn after_pages(rig: &Rig, pages: u64) {
    let pages = rig.pages() + pages;
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
}

/// The traffic ends, the mirror becomes equal, and the daemon ends.
async fn ended(rig: &Rig, daemon: Process) {
    rig.source().set_live_rate(0.0);
    rig.equal().await;
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_miss_nothing_during_a_fill_with_live_traffic() {
    let rig = rig().await;
    let readers = Readers::start(&rig).await;
    let daemon = rig.start(&["run"]);
    after_pages(&rig, 40).await;
    ended(&rig, daemon).await;
    readers.have_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_miss_nothing_while_leaders_are_frozen_killed_and_thawed() {
    let rig = rig().await;
    let readers = Readers::start(&rig).await;
    let frozen = rig.start(&["run"]);
    ready(&frozen, &["leading"], VERB).await;
    after_pages(&rig, 20).await;
    let second = rig.start(&["run"]);
    second.logs("standing by", VERB).await;
    frozen.signal(Signal::STOP);
    second.logs("leading", TAKEOVER).await;
    after_pages(&rig, 20).await;
    let third = rig.start(&["run"]);
    third.logs("standing by", VERB).await;
    frozen.signal(Signal::CONT);
    ready(&frozen, &["standing by"], TAKEOVER).await;
    second.kill().await;
    // Either of the others.
    let led = async || frozen.logged("leading").len() + third.logged("leading").len() == 2;
    reached("another leader", TAKEOVER, led).await.unwrap();
    after_pages(&rig, 20).await;
    let (leader, other) = if third.logged("leading").is_empty() { (frozen, third) } else { (third, frozen) };
    rig.stop(other).await;
    ended(&rig, leader).await;
    readers.have_all().await;
}

/// The contract's bound is 3 s; the rest is for a machine that is busy with other tests.
#[tokio::test(flavor = "multi_thread")]
async fn the_mark_follows_the_clock_where_nothing_changes() {
    let rig = Rig::new(200).await;
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    for _ in 0..3 {
        let now: DateTime<Utc> =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&rig.pool).await.unwrap();
        let passed = async || {
            let mark: DateTime<Utc> =
                sqlx::query_scalar("SELECT heymarket.settled_at()").fetch_one(&rig.pool).await.unwrap();
            mark > now
        };
        reached("the mark", Duration::from_secs(10), passed).await.unwrap();
    }
    rig.stop(daemon).await;
}
