//! Every reading of the documents that can be chosen, and pages that slip.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use heymarket_sync::sandbox::{
    CursorFields, DefaultView, IdRule, Message, OtherwiseGets, Paging, Precision, SandboxOptions, Slips,
    UpdatedOrder, WantedId,
};
use serde_json::{Value, json};

use crate::{CONTACTS, CONVERSATIONS, Client, MESSAGES, id, options, time, token};

async fn read_as(paging: Paging) -> Client {
    Client::new(SandboxOptions { paging, ..options() }).await
}

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_735_000_000_000_000 + micros).unwrap()
}

/// Messages that are newer than all others, 400 µs apart.
fn put_close(client: &Client, count: i64) {
    for index in 0..count {
        client.state().put_message(Message::plain(1_000 + index, 1, at(400 * index)));
    }
}

#[tokio::test]
async fn a_cursor_can_be_inclusive_and_cut() {
    for (inclusive, precision, newest) in [
        (false, Precision::Exact, Some(1_005)),
        (true, Precision::Exact, Some(1_006)),
        // The sixth is 2,400 µs after a whole second.
        (false, Precision::Milliseconds, Some(1_004)),
        (true, Precision::Milliseconds, Some(1_005)),
        (false, Precision::Seconds, None),
        (true, Precision::Seconds, Some(1_000)),
    ] {
        let client = read_as(Paging { inclusive, precision, ..Paging::default() }).await;
        put_close(&client, 9);
        let cursor = at(2_400).to_rfc3339();
        let found = client.page(MESSAGES, json!({"created_at": cursor, "limit": 1})).await.remove(0);
        match newest {
            Some(newest) => assert_eq!(id(&found), newest, "{inclusive} {precision:?}"),
            None => assert!(time(&found, "date") < at(0)),
        }
        let ascending = json!({"created_at": cursor, "ascending": true, "limit": 1});
        assert!(id(&client.page(MESSAGES, ascending).await[0]) <= 1_006);
    }
}

#[tokio::test]
async fn only_the_chosen_cursor_field_counts() {
    let long_ago = "2000-01-01T00:00:00Z";
    for (fields, by_created_at, by_date) in [
        (CursorFields::Both, true, true),
        (CursorFields::CreatedAt, true, false),
        (CursorFields::Date, false, true),
        (CursorFields::None, false, false),
    ] {
        let paging = Paging { message_cursor: fields, row_cursor: fields, ..Paging::default() };
        let client = read_as(paging).await;
        for path in [MESSAGES, CONVERSATIONS, CONTACTS] {
            let heeded = async |field: &str| client.page(path, json!({field: long_ago})).await.is_empty();
            assert_eq!(heeded("created_at").await, by_created_at, "{path} {fields:?}");
            assert_eq!(heeded("date").await, by_date, "{path} {fields:?}");
        }
    }
}

#[tokio::test]
async fn limit_and_page_can_count_for_nothing() {
    let client = read_as(Paging { heeds_limit: false, heeds_page: false, ..Paging::default() }).await;
    let first = client.page(MESSAGES, json!({})).await;
    assert_eq!(first.len(), 30);
    assert_eq!(client.page(MESSAGES, json!({"limit": 7, "page": 3})).await, first);
}

#[tokio::test]
async fn the_order_by_change_can_be_void_or_half_done() {
    let body = |cursor: DateTime<Utc>| json!({"order": "updated_at", "created_at": cursor.to_rfc3339()});
    for order in [UpdatedOrder::Honoured, UpdatedOrder::CursorByDate, UpdatedOrder::Ignored] {
        let client = read_as(Paging { updated_order: order, ..Paging::default() }).await;
        let changed = *client.state().messages().keys().next().unwrap();
        client.state().change_message(changed, |row| row.updated = at(10));
        let newest = client.page(MESSAGES, json!({"order": "updated_at"})).await;
        assert_eq!(id(&newest[0]) == changed, order != UpdatedOrder::Ignored, "{order:?}");
        // Above the cursor by its change, below it by its date.
        let below = client.page(MESSAGES, body(at(5))).await;
        let shown = below.iter().any(|row| id(row) == changed);
        assert_eq!(shown, order == UpdatedOrder::CursorByDate, "{order:?}");
    }
}

/// Inboxes of the conversations that `body` lists; `None` where it is refused.
async fn listed(client: &Client, body: Value) -> Option<BTreeSet<i64>> {
    let answer = client.post(CONVERSATIONS, &body).await;
    if answer.status() == reqwest::StatusCode::BAD_REQUEST {
        return None;
    }
    let rows: Vec<Value> = answer.json().await.unwrap();
    Some(rows.iter().map(|row| row["inbox"].as_i64().unwrap()).collect())
}

#[tokio::test]
async fn conversations_can_want_an_id() {
    for (wanted, right, wrong) in [
        (WantedId::None, json!({}), vec![json!({"id": 0}), json!({"id": 2_001})]),
        (WantedId::Zero, json!({"id": 0}), vec![json!({}), json!({"id": 2_001})]),
        (WantedId::Member, json!({"id": 2_001}), vec![json!({}), json!({"id": 0}), json!({"id": 7})]),
    ] {
        let rule = |otherwise| Paging {
            conversation_id: IdRule { wanted, otherwise, ..IdRule::default() },
            ..Paging::default()
        };
        let refusing = read_as(rule(OtherwiseGets::BadData)).await;
        let empty = read_as(rule(OtherwiseGets::Empty)).await;
        for client in [&refusing, &empty] {
            assert!(!listed(client, right.clone()).await.unwrap().is_empty(), "{wanted:?}");
            assert_eq!(client.state().page_log().last().unwrap().id, right["id"].as_i64());
        }
        for body in wrong {
            assert_eq!(listed(&refusing, body.clone()).await, None, "{wanted:?}, {body}");
            assert_eq!(listed(&empty, body.clone()).await, Some(BTreeSet::new()), "{wanted:?}, {body}");
        }
    }
}

