//! SIGTERM and SIGINT.

use std::time::{Duration, Instant};

use heymarket_sync::sandbox::{Fault, SandboxOptions};
use rustix::process::Signal;
use sqlx::Connection as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::{EQUAL, Rig, STOP, VERB, assert_hidden, reached, support::process::Process, team};

/// In the middle of a first fill from an API that takes its time.
async fn filling(rig: &Rig, verb: &str) -> Process {
    let process = rig.start(&[verb]);
    reached("requests", EQUAL, async || rig.source().counters().all_requests() > 0).await.unwrap();
    process
}

async fn slow() -> Rig {
    let latency = Duration::from_secs(30);
    Rig::with(SandboxOptions { team: team(1_000), latency, ..SandboxOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn either_ends_the_daemon_cleanly_and_gives_up_the_lead() {
    for signal in [Signal::TERM, Signal::INT] {
        let rig = slow().await;
        let daemon = filling(&rig, "run").await;
        daemon.signal(signal);
        let ended = daemon.ended(STOP).await;
        assert_eq!(ended.code(), Some(0), "{signal:?}: {}", ended.stderr);
        assert_hidden(&ended.output());
        let status = rig.verb(&["status"]).await;
        assert!(status.stdout.starts_with("leader: none"), "{}", status.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_is_interrupted_has_failed() {
    let rig = slow().await;
    let sync = filling(&rig, "sync").await;
    sync.signal(Signal::INT);
    let ended = sync.ended(STOP).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.lines().last().unwrap().starts_with("error: "), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_ends_the_daemon_at_once() {
    let rig = slow().await;
    let daemon = filling(&rig, "run").await;
    // Giving the lead up waits for this.
    let mut holder = rig.pool.acquire().await.unwrap();
    let mut transaction = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE heymarket_sync.lease IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    daemon.signal(Signal::TERM);
    daemon.logs("stopping; a second signal ends it at once", VERB).await;
    daemon.signal(Signal::TERM);
    let ended = daemon.ended(Duration::from_secs(2)).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_never_answers_does_not_hold_the_end_up() {
    let rig = Rig::new(100).await;
    rig.source().set_lasting_fault(Some(Fault::Hang));
    rig.stop(filling(&rig, "run").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_request_does_not_hold_the_end_up() {
    let rig = Rig::new(100).await;
    let daemon = rig.start(&["run"]);
    let mut client = TcpStream::connect(daemon.address().await).await.unwrap();
    client.write_all(b"GET /readyz HTTP/1.1\r\nHost: ").await.unwrap();
    // Answered after the half request has come in.
    assert_eq!(daemon.get("/healthz").await.status, 200);
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_never_answers_does_not_hold_the_end_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://sync@{}/mirror?sslmode=disable", silent.local_addr().unwrap());
    let rig = Rig::new(10).await.set("DATABASE_URL", &url);
    let daemon = rig.start(&["run"]);
    let _session = silent.accept().await.unwrap();
    let begun = Instant::now();
    rig.stop(daemon).await;
    // Not only because the process ends itself in the end.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
