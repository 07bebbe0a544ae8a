//! The whole way, from the sandbox API to rows: every row and field of the source is in the mirror.

mod readings;
#[path = "../support/mod.rs"]
mod support;
mod views;

use std::env;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use heymarket_sync::app::App;
use heymarket_sync::clock;
use heymarket_sync::sandbox::{
    DefaultView, Endpoint, Paging, RateLimit, Sandbox, SandboxOptions, TeamOptions,
};
use heymarket_sync::store::{STANDING, Store};
use support::database::{TestDatabase, database};
use support::mirror::{assert_equals, differences};
use support::process::reached;
use support::settings;
use support::team::team;
use tokio_util::sync::CancellationToken;

/// A sandbox, a database, and a daemon's settings between them.
struct Rig {
    sandbox: Sandbox,
    database: TestDatabase,
    settings: Vec<(String, String)>,
}

impl Rig {
    async fn new(options: SandboxOptions) -> Self {
        let rate_limit = RateLimit { per_minute: None, ..RateLimit::default() };
        let sandbox = Sandbox::start(SandboxOptions { rate_limit, ..options }).await.unwrap();
        Self { sandbox, database: database().await, settings: Vec::new() }
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((format!("HEYMARKET_SYNC__{key}"), value.to_owned()));
        self
    }

    async fn app(&self) -> App {
        let settings = settings::between(&self.sandbox, &self.database, &self.settings);
        App::open(settings, "test", &CancellationToken::new()).await.unwrap()
    }

    /// Catches up once, in a process of its own as far as the mirror can tell.
    async fn sync(&self) -> App {
        let app = self.app().await;
        app.sync(&[], &CancellationToken::new()).await.unwrap();
        app
    }

    async fn assert_equal(&self, store: &Store) {
        assert_equals(self.sandbox.state(), store.pool()).await;
    }

    async fn is_equal(&self, store: &Store) -> bool {
        differences(self.sandbox.state(), store.pool()).await.is_empty()
    }

