//! Conversations that need requests of their own: an `id`, an inbox, a closed state.

use chrono::TimeDelta;
use heymarket_sync::api::model::Stream;
use heymarket_sync::app::{App, AppError};
use heymarket_sync::interval::Interval;
use heymarket_sync::sandbox::{
    DefaultView, Endpoint, Fault, IdRule, OtherwiseGets, Paging, SandboxOptions, SandboxState, TeamOptions,
    WantedId,
};
use heymarket_sync::store::{Batch, LineKey, PassState, STANDING};
use heymarket_sync::sync::scheduler::SyncError;
use tokio_util::sync::CancellationToken;

use crate::Rig;
use crate::support::mirror::differences;
use crate::support::team::team;

/// Small pages, so that the newest one does not show everything; no messages, which bring their conversations along.
async fn rig(paging: Paging) -> Rig {
    let paging = Paging { cap: 50, ..paging };
    let team = TeamOptions { messages: 0, ..team(3_000) };
    Rig::new(SandboxOptions { team, paging, ..SandboxOptions::default() }).await
}

/// Some conversations change, as many close and open again; their times are apart.
fn changes(state: &SandboxState, count: usize) {
    let ids: Vec<i64> = state.conversations().into_keys().collect();
    for (step, id) in ids.into_iter().cycle().step_by(7).take(count).enumerate() {
        state.change_conversation(id, |row| {
            row.status = if row.is_closed() { "opened".into() } else { "closed".into() };
            row.updated = state.now().max(row.updated + TimeDelta::microseconds(step as i64));
        });
    }
}

fn wanting(wanted: WantedId, otherwise: OtherwiseGets, own_inboxes_only: bool) -> Paging {
    let conversation_id = IdRule { wanted, otherwise, own_inboxes_only, stands_for: None };
    Paging { conversation_id, ..Paging::default() }
}

/// The standing lines of conversations.
async fn lines(app: &App) -> Vec<(String, PassState)> {
    let coverage = app.store.coverage().await.unwrap().into_iter();
    let lines = coverage.filter(|(key, _)| key.stream == Stream::Conversations && key.pass == STANDING);
    lines.map(|(key, state)| (key.line, state)).collect()
}

async fn names(app: &App) -> Vec<String> {
    lines(app).await.into_iter().map(|(name, _)| name).collect()
}

/// What was found about the id that conversations want.
async fn found(app: &App) -> String {
    let readings = app.store.readings().await.unwrap();
    let found =
        readings.into_iter().find(|row| row.question == "which id lists the conversations of every inbox");
    found.expect("the question has been asked").answer
}

async fn age_readings(app: &App) {
    let age = "UPDATE heymarket_sync.readings SET tested_at = now() - interval '2 hours'";
    sqlx::query(age).execute(app.store.pool()).await.unwrap();
}

fn by_inbox(state: &SandboxState, view: &str) -> Vec<String> {
    state.inboxes().iter().map(|inbox| format!("{view}/inbox {}", inbox.id)).collect()
}

