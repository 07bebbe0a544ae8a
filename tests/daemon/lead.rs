//! Several instances on one database: one writes at a time.

use std::time::{Duration, Instant};

use heymarket_sync::sandbox::SandboxOptions;
use rustix::process::Signal;
use sqlx::PgPool;

use super::{EQUAL, Rig, VERB, assert_hidden, reached, ready, support::process::Process, team};

/// The lease runs for 4 s; the rest is for a machine that is busy with other tests.
const TAKEOVER: Duration = Duration::from_secs(10);

/// One daemon in the middle of a first fill, and one that stands by.
async fn leader_and_successor(rig: &Rig) -> (Process, Process) {
    let leader = rig.start(&["run"]);
    leader.logs("leading", VERB).await;
    ready(&leader, &["leading"], VERB).await;
    let successor = rig.start(&["run"]);
    let standing_by = successor.logs("standing by", VERB).await;
    let holder = format!("(pid {}, run)", leader.id());
    assert!(standing_by["leader"].as_str().unwrap().ends_with(&holder), "{standing_by}");
    ready(&successor, &["standing by"], VERB).await;
    let pages = rig.pages() + 10;
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
    (leader, successor)
}

async fn rig() -> Rig {
    rig_with(20_000, 0.0).await
}

/// With so many messages, and so many events a second at the source.
async fn rig_with(messages: usize, live_rate: f64) -> Rig {
    let latency = Duration::from_millis(50);
    let options = SandboxOptions { team: team(messages), latency, live_rate, ..SandboxOptions::default() };
    let rig = Rig::with(options).await;
    rig.set("HEYMARKET_SYNC__API__PAGE_SIZE", "20").set("HEYMARKET_SYNC__API__MAX_IN_FLIGHT", "8")
}

