//! Behind PgBouncer.

use std::time::Instant;

use heymarket_sync::sandbox::SandboxOptions;
use rustix::process::Signal;

use super::support::pgbouncer::PgBouncer;
use super::{EQUAL, Rig, VERB, reached, team};

async fn rig(mode: &str) -> Option<(Rig, PgBouncer)> {
    let rig =
        Rig::with(SandboxOptions { team: team(2_000), live_rate: 5.0, ..SandboxOptions::default() }).await;
    let bouncer = PgBouncer::before(rig.database.url(), mode).await?;
    let url = bouncer.url(rig.database.url());
    Some((rig.in_small_pages().set("DATABASE_URL", &url), bouncer))
}

#[tokio::test(flavor = "multi_thread")]
async fn session_mode_works_with_its_defaults() {
    let Some((rig, _bouncer)) = rig("session").await else { return };
    let checked = rig.verb(&["check"]).await;
    assert_eq!(checked.code(), Some(0), "{}", checked.output());
    let leader = rig.start(&["run"]);
    leader.logs("leading", VERB).await;
    let successor = rig.start(&["run"]);
    successor.logs("standing by", VERB).await;
    let pages = rig.pages() + 10;
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
    // A frozen leader holds nothing against its successor.
    leader.signal(Signal::STOP);
    let frozen = Instant::now();
    successor.logs("leading", EQUAL).await;
    eprintln!("takeover through pgbouncer {:.1} s after SIGSTOP", frozen.elapsed().as_secs_f64());
    leader.signal(Signal::CONT);
    rig.catches_up(successor).await;
    leader.logs_times("leading", 2, EQUAL).await;
    rig.stop(leader).await;
    let ended = rig.verb(&["sync"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_and_statement_pooling_are_refused_with_what_to_do() {
    for mode in ["transaction", "statement"] {
        let Some((rig, _bouncer)) = rig(mode).await else { return };
        for verb in ["check", "run", "sync"] {
            let ended = rig.verb(&[verb]).await;
            assert_eq!(ended.code(), Some(1), "{mode}, {verb}: {}", ended.output());
            assert!(ended.output().contains("pool_mode=session"), "{mode}, {verb}: {}", ended.output());
        }
    }
}