    fn pages(&self) -> u64 {
        let counters = self.sandbox.state().counters();
        [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts]
            .iter()
            .map(|endpoint| counters.requests_to(*endpoint))
            .sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_and_field_of_the_source_is_mirrored() {
    let rig = Rig::new(SandboxOptions { team: team(5_000), gzip: true, ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    rig.assert_equal(&app.store).await;
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_messages_are_mirrored_in_few_requests() {
    let rig = Rig::new(SandboxOptions { team: team(200_000), ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    rig.assert_equal(&app.store).await;
    let least = (200_000 + 20_000 + 15_000) / 200;
    assert!(rig.pages() <= least + least / 10, "{} pages; {least} are the least", rig.pages());
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_pages_and_broadcasts_longer_than_a_page_lose_nothing() {
    for default_view in [DefaultView::Both, DefaultView::Open] {
        let paging = Paging { cap: 30, conversations: default_view, ..Paging::default() };
        let rig = Rig::new(SandboxOptions { team: team(2_000), paging, ..SandboxOptions::default() }).await;
        let app = rig.sync().await;
        rig.assert_equal(&app.store).await;
        app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_is_brought_by_the_next_sync() {
    let rig = Rig::new(SandboxOptions { team: team(2_000), ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    let state = rig.sandbox.state();
    for _ in 0..500 {
        state.apply_event(state.now());
    }
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    rig.assert_equal(&app.store).await;
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_changes_late_is_brought_though_its_message_is_old() {
    let rig = Rig::new(SandboxOptions { team: team(2_000), ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    let state = rig.sandbox.state();
    let oldest = *state.messages().keys().next().unwrap();
    assert!(state.change_message(oldest, |message| {
        message.status = "bounced".into();
        message.updated = state.now();
    }));
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    rig.assert_equal(&app.store).await;
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_time_line_shows_is_found_by_a_recheck() {
    let rig = Rig::new(SandboxOptions { team: team(1_000), ..SandboxOptions::default() }).await;
    // Small pages, so that the newest one does not show every contact.
    let rig = rig.set("API__PAGE_SIZE", "20");
    let rig = rig.set("STREAMS__CONTACTS__RECHECK", r#"[{window = "3650d", every = "1s"}]"#);
    let app = rig.sync().await;
    let state = rig.sandbox.state();
    // Neither at the top nor at the end of the line, which is asked for again.
    let mut contacts: Vec<_> = state.contacts().into_values().collect();
    contacts.sort_by_key(|contact| contact.updated);
    let changed = contacts[contacts.len() / 2].id;
    assert!(state.change_contact(changed, |contact| contact.first = "Renamed".into()));
    let cancel = CancellationToken::new();
    let equal = async || {
        app.sync(&[], &cancel).await.unwrap();
        rig.is_equal(&app.store).await
    };
    reached("an equal mirror", PATIENCE, equal).await.unwrap();
    let runs = app.store.recent_runs(100).await.unwrap();
    let recheck = runs.iter().find(|run| run.pass.starts_with("recheck")).expect("a recheck is a run");
    assert_eq!(recheck.outcome.as_deref(), Some("done"));
    assert!(recheck.requests > 0 && recheck.rows_read > 0, "{recheck:?}");
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_with_nothing_new_asks_little_and_writes_nothing() {
    let rig = Rig::new(SandboxOptions { team: team(3_000), ..SandboxOptions::default() }).await;
    rig.sync().await.close().await;
    let written: Vec<(i64, String)> = snapshot(&rig).await;
    rig.sandbox.state().reset_observations();
    rig.sync().await.close().await;
    assert_eq!(snapshot(&rig).await, written);
    // Per line a tick before and one after the fill, and a few that find out how the API reads its documents.
    assert!(rig.pages() <= 24, "{} pages", rig.pages());
}

/// Which way the cursor works is known from before, so that nothing has been asked when the first tick begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_leaves_nothing_open() {
    for ahead in [-60, 60] {
        let end = Some(clock::now() - TimeDelta::minutes(10));
        let team = TeamOptions { end, ..team(300) };
        let rig = Rig::new(SandboxOptions { team, ..SandboxOptions::default() }).await;
        rig.sandbox.state().set_clock_skew(TimeDelta::seconds(ahead));
        for _ in 0..2 {
            let app = rig.sync().await;
            rig.assert_equal(&app.store).await;
            app.close().await;
        }
    }
}

/// Where each message lies in its table: it moves when it is written.
async fn snapshot(rig: &Rig) -> Vec<(i64, String)> {
    let app = rig.app().await;
    let rows = sqlx::query_as("SELECT id, ctid::text FROM heymarket.messages ORDER BY id")
        .fetch_all(app.store.pool())
        .await
        .unwrap();
    app.close().await;
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_cut_off_goes_on_where_it_stopped() {
    let rig = Rig::new(SandboxOptions { team: team(4_000), ..SandboxOptions::default() }).await;
    let rig = rig.set("API__PAGE_SIZE", "20");
    let app = rig.app().await;
    let whole = CancellationToken::new();
    let cut_off = async {
        let some_pages = async {
            while rig.pages() < 100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, some_pages).await.expect("some pages");
        whole.cancel();
    };
    let (outcome, ()) = tokio::join!(app.sync(&[], &whole), cut_off);
    assert!(outcome.is_err());
    app.close().await;
    let before = rig.pages();
    let app = rig.sync().await;
    rig.assert_equal(&app.store).await;
    let least = (4_000 + 400 + 300) / 20;
    assert!(before < least, "the first sync was not cut off");
    // A run of equal times cut in two must not be divided for ever.
    let most = least * 3 / 2;
    assert!(rig.pages() <= most, "{} pages, {most} at most", rig.pages());
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn covered_is_everything_wanted() {
    let rig = Rig::new(SandboxOptions { team: team(1_000), ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    let coverage = app.store.coverage().await.unwrap();
    let standing: Vec<_> = coverage.iter().filter(|(key, _)| key.pass == STANDING).collect();
    assert!(standing.len() >= 3, "{standing:?}");
    for (key, state) in standing {
        assert_eq!(state.covered.len(), 1, "{key:?}: {:?}", state.covered);
        assert!(state.covered[0].start() <= state.wanted_from, "{key:?}: {state:?}");
    }
    app.close().await;
}

/// New messages that the daemon follows beside the other traffic; `LIVE_MESSAGES` in the environment raises it.
const LIVE_MESSAGES: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_follows_live_traffic() {
    let messages = env::var("LIVE_MESSAGES")
        .map_or(LIVE_MESSAGES, |number| number.parse().expect("LIVE_MESSAGES is a number"));
    let rig =
        Rig::new(SandboxOptions { team: team(2_000), live_rate: 200.0, ..SandboxOptions::default() }).await;
    let rig = rig
        .set("STREAMS__MESSAGES__INTERVAL", "1s")
        .set("STREAMS__CONVERSATIONS__INTERVAL", "1s")
        .set("STREAMS__CONTACTS__INTERVAL", "1s")
        .set("HTTP__LISTEN", "127.0.0.1:0");
    let app = rig.app().await;
    let cancel = CancellationToken::new();
    let watch = async {
        let start = rig.sandbox.state().messages().len();
        let begun = Instant::now();
        let patience = PATIENCE + Duration::from_millis(20 * messages as u64);
        let come = async || rig.sandbox.state().messages().len() > start + messages;
        reached("live traffic", patience, come).await.unwrap();
        rig.sandbox.state().set_live_rate(0.0);
        eprintln!("{} new messages in {:?}", rig.sandbox.state().messages().len() - start, begun.elapsed());
        let equal = async || rig.is_equal(&app.store).await;
        reached("an equal mirror", PATIENCE, equal).await.unwrap();
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(app.run(&cancel, |_| {}), watch);
    outcome.unwrap();
    rig.assert_equal(&app.store).await;
    app.close().await;
}

/// How long is waited for what is to come.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_newer_than_the_settle_margin_is_there_at_once_however_much_it_is() {
    let rig = Rig::new(SandboxOptions { team: team(200), ..SandboxOptions::default() }).await;
    let state = rig.sandbox.state();
    for event in 0..1_000 {
        state.apply_event(state.now() - TimeDelta::milliseconds(30 * (1_000 - event)));
    }
    let rig = rig.set("API__PAGE_SIZE", "10").set("HTTP__LISTEN", "127.0.0.1:0");
    let rig = ["MESSAGES", "CONVERSATIONS", "CONTACTS"]
        .iter()
        .fold(rig, |rig, stream| rig.set(&format!("STREAMS__{stream}__INTERVAL"), "1d"));
    let app = rig.app().await;
    let cancel = CancellationToken::new();
    let watch = async {
        // Much less than the margin.
        let equal = async || rig.is_equal(&app.store).await;
        reached("an equal mirror", Duration::from_secs(60), equal).await.unwrap();
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(app.run(&cancel, |_| {}), watch);
    outcome.unwrap();
    app.close().await;
}