#[tokio::test]
async fn an_id_can_stand_for_the_inboxes_of_a_member() {
    let rule = IdRule { own_inboxes_only: true, stands_for: Some(2_002), ..IdRule::default() };
    let client = read_as(Paging { conversation_id: rule, ..Paging::default() }).await;
    let own = |member| {
        let inboxes = client.state().inboxes().into_iter();
        inboxes.filter(|inbox| inbox.members.contains(&member)).map(|inbox| inbox.id).collect::<BTreeSet<_>>()
    };
    assert_ne!(own(2_001), own(2_002));
    assert_eq!(listed(&client, json!({"limit": 500, "id": 2_001})).await, Some(own(2_001)));
    assert_eq!(listed(&client, json!({"limit": 500})).await, Some(own(2_002)));
    assert_eq!(listed(&client, json!({"limit": 500, "id": 0})).await, Some(own(2_002)));
    assert!(client.state().remove_inbox(*own(2_001).first().unwrap()));
    assert_eq!(listed(&client, json!({"limit": 500, "id": 2_001})).await, Some(own(2_001)));
}

#[tokio::test]
async fn conversations_closed_long_ago_can_be_left_out_unasked() {
    let all = read_as(Paging::default()).await;
    let mut closed: Vec<_> = all
        .state()
        .conversations()
        .into_values()
        .filter(|row| row.is_closed())
        .map(|row| row.updated)
        .collect();
    closed.sort();
    let since = closed[closed.len() / 2];
    all.state().set_paging(Paging { closed_since: Some(since), ..Paging::default() });
    let count = async |body: Value| all.page(CONVERSATIONS, body).await.len();
    let open = all.state().conversations().len() - closed.len();
    let recent = closed.iter().filter(|at| **at >= since).count();
    assert_eq!(count(json!({"limit": 500})).await, open + recent);
    assert_eq!(count(json!({"limit": 500, "filters": {"closed": true}})).await, closed.len());
    let hidden = Paging { conversations: DefaultView::Open, closed_since: Some(since), ..Paging::default() };
    all.state().set_paging(hidden);
    assert_eq!(count(json!({"limit": 500})).await, open);
}

async fn contacts(client: &Client, body: Value) -> Vec<(DateTime<Utc>, i64)> {
    client.page(CONTACTS, body).await.iter().map(|row| (time(row, "updated"), id(row))).collect()
}

#[tokio::test]
async fn pages_slip_and_recover() {
    let client = Client::new(options()).await;
    let state = client.state();
    let right = contacts(&client, json!({})).await;
    // The old version of a row that moved to the top has its place in the page below.
    let moved = right[10];
    state.change_contact(moved.1, |contact| contact.updated = at(0));
    let right = contacts(&client, json!({})).await;
    let body = json!({"date": right[5].0.to_rfc3339()});
    let below = contacts(&client, body.clone()).await;
    state.set_slips(Slips { probability: 1.0, most: 60, ..Slips::default() });
    let (mut repeated, mut overlapping, mut outdated, mut disordered, mut empty) = (0, 0, 0, 0, 0);
    for _ in 0..300 {
        let page = contacts(&client, body.clone()).await;
        assert!(page.len() <= 30);
        let distinct: BTreeSet<_> = page.iter().collect();
        empty += usize::from(page.is_empty());
        overlapping += usize::from(page.first().is_some_and(|row| row.0 >= right[5].0));
        outdated += usize::from(page.contains(&moved) && !below.contains(&moved));
        repeated += usize::from(distinct.len() < page.len());
        disordered += usize::from(!page.is_sorted_by(|a, b| a.0 >= b.0));
    }
    let seen = [repeated, overlapping, outdated, disordered, empty];
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    assert_eq!(contacts(&client, body).await, below, "the slips are used up");
}

#[tokio::test]
async fn late_rows_become_visible_within_the_bound() {
    let client = Client::new(options()).await;
    let state = client.state();
    state.set_slips(Slips { late: Duration::from_secs(1_000), ..Slips::default() });
    let now = state.now();
    for index in 0..20 {
        state.put_message(Message { date: now, ..Message::plain(1_000 + index, 1, now) });
    }
    let visible = async || {
        client.page(MESSAGES, json!({"limit": 20})).await.iter().filter(|row| id(row) < 2_000).count()
    };
    assert!(visible().await < 20);
    state.set_clock_skew(TimeDelta::seconds(1_001));
    let secret = client.sandbox.credentials().secrets[0].clone();
    let client = Client { bearer: token(&secret.id, &secret.key, client.state().now()), ..client };
    let listed = client.page(MESSAGES, json!({"limit": 20})).await;
    assert_eq!(listed.iter().filter(|row| id(row) < 2_000).count(), 20);
}

#[tokio::test]
async fn a_script_acts_at_its_request() {
    let client = Client::new(options()).await;
    let done = Arc::new(AtomicUsize::new(0));
    for nth in [2, 3, 3] {
        let done = Arc::clone(&done);
        client.state().on_request(nth, move |state| {
            state.put_contact(heymarket_sync::sandbox::Contact::plain(nth as i64, at(nth as i64)));
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    for expected in [0, 1, 3, 3] {
        let newest = client.page(CONTACTS, json!({"limit": 1})).await.remove(0);
        assert_eq!(done.load(Ordering::Relaxed), expected);
        assert_eq!(id(&newest) == 2, expected == 1);
    }
}
