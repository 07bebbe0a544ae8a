//! A first fill that is killed goes on where it stopped.

use std::time::Duration;

use chrono::TimeDelta;
use heymarket_sync::sandbox::{Endpoint, SandboxOptions};

use super::{EQUAL, Rig, assert_hidden, reached, support::mirror::assert_equals, team};

const PAGE_ROWS: usize = 20;
const IN_FLIGHT: usize = 4;
const MESSAGES: usize = 3_000;
/// Pages after which the daemon is killed, counted at the source over all its lives.
const KILLS: [u64; 4] = [3, 50, 110, 170];

async fn rig() -> Rig {
    // Slow beside the database, as the real API is: what was read is written when the next page comes.
    let latency = Duration::from_millis(80);
    let rig = Rig::with(SandboxOptions { team: team(MESSAGES), latency, ..SandboxOptions::default() }).await;
    rig.each_stream("INTERVAL", "1d")
        .set("HEYMARKET_SYNC__API__PAGE_SIZE", &PAGE_ROWS.to_string())
        .set("HEYMARKET_SYNC__API__MAX_IN_FLIGHT", &IN_FLIGHT.to_string())
}

/// Pages of messages that were answered, without those of the last hour: a start always reads the newest.
fn history_pages(rig: &Rig) -> usize {
    let old = rig.source().now() - TimeDelta::hours(1);
    let log = rig.source().page_log();
    let messages = log.iter().filter(|page| page.endpoint == Endpoint::Messages && !page.by_updated);
    messages.filter(|page| page.cursor.is_some_and(|cursor| cursor < old)).count()
}

/// Lets a daemon run until all is held.
async fn fill(rig: &Rig) {
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    rig.equal().await;
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_it_asks_again_at_most_for_what_was_in_flight() {
    let undisturbed = rig().await;
    fill(&undisturbed).await;
    let whole = history_pages(&undisturbed);

    let rig = rig().await;
    let mut before = 0;
    for pages in KILLS {
        let daemon = rig.start(&["run"]);
        reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
        assert_hidden(&daemon.kill().await.output());
        before = history_pages(&rig);
    }
    assert!(before < whole, "the fill was over before the last kill");
    fill(&rig).await;
    assert_equals(rig.source(), &rig.pool).await;
    let total = history_pages(&rig);
    eprintln!("{whole} pages of history in one go, {total} with {} kills", KILLS.len());
    // Each page in flight once more; for each a gap, whose last page may hold little; and a run of equal times is
    // read from its beginning.
    let most = whole + KILLS.len() * 3 * IN_FLIGHT;
    assert!(total <= most, "{total} pages with kills, {most} at most; {whole} without");
}
