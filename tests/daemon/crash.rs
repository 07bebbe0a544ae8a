//! Killed between two steps that belong together, and started again: nothing is missing, nothing is different.

use std::time::Duration;

use heymarket_sync::sandbox::{Paging, SandboxOptions, UpdatedOrder};

use super::support::database::empty_database;
use super::{EQUAL, Rig, assert_hidden, team};

const KILLED: i32 = 9;
/// Events a second at the source.
const TRAFFIC: f64 = 10.0;

fn options() -> SandboxOptions {
    // Slow beside the database, as the real API is: a transaction holds a page or two.
    let latency = Duration::from_millis(10);
    SandboxOptions { team: team(2_000), latency, live_rate: TRAFFIC, ..SandboxOptions::default() }
}

/// Lets a daemon die at `point`, at each of `passages` of a new process, and another catch up.
async fn dies_at(rig: &Rig, point: &str, passages: &[u64]) {
    for nth in passages {
        let ended = rig.start_armed(point, *nth).ended(EQUAL).await;
        assert_eq!(ended.signal(), Some(KILLED), "{point}:{nth}: {}", ended.stderr);
        assert_hidden(&ended.output());
        rig.covered_is_held().await;
        rig.end_lease().await;
    }
    rig.catches_up(rig.start(&["run"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_page() {
    let rig = Rig::on(empty_database().await, options()).await.in_small_pages();
    let ended = rig.start_armed("migrated", 1).ended(EQUAL).await;
    assert_eq!(ended.signal(), Some(KILLED), "{}", ended.stderr);
    dies_at(&rig, "lead-acquired", &[1, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_page_is_written() {
    for point in ["page-read", "page-queued"] {
        dies_at(&Rig::with(options()).await.in_small_pages(), point, &[1, 7, 30]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_page_is_written() {
    for point in ["rows-written", "before-lease-check", "before-commit", "after-commit"] {
        dies_at(&Rig::with(options()).await.in_small_pages(), point, &[1, 7, 30]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_beginning_of_a_recheck() {
    let rig = Rig::with(options()).await.in_small_pages();
    let rig = rig.each_stream("RECHECK", r#"[{window = "30d", every = "1s"}]"#);
    dies_at(&rig, "recheck-restarted", &[1, 2, 3]).await;
}

/// Coverage of the changes of messages.
async fn held_changes(rig: &Rig) -> String {
    let held = "SELECT covered::text FROM heymarket_sync.coverage
                WHERE stream = 'messages' AND line = 'updated' AND pass = 'standing'";
    sqlx::query_scalar(held).fetch_one(&rig.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_contradicted_reading_is_taken_back() {
    let rig = Rig::with(options()).await.in_small_pages();
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    let confirmed = held_changes(&rig).await;
    // As if more had been proved since the last test, which was two hours ago.
    let since = "UPDATE heymarket_sync.coverage SET confirmed = covered, covered = covered +
                     tstzmultirange(tstzrange(upper(covered), upper(covered) + interval '1 minute'))
                 WHERE line = 'updated'";
    let long_ago = "UPDATE heymarket_sync.readings SET tested_at = now() - interval '2 hours'";
    for change in [since, long_ago] {
        sqlx::query(change).execute(&rig.pool).await.unwrap();
    }
    assert_ne!(held_changes(&rig).await, confirmed);
    let updated_order = UpdatedOrder::CursorByDate;
    rig.source().set_paging(Paging { updated_order, ..Paging::default() });
    let ended = rig.start_armed("contradicted", 1).ended(EQUAL).await;
    assert_eq!(ended.signal(), Some(KILLED), "{}", ended.stderr);
    rig.end_lease().await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    assert_eq!(held_changes(&rig).await, confirmed);
}