async fn takes_over(successor: &Process, from: Instant, after: &str) {
    successor.logs("leading", TAKEOVER).await;
    eprintln!("takeover {:.1} s after {after}", from.elapsed().as_secs_f64());
    ready(successor, &["leading"], VERB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_from_a_leader_that_was_killed() {
    let rig = rig().await;
    let (leader, successor) = leader_and_successor(&rig).await;
    let killed = Instant::now();
    assert_hidden(&leader.kill().await.output());
    takes_over(&successor, killed, "SIGKILL").await;
    rig.equal().await;
    rig.stop(successor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_takes_over_at_once_from_a_leader_that_ended() {
    let rig = rig().await;
    let (leader, successor) = leader_and_successor(&rig).await;
    let ended = Instant::now();
    rig.stop(leader).await;
    takes_over(&successor, ended, "SIGTERM").await;
    rig.stop(successor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_leader_that_thaws_writes_nothing_and_stands_by() {
    let rig = rig().await.each_stream("INTERVAL", "1d");
    let (leader, successor) = leader_and_successor(&rig).await;
    leader.signal(Signal::STOP);
    takes_over(&successor, Instant::now(), "SIGSTOP").await;
    rig.equal().await;
    rig.complete(&successor).await;
    rig.stop(successor).await;
    let third = rig.start(&["run"]);
    third.logs("leading", VERB).await;
    rig.complete(&third).await;
    // The third one knows that it holds these, and does not ask for them again. The frozen one is in the middle of
    // reading them.
    sqlx::query("DELETE FROM heymarket.messages WHERE date < now() - interval '1 day'")
        .execute(&rig.pool)
        .await
        .unwrap();
    // It learns from its next renewal or from its next write, whichever comes first.
    leader.signal(Signal::CONT);
    ready(&leader, &["standing by"], TAKEOVER).await;
    assert_eq!(leader.logged("leading").len(), 1, "{}", leader.log());
    assert_eq!(old_messages(&rig.pool).await, 0);
    rig.stop(leader).await;
    rig.stop(third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_thaws_during_its_successors_fill_does_no_harm() {
    let rig = rig().await;
    let (leader, successor) = leader_and_successor(&rig).await;
    leader.signal(Signal::STOP);
    takes_over(&successor, Instant::now(), "SIGSTOP").await;
    leader.signal(Signal::CONT);
    ready(&leader, &["standing by"], TAKEOVER).await;
    ready(&successor, &["leading"], VERB).await;
    rig.equal().await;
    rig.complete(&successor).await;
    rig.stop(leader).await;
    rig.stop(successor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_live_traffic_leaders_are_frozen_killed_and_thawed_and_the_mirror_is_equal() {
    let rig = rig_with(20_000, 5.0).await.in_small_pages();
    let (frozen, second) = leader_and_successor(&rig).await;
    frozen.signal(Signal::STOP);
    takes_over(&second, Instant::now(), "SIGSTOP, with traffic").await;
    let third = rig.start(&["run"]);
    third.logs("standing by", VERB).await;
    let killed = Instant::now();
    assert_hidden(&second.kill().await.output());
    takes_over(&third, killed, "SIGKILL, with traffic").await;
    frozen.signal(Signal::CONT);
    ready(&frozen, &["standing by"], TAKEOVER).await;
    rig.catches_up(third).await;
    // Now it is the thawed one's turn.
    frozen.logs_times("leading", 2, TAKEOVER).await;
    rig.stop(frozen).await;
    rig.covered_is_held().await;
}

/// The check that keeps a second leader out is got round: the second one gets the epoch of the first.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_lead_at_once_by_force_cannot_make_the_mirror_wrong() {
    let rig = rig_with(4_000, 2.0).await.in_small_pages().set("HEYMARKET_SYNC__API__PAGE_SIZE", "20");
    let (first, second) = leader_and_successor(&rig).await;
    sqlx::raw_sql(
        "CREATE FUNCTION public.same_epoch() RETURNS trigger LANGUAGE plpgsql
         AS $$ BEGIN NEW.epoch := OLD.epoch; RETURN NEW; END $$;
         CREATE TRIGGER same_epoch BEFORE UPDATE ON heymarket_sync.lease
         FOR EACH ROW EXECUTE FUNCTION public.same_epoch()",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    // Between two renewals of the first.
    let taken = async || {
        rig.end_lease().await;
        !second.logged("leading").is_empty()
    };
    reached("a second leader", TAKEOVER, taken).await.unwrap();
    let before = (messages_read(&first).await, messages_read(&second).await);
    let both = async || {
        messages_read(&first).await > before.0 + 500 && messages_read(&second).await > before.1 + 500
    };
    if let Err(error) = reached("both at work", EQUAL, both).await {
        panic!("{error}:\n{}\n{}", first.log(), second.log());
    }
    rig.covered_is_held().await;
    for daemon in [&first, &second] {
        assert!(daemon.get("/metrics").await.body.contains("\nheymarket_sync_leader 1\n"));
    }
    rig.complete(&second).await;
    rig.stop(first).await;
    rig.catches_up(second).await;
}

async fn messages_read(daemon: &Process) -> u64 {
    let metrics = daemon.get("/metrics").await.body;
    let name = "heymarket_sync_rows_read_total{stream=\"messages\"} ";
    let rows = metrics.lines().find_map(|line| line.strip_prefix(name));
    rows.unwrap().parse().unwrap()
}

/// A lead that is taken away again and again, from two that want it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_stolen_again_and_again_harms_nothing() {
    let rig = rig_with(20_000, 5.0).await.in_small_pages();
    let (first, second) = leader_and_successor(&rig).await;
    for _ in 0..8 {
        let pages = rig.pages() + 5;
        reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
        sqlx::query("UPDATE heymarket_sync.lease SET epoch = epoch + 1, expires_at = '-infinity'")
            .execute(&rig.pool)
            .await
            .unwrap();
    }
    rig.covered_is_held().await;
    rig.stop(first).await;
    second.logs("leading", TAKEOVER).await;
    rig.catches_up(second).await;
}

async fn old_messages(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM heymarket.messages WHERE date < now() - interval '1 day'")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_waits_for_the_lead_then_fails_and_names_who_has_it() {
    let rig = Rig::new(100).await;
    let leader = rig.start(&["run"]);
    leader.logs("leading", VERB).await;
    let begun = Instant::now();
    let ended = rig.start(&["sync"]).ended(Duration::from_secs(45)).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let told = ended.stderr.lines().last().unwrap();
    assert!(told.contains(&format!("(pid {}, run) leads since", leader.id())), "{told}");
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    rig.stop(leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_takes_the_lead_when_it_is_given_up() {
    let rig = Rig::new(500).await;
    let leader = rig.start(&["run"]);
    leader.logs("leading", VERB).await;
    let sync = rig.start(&["sync"]);
    // It has looked at the lease.
    reached("a second session", VERB, async || sessions(&rig.pool).await >= 2).await.unwrap();
    rig.stop(leader).await;
    let ended = sync.ended(EQUAL).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_hidden(&ended.output());
    rig.equal().await;
}

/// Processes that are connected, by their sessions.
async fn sessions(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'heymarket-sync'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}