async fn assert_whole(app: &App, expected: &[String]) {
    let lines = lines(app).await;
    let names: Vec<_> = lines.iter().map(|(name, _)| name.clone()).collect();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(names, expected);
    for (name, state) in lines {
        assert_eq!((state.covered.len(), state.covered[0].start()), (1, None), "{name}: {state:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_that_want_an_id_are_mirrored() {
    use OtherwiseGets::{BadData, Empty};
    for (wanted, otherwise, answer) in [
        (WantedId::Any, BadData, "none, and 0"),
        (WantedId::None, BadData, "none at all"),
        (WantedId::None, Empty, "none at all"),
        (WantedId::Zero, BadData, "always 0"),
        (WantedId::Zero, Empty, "always 0"),
        (WantedId::Member, BadData, "a member's"),
        (WantedId::Member, Empty, "a member's"),
    ] {
        for conversations in [DefaultView::Both, DefaultView::Open] {
            let paging = wanting(wanted, otherwise, true);
            let rig = rig(Paging { conversations, ..paging }).await;
            let told = format!("{wanted:?}, {otherwise:?}, {conversations:?}");
            let mut expected = vec!["updated".to_owned()];
            let closed = conversations == DefaultView::Open;
            if wanted == WantedId::Member {
                expected = by_inbox(rig.sandbox.state(), "updated");
                expected
                    .extend(by_inbox(rig.sandbox.state(), "updated/closed").into_iter().filter(|_| closed));
            } else if closed {
                expected.push("updated/closed".to_owned());
            }
            for _ in 0..2 {
                let app = rig.sync().await;
                rig.assert_equal(&app.store).await;
                assert!(found(&app).await.starts_with(answer), "{told}: {}", found(&app).await);
                assert_whole(&app, &expected).await;
                app.close().await;
                // What comes later is brought by the next.
                changes(rig.sandbox.state(), 100);
            }
        }
    }
}

/// Nobody belongs to both inboxes; the others have no conversations.
fn in_two_inboxes(state: &SandboxState) {
    for inbox in state.inboxes() {
        let half = inbox.id % 2;
        let members = (2_001..=2_012).filter(|user| user % 2 == half).collect();
        state.put_inbox(heymarket_sync::sandbox::Inbox { members, ..inbox });
    }
    for inbox in 103..=106 {
        state.remove_inbox(inbox);
    }
    for id in state.conversations().into_keys() {
        state.change_conversation(id, |row| row.inbox = 101 + id / 2 % 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_inbox_is_read_in_the_name_of_a_member_of_its_own() {
    for otherwise in [OtherwiseGets::BadData, OtherwiseGets::Empty] {
        let rig = rig(wanting(WantedId::Member, otherwise, true)).await;
        let state = rig.sandbox.state();
        in_two_inboxes(state);
        let app = rig.sync().await;
        rig.assert_equal(&app.store).await;
        assert_whole(&app, &by_inbox(state, "updated")).await;
        let asked = state.page_log();
        let whole =
            asked.iter().filter(|page| page.endpoint == Endpoint::Conversations && page.cursor.is_some());
        for page in whole {
            let odd = page.id.is_some_and(|id| id % 2 == 1);
            assert_eq!(page.inboxes, [if odd { 101 } else { 102 }], "{page:?}");
        }
        app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_short_of_an_inbox_is_found_out() {
    let conversation_id = IdRule { own_inboxes_only: true, stands_for: Some(2_002), ..IdRule::default() };
    let rig = rig(Paging { conversation_id, ..Paging::default() }).await;
    let app = rig.sync().await;
    rig.assert_equal(&app.store).await;
    assert_eq!(found(&app).await, "a member's");
    app.close().await;
}

/// Catches up once; how many intervals stayed open.
async fn sync_open(app: &App) -> usize {
    match app.sync(&[], &CancellationToken::new()).await {
        Ok(()) => 0,
        Err(AppError::Sync(SyncError::Open(open))) => open,
        Err(error) => panic!("{}", heymarket_sync::telemetry::chain(&error)),
    }
}

/// Differences that the inbox does not explain.
async fn elsewhere(rig: &Rig, app: &App, inbox: i64) -> Vec<String> {
    let mut found = differences(rig.sandbox.state(), app.store.pool()).await;
    let conversations = rig.sandbox.state().conversations();
    found.retain(|difference| {
        let id =
            difference.strip_prefix("conversations ").and_then(|rest| rest.split(':').next()?.parse().ok());
        id.and_then(|id: i64| conversations.get(&id)).is_none_or(|row| row.inbox != inbox)
    });
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_without_a_member_stays_open_until_it_has_one() {
    for otherwise in [OtherwiseGets::BadData, OtherwiseGets::Empty] {
        let rig = rig(wanting(WantedId::Member, otherwise, true)).await;
        let state = rig.sandbox.state();
        let inbox = state.inboxes().into_iter().find(|inbox| inbox.id == 103).unwrap();
        state.put_inbox(heymarket_sync::sandbox::Inbox { members: Vec::new(), ..inbox.clone() });
        let app = rig.app().await;
        assert_eq!(sync_open(&app).await, 1, "{otherwise:?}");
        assert_eq!(elsewhere(&rig, &app, 103).await, Vec::<String>::new());
        let unread = lines(&app).await.into_iter().find(|(name, _)| name == "updated/inbox 103").unwrap();
        assert!(unread.1.covered.is_empty(), "{unread:?}");
        state.put_inbox(inbox);
        assert_eq!(sync_open(&app).await, 0, "{otherwise:?}");
        rig.assert_equal(&app.store).await;
        app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inboxes_that_are_refused_matter_only_where_a_member_is_wanted() {
    for (wanted, otherwise, whole) in [
        (WantedId::Any, OtherwiseGets::BadData, true),
        (WantedId::Zero, OtherwiseGets::Empty, true),
        (WantedId::Member, OtherwiseGets::BadData, false),
    ] {
        for status in [403, 404] {
            let rig = rig(wanting(wanted, otherwise, true)).await;
            for _ in 0..50 {
                rig.sandbox.state().push_fault_on(Endpoint::Inboxes, Fault::Status(status));
            }
            let app = rig.app().await;
            let open = sync_open(&app).await;
            assert_eq!(open == 0, whole, "{wanted:?}, {status}");
            let mut found = differences(rig.sandbox.state(), app.store.pool()).await;
            found.retain(|difference| whole || !difference.starts_with("conversations"));
            assert_eq!(found, Vec::<String>::new(), "{wanted:?}, {status}");
            app.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_that_comes_while_nobody_looks_is_read_whole() {
    let closed = Paging { conversations: DefaultView::Open, closed_by_inbox: true, ..Paging::default() };
    for paging in [closed, wanting(WantedId::Member, OtherwiseGets::BadData, true)] {
        let rig = rig(paging).await;
        let state = rig.sandbox.state();
        let new = state.inboxes().into_iter().find(|inbox| inbox.id == 105).unwrap();
        state.remove_inbox(new.id);
        let app = rig.sync().await;
        assert_eq!(elsewhere(&rig, &app, new.id).await, Vec::<String>::new());
        assert!(!names(&app).await.iter().any(|name| name.ends_with("105")), "{:?}", names(&app).await);
        let before = lines(&app).await;
        app.close().await;

        let (new_id, gone) = (new.id, 102);
        state.put_inbox(new);
        // It is gone, and its conversations with it.
        state.remove_inbox(gone);
        for row in state.conversations().into_values().filter(|row| row.inbox == gone) {
            state.change_conversation(row.id, |row| {
                row.inbox = new_id;
                row.updated = state.now();
            });
        }
        let app = rig.sync().await;
        rig.assert_equal(&app.store).await;
        let after = names(&app).await;
        assert!(after.iter().any(|name| name.ends_with("/inbox 105")), "{after:?}");
        assert!(!after.iter().any(|name| name.ends_with("/inbox 102")), "{after:?}");
        for (name, state) in before.iter().filter(|(name, _)| !name.ends_with("102")) {
            let held = lines(&app).await.into_iter().find(|(other, _)| other == name).unwrap().1;
            assert_eq!(held.started_at, state.started_at, "{name}");
        }
        app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_closed_long_ago_are_read_though_the_newest_are_listed_unasked() {
    for wanted in [WantedId::Any, WantedId::Member] {
        let rig = rig(wanting(wanted, OtherwiseGets::BadData, true)).await;
        let state = rig.sandbox.state();
        let mut closed: Vec<_> = state
            .conversations()
            .into_values()
            .filter(|row| row.is_closed())
            .map(|row| row.updated)
            .collect();
        closed.sort();
        let closed_since = Some(closed[closed.len() / 3]);
        state.set_paging(Paging { closed_since, cap: 50, ..wanting(wanted, OtherwiseGets::BadData, true) });
        let app = rig.sync().await;
        rig.assert_equal(&app.store).await;
        app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_the_name_of_a_member_who_left_is_read_again_since_the_last_test() {
    let rig = rig(wanting(WantedId::Member, OtherwiseGets::Empty, true)).await;
    let state = rig.sandbox.state();
    in_two_inboxes(state);
    let app = rig.sync().await;
    let key = |inbox: i64| LineKey {
        stream: Stream::Conversations,
        line: format!("updated/inbox {inbox}"),
        pass: STANDING.to_owned(),
    };
    let lease = app.store.acquire_lease("test").await.unwrap().unwrap();
    let mut proofs = Vec::new();
    for inbox in [101, 102] {
        app.store.confirm(&lease, &key(inbox)).await.unwrap();
        let held = app.store.pass(&key(inbox)).await.unwrap().unwrap().covered[0];
        // Beyond what the settle margin reads again anyway.
        proofs.push((key(inbox), Interval::new(held.start(), held.end() + TimeDelta::hours(1)).unwrap()));
    }
    let batch = Batch { proofs: proofs.clone(), ..Batch::default() };
    app.store.commit(&lease, &batch).await.unwrap();
    app.store.release_lease(&lease).await.unwrap();

    for mut inbox in state.inboxes().into_iter().filter(|inbox| inbox.id == 101) {
        inbox.members.retain(|member| *member != 2_001);
        state.put_inbox(inbox);
    }
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    for (key, proof) in proofs {
        let held = app.store.pass(&key).await.unwrap().unwrap().covered[0];
        assert_eq!(held.end() < proof.end(), key.line.ends_with("101"), "{key:?}: {held}");
    }
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_of_a_mirror_that_knows_nothing_yet_walks_every_inbox() {
    let paging = Paging { cap: 50, ..wanting(WantedId::Member, OtherwiseGets::BadData, true) };
    let end = Some(heymarket_sync::clock::now() - TimeDelta::minutes(10));
    let team = TeamOptions { messages: 0, contacts: 0, end, ..team(3_000) };
    let rig = Rig::new(SandboxOptions { team, paging, ..SandboxOptions::default() }).await;
    let app = rig.app().await;
    let cancel = CancellationToken::new();
    let read = app.backfill(Stream::Conversations, (None, None), &cancel, drop).await.unwrap();
    assert!(read >= 300, "{read}");
    rig.assert_equal(&app.store).await;
    app.close().await;
}

/// What it costs to find out all this at the first contact with an API that behaves as it is documented.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_contact_costs_few_requests() {
    let team = TeamOptions { messages: 0, ..team(20_000) };
    let rig = Rig::new(SandboxOptions { team, ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    rig.assert_equal(&app.store).await;
    let log = rig.sandbox.state().page_log();
    let asked: Vec<_> = log.iter().filter(|page| page.endpoint == Endpoint::Conversations).collect();
    // The cursor; the newest, the oldest and a row between of closed ones; the newest and the oldest of archived ones;
    // the oldest of all.
    let small = asked.iter().filter(|page| page.limit.is_some_and(|limit| limit <= 2)).count();
    assert!(small <= 8, "{small} requests for single rows");
    let pages = 2_000 / 200;
    assert!(asked.len() <= pages + 18, "{} requests", asked.len());
    assert!(asked.iter().all(|page| page.inboxes.is_empty()), "nothing has to be asked by inbox");
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_no_version_reads_any_more_ends() {
    let closed = Paging { conversations: DefaultView::Open, closed_by_inbox: true, ..Paging::default() };
    let rig = rig(closed).await;
    let app = rig.app().await;
    app.migrate(&CancellationToken::new()).await.unwrap();
    let old = "INSERT INTO heymarket_sync.coverage (stream, line, pass, wanted, started_at, covered)
               VALUES ('conversations', 'updated/closed by inbox', 'standing', '(,)', now(), '{(,2999-01-01)}')";
    sqlx::query(old).execute(app.store.pool()).await.unwrap();
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    rig.assert_equal(&app.store).await;
    let mut expected = by_inbox(rig.sandbox.state(), "updated/closed");
    expected.push("updated".to_owned());
    assert_whole(&app, &expected).await;
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_changes_the_id_it_wants_is_followed() {
    use OtherwiseGets::{BadData, Empty};
    let rig = rig(Paging::default()).await;
    let state = rig.sandbox.state();
    for (wanted, otherwise, conversations) in [
        (WantedId::Any, BadData, DefaultView::Open),
        (WantedId::Member, BadData, DefaultView::Open),
        (WantedId::Zero, Empty, DefaultView::Both),
        (WantedId::Member, Empty, DefaultView::Both),
        (WantedId::Any, BadData, DefaultView::Open),
    ] {
        state.set_paging(Paging { conversations, cap: 50, ..wanting(wanted, otherwise, true) });
        // More than a page of changes for each list.
        changes(state, 150);
        let app = rig.app().await;
        app.migrate(&CancellationToken::new()).await.unwrap();
        age_readings(&app).await;
        app.sync(&[], &CancellationToken::new()).await.unwrap();
        rig.assert_equal(&app.store).await;
        let by_inbox = names(&app).await.iter().all(|name| name.contains("/inbox "));
        assert_eq!(by_inbox, wanted == WantedId::Member, "{wanted:?}: {:?}", names(&app).await);
        app.close().await;
    }
}
