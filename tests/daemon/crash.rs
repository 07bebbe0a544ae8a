//! Killed between two steps that belong together, and started again: nothing is missing, nothing is different.

use std::time::Duration;

use heymarket_sync::sandbox::SandboxOptions;

use super::support::database::empty_database;
use super::support::mirror::assert_equals;
use super::{EQUAL, Rig, assert_hidden, team};

const KILLED: i32 = 9;
/// Events a second at the source.
const TRAFFIC: f64 = 50.0;

fn options() -> SandboxOptions {
    // Slow beside the database, as the real API is: a transaction holds a page or two.
    let latency = Duration::from_millis(10);
    SandboxOptions { team: team(1_000), latency, live_rate: TRAFFIC, ..SandboxOptions::default() }
}

fn in_small_pages(rig: Rig) -> Rig {
    rig.set("HEYMARKET_SYNC__API__PAGE_SIZE", "20").set("HEYMARKET_SYNC__API__MAX_IN_FLIGHT", "4")
}

/// Lets a daemon die at `point`, at each of `passages` of a new process, and another catch up.
async fn dies_at(rig: &Rig, point: &str, passages: &[u64]) {
    for nth in passages {
        let ended = rig.start_armed(point, *nth).ended(EQUAL).await;
        assert_eq!(ended.signal(), Some(KILLED), "{point}:{nth}: {}", ended.stderr);
        assert_hidden(&ended.output());
        rig.covered_is_held().await;
    }
    rig.source().set_live_rate(0.0);
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    rig.equal().await;
    rig.stop(daemon).await;
    rig.covered_is_held().await;
    assert_equals(rig.source(), &rig.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_page() {
    let rig = in_small_pages(Rig::on(empty_database().await, options()).await);
    let ended = rig.start_armed("migrated", 1).ended(EQUAL).await;
    assert_eq!(ended.signal(), Some(KILLED), "{}", ended.stderr);
    dies_at(&rig, "lead-acquired", &[1, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_page_is_written() {
    for point in ["page-read", "page-queued"] {
        dies_at(&in_small_pages(Rig::with(options()).await), point, &[1, 7, 30]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_page_is_written() {
    for point in ["rows-written", "before-lease-check", "before-commit", "after-commit"] {
        dies_at(&in_small_pages(Rig::with(options()).await), point, &[1, 7, 30]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_beginning_of_a_recheck() {
    let rig = in_small_pages(Rig::with(options()).await);
    let rig = rig.each_stream("RECHECK", r#"[{window = "30d", every = "1s"}]"#);
    dies_at(&rig, "recheck-restarted", &[1, 2, 3]).await;
}
