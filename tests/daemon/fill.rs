//! A first fill that is killed goes on where it stopped.

use std::time::Duration;

use chrono::TimeDelta;
use heymarket_sync::sandbox::{Endpoint, SandboxOptions, TeamOptions};
use heymarket_sync::sync::writer::UNWRITTEN_PAGES;

use super::{EQUAL, Rig, assert_hidden, reached, support::mirror::assert_equals, team};

const PAGE_ROWS: usize = 20;
const IN_FLIGHT: usize = 4;
const CONTACTS: usize = 3_000;
/// Pages after which the daemon is killed, counted at the source over all its lives.
const KILLS: [u64; 4] = [3, 40, 75, 110];

async fn rig() -> Rig {
    // Faster than the database takes pages: what waits for it is lost with the process.
    let latency = Duration::from_millis(10);
    // Contacts, since a run of equal times, as broadcasts are, is read with larger pages, which spoils the count.
    let team = TeamOptions { contacts: CONTACTS, ..team(200) };
    let rig = Rig::with(SandboxOptions { team, latency, ..SandboxOptions::default() }).await;
    rig.each_stream("INTERVAL", "1d")
        .set("HEYMARKET_SYNC__API__PAGE_SIZE", &PAGE_ROWS.to_string())
        .set("HEYMARKET_SYNC__API__MAX_IN_FLIGHT", &IN_FLIGHT.to_string())
}

/// Pages of contacts that were answered, without those of the last hour: a start always reads the newest.
fn history_pages(rig: &Rig) -> usize {
    let old = rig.source().now() - TimeDelta::hours(1);
    let log = rig.source().page_log();
    let contacts = log.iter().filter(|page| page.endpoint == Endpoint::Contacts);
    contacts.filter(|page| page.cursor.is_some_and(|cursor| cursor < old)).count()
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
    eprintln!("{before} before, {whole} pages of history in one go, {total} with {} kills", KILLS.len());
    // Of each walker one page may be in flight and one on its way to the database, and what is left for another
    // start to fill ends in a page that may hold little.
    let most = whole + KILLS.len() * IN_FLIGHT * (UNWRITTEN_PAGES + 1);
    assert!(total <= most, "{total} pages with kills, {most} at most; {whole} without");
}
