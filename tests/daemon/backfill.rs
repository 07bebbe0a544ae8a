//! A window walked again on request.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use heymarket_sync::sandbox::{Endpoint, SandboxOptions, TeamOptions};

use super::support::mirror::assert_equals;
use super::{EQUAL, Rig, VERB, reached, team};

const PAGE_ROWS: usize = 20;
const CONTACTS: usize = 1_000;

async fn rig(options: SandboxOptions) -> Rig {
    // Contacts, since runs of equal times, as broadcasts are, are read with larger pages.
    let team = TeamOptions { contacts: CONTACTS, ..team(200) };
    let rig = Rig::with(SandboxOptions { team, ..options }).await;
    rig.set("HEYMARKET_SYNC__API__PAGE_SIZE", &PAGE_ROWS.to_string())
}

/// Takes rows out of the mirror behind the ledger's back, two of them in the window that is returned.
async fn damage(rig: &Rig) -> (DateTime<Utc>, DateTime<Utc>) {
    let mut rows: Vec<_> =
        rig.source().contacts().into_values().map(|contact| (contact.updated, contact.id)).collect();
    rows.sort();
    let at = |tenths: usize| rows[rows.len() * tenths / 10];
    for (_, id) in [at(1), at(5), at(6)] {
        sqlx::query("DELETE FROM heymarket.contacts WHERE id = $1")
            .bind(id)
            .execute(&rig.pool)
            .await
            .unwrap();
    }
    (at(4).0, at(7).0)
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

async fn missing(rig: &Rig) -> usize {
    let held: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM heymarket.contacts").fetch_all(&rig.pool).await.unwrap();
    rig.source().contacts().keys().filter(|id| !held.contains(id)).count()
}

async fn backfills(rig: &Rig) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM heymarket_sync.coverage WHERE pass LIKE 'backfill%'")
        .fetch_one(&rig.pool)
        .await
        .unwrap()
}

async fn standing(rig: &Rig) -> String {
    sqlx::query_scalar(
        "SELECT covered::text FROM heymarket_sync.coverage
         WHERE stream = 'contacts' AND line = 'updated' AND pass = 'standing'",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_the_verb_walks_the_window_and_nothing_else() {
    let rig = rig(SandboxOptions::default()).await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    let (from, to) = damage(&rig).await;
    let held = standing(&rig).await;
    rig.source().reset_observations();
    let ended =
        rig.verb(&["backfill", "--stream", "contacts", "--from", &text(from), "--to", &text(to)]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(ended.stdout.starts_with("contacts: "), "{}", ended.stdout);
    assert_eq!(missing(&rig).await, 1, "the window alone is walked");
    assert_eq!(backfills(&rig).await, 0);
    assert_eq!(standing(&rig).await, held, "what is held stays recorded");
    let pages = rig.source().counters().requests_to(Endpoint::Contacts);
    assert!(pages <= (CONTACTS * 2 / 5 / PAGE_ROWS) as u64, "{pages} pages for three tenths of the rows");

    let ended = rig.verb(&["backfill", "--stream", "contacts"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert_equals(rig.source(), &rig.pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_does_it_beside_its_other_work() {
    let rig = rig(SandboxOptions { live_rate: 20.0, ..SandboxOptions::default() }).await;
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    let (from, _) = damage(&rig).await;
    let newest = rig.source().messages().into_values().map(|message| message.date).max().unwrap();
    let ended = rig.verb(&["backfill", "--stream", "contacts", "--from", &text(from)]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(ended.stderr.contains("run)"), "it names who works on it: {}", ended.stderr);
    let ended = rig.verb(&["backfill", "--stream", "contacts"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    let followed = async || rig.source().messages().into_values().any(|message| message.date > newest);
    reached("traffic during the backfill", EQUAL, followed).await.unwrap();
    rig.source().set_live_rate(0.0);
    rig.equal().await;
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_it_is_gone_on_with_by_the_next_leader() {
    let rig = rig(SandboxOptions::default()).await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    damage(&rig).await;
    rig.source().set_latency(std::time::Duration::from_millis(50));
    rig.source().reset_observations();
    let verb = rig.start(&["backfill", "--stream", "contacts"]);
    reached("some pages", VERB, async || rig.pages() > 15).await.unwrap();
    verb.kill().await;
    assert_eq!(backfills(&rig).await, 1);
    assert!(missing(&rig).await > 0, "it was over before it was cut off");
    rig.source().set_latency(std::time::Duration::ZERO);
    let daemon = rig.start(&["run"]);
    reached("the backfill's end", EQUAL, async || backfills(&rig).await == 0).await.unwrap();
    rig.equal().await;
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_makes_no_sense_is_refused_before_anything_is_touched() {
    let rig = rig(SandboxOptions::default()).await;
    let later = text(rig.source().now() + TimeDelta::days(1));
    let cases: [(&[&str], &str); 5] = [
        (&["--from", "2026-01-01"], "--stream"),
        (&["--stream", "calls"], "unknown stream"),
        (&["--stream", "messages", "--from", "yesterday"], "2026-03-01T12:00:00Z"),
        (&["--stream", "messages", "--from", "2026-02-01", "--to", "2026-01-01"], "is not before"),
        (&["--stream", "messages", "--from", &later], "is not before now"),
    ];
    for (arguments, told) in cases {
        let ended = rig.verb(&[&["backfill"], arguments].concat()).await;
        assert_eq!(ended.code(), Some(2), "{arguments:?}: {}", ended.output());
        assert!(ended.stderr.contains(told), "{arguments:?}: {}", ended.stderr);
    }
    assert_eq!(rig.pages(), 0);
}
