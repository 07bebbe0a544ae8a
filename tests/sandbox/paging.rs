//! What is listed, in which order, and what a wrong request is told.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use heymarket_sync::sandbox::{DefaultView, Endpoint, Paging, SandboxOptions};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{CONTACTS, CONVERSATIONS, Client, MESSAGES, id, options, time, truth};

#[tokio::test]
async fn pages_by_number_list_every_row_once_in_order() {
    let client = Client::new(options()).await;
    for (path, rows, field, body) in [
        (MESSAGES, Endpoint::Messages, "date", json!({})),
        (MESSAGES, Endpoint::Messages, "updated", json!({"order": "updated_at"})),
        (MESSAGES, Endpoint::Messages, "date", json!({"ascending": true, "order": "created_at"})),
        (CONVERSATIONS, Endpoint::Conversations, "updated", json!({})),
        (CONTACTS, Endpoint::Contacts, "updated", json!({})),
        (CONTACTS, Endpoint::Contacts, "updated", json!({"ascending": true})),
    ] {
        let mut listed = Vec::new();
        for page in 1.. {
            let mut body = body.clone();
            body["page"] = page.into();
            body["limit"] = 97.into();
            let found = client.page(path, body).await;
            assert!(found.len() <= 97);
            if found.is_empty() {
                break;
            }
            listed.extend(found);
        }
        let mut order: Vec<_> = listed.iter().map(|row| (time(row, field), id(row))).collect();
        if body["ascending"] == true {
            order.reverse();
        }
        assert!(order.is_sorted_by(|a, b| a > b), "{path} {body}");
        let listed: BTreeMap<_, _> = listed.into_iter().map(|row| (id(&row), row)).collect();
        assert_eq!(listed, truth(client.state(), rows), "{path} {body}");
        assert_eq!(order.len(), listed.len(), "{path} {body}");
    }
}

#[tokio::test]
async fn cursors_walk_over_ties() {
    let client = Client::new(options()).await;
    for (path, cursor, field, order) in [
        (MESSAGES, "created_at", "date", "created_at"),
        (MESSAGES, "date", "date", "created_at"),
        (MESSAGES, "created_at", "updated", "updated_at"),
        (CONVERSATIONS, "date", "updated", "updated_at"),
        (CONTACTS, "date", "updated", "updated_at"),
    ] {
        // Larger than the longest run of equal times.
        let mut body = json!({"limit": 700, "order": order});
        let mut seen = BTreeSet::new();
        loop {
            let page = client.page(path, body.clone()).await;
            let before = seen.len();
            seen.extend(page.iter().map(id));
            if seen.len() == before {
                break;
            }
            let above_last = time(page.last().unwrap(), field) + TimeDelta::microseconds(1);
            body[cursor] = above_last.to_rfc3339().into();
        }
        let rows = match path {
            MESSAGES => 4_000,
            CONVERSATIONS => 700,
            _ => 600,
        };
        assert_eq!(seen.len(), rows, "{path} by {field}");
    }
}

#[tokio::test]
async fn the_cursor_is_exclusive_downwards_and_inclusive_upwards() {
    let client = Client::new(options()).await;
    let newest = client.page(MESSAGES, json!({"limit": 1})).await.remove(0);
    let offset = chrono::FixedOffset::east_opt(5 * 3_600).unwrap();
    let at = time(&newest, "date").with_timezone(&offset).to_rfc3339();
    let below = client.page(MESSAGES, json!({"created_at": at, "limit": 10})).await;
    assert!(below.iter().all(|row| time(row, "date") < time(&newest, "date")));
    let above = client.page(MESSAGES, json!({"created_at": at, "ascending": true})).await;
    assert_eq!(above, [newest]);
}

#[tokio::test]
async fn a_created_at_cursor_goes_before_a_date() {
    let client = Client::new(options()).await;
    let both = json!({"created_at": "2000-01-01T00:00:00Z", "date": "2030-01-01T00:00:00Z"});
    assert!(client.page(MESSAGES, both).await.is_empty());
    assert_eq!(client.page(MESSAGES, json!({"created_at": "", "date": ""})).await.len(), 30);
}

#[tokio::test]
async fn limits_have_a_default_and_a_cap() {
    let paging = Paging { cap: 50, first_page: 0, ..Paging::default() };
    let client = Client::new(SandboxOptions { paging, ..options() }).await;
    for (body, rows) in [
        (json!({}), 30),
        (json!({"limit": 0}), 30),
        (json!({"limit": 49}), 49),
        (json!({"limit": 51}), 50),
        (json!({"limit": null, "date": null}), 30),
    ] {
        assert_eq!(client.page(MESSAGES, body.clone()).await.len(), rows, "{body}");
    }
    let first = client.page(MESSAGES, json!({"page": 0})).await;
    assert_eq!(first, client.page(MESSAGES, json!({})).await);
    assert_ne!(first, client.page(MESSAGES, json!({"page": 1})).await);
    let read = client.state().page_log().remove(3);
    assert_eq!((read.endpoint, read.limit, read.rows), (Endpoint::Messages, Some(51), 50));
}

#[tokio::test]
async fn conversations_are_filtered() {
    let client = Client::new(options()).await;
    let all = truth(client.state(), Endpoint::Conversations);
    let ids = |rows: &[Value]| rows.iter().map(id).collect::<BTreeSet<_>>();
    let expected =
        |keep: &dyn Fn(&Value) -> bool| all.values().filter(|row| keep(row)).map(id).collect::<BTreeSet<_>>();
    let closed = |row: &Value| row["status"] == "closed";
    let unread = |row: &Value| row["last_inbound"].as_i64() > row["read"].as_i64();
    let check = async |body: Value, keep: &dyn Fn(&Value) -> bool| {
        let expected = expected(keep);
        assert!(!expected.is_empty() && expected.len() <= all.len(), "{body}");
        let mut asked = body.clone();
        asked["limit"] = 1_000.into();
        assert_eq!(ids(&client.page(CONVERSATIONS, asked).await), expected, "{body}");
        let count: String = client.post("/v1/conversations/count", &body).await.json().await.unwrap();
        assert_eq!(count, expected.len().to_string(), "{body}");
    };
    check(json!({}), &|_| true).await;
    check(json!({"id": 0, "filters": {"closed": true}}), &closed).await;
    check(json!({"filters": {"closed": false}}), &|row| !closed(row)).await;
    check(json!({"archived": true}), &closed).await;
    check(json!({"filters": {"unread": true}}), &unread).await;
    check(json!({"filters": {"closed": true, "inboxes": [101, 103]}}), &|row| {
        closed(row) && (row["inbox"] == 101 || row["inbox"] == 103)
    })
    .await;
    client.state().set_paging(Paging { conversations: DefaultView::Open, ..Paging::default() });
    check(json!({}), &|row| !closed(row)).await;
    check(json!({"archived": true}), &closed).await;
}

#[tokio::test]
async fn single_conversations_and_their_history() {
    let client = Client::new(options()).await;
    let state = client.state();
    // The most talkative conversation: more than one answer holds.
    let mut rows = BTreeMap::<i64, Vec<_>>::new();
    for message in state.messages().into_values() {
        rows.entry(message.conversation_id).or_default().push((message.date, message.id));
    }
    let (conversation, mut messages) = rows.into_iter().max_by_key(|(_, rows)| rows.len()).unwrap();
    messages.sort_by(|a, b| b.cmp(a));
    assert!(messages.len() > 50);

    let shown: Value = client.get(&format!("/v1/conversations/{conversation}")).await.json().await.unwrap();
    assert_eq!(Some(&shown), state.json(Endpoint::Conversations, conversation).as_ref());
    let path = format!(
        "/v1/messages?phoneNumber={}&inboxID={}",
        shown["target"].as_str().unwrap(),
        shown["inbox"].as_i64().unwrap()
    );
    let history: Vec<Value> = client.get(&path).await.json().await.unwrap();
    let expected: Vec<_> = messages.iter().take(50).map(|(_, id)| *id).collect();
    assert_eq!(history.iter().map(id).collect::<Vec<_>>(), expected);

    let latest = messages[30].0.timestamp();
    let history: Vec<Value> = client.get(&format!("{path}&timestamp={latest}")).await.json().await.unwrap();
    let expected = messages.iter().filter(|(date, _)| date.timestamp() <= latest).take(50);
    assert_eq!(history.iter().map(id).collect::<Vec<_>>(), expected.map(|(_, id)| *id).collect::<Vec<_>>());

    let nobody: Vec<Value> = client.get("/v1/messages?phoneNumber=1&inboxID=101").await.json().await.unwrap();
    assert!(nobody.is_empty());
}

#[tokio::test]
async fn counts_inboxes_and_team() {
    let client = Client::new(options()).await;
    for (path, count) in [
        ("/v1/messages/all/count", "4000"),
        ("/v1/conversations/count", "700"),
        ("/v1/contacts/count", "600"),
    ] {
        assert_eq!(client.post(path, &json!({})).await.json::<Value>().await.unwrap(), count);
    }
    let inboxes: Vec<Value> = client.get("/v1/inboxes").await.json().await.unwrap();
    let team: Value = client.get("/v1/team").await.json().await.unwrap();
    let members: Vec<i64> = team["members"].as_array().unwrap().iter().map(id).collect();
    assert!(!members.is_empty());
    let ids: BTreeSet<_> = inboxes.iter().map(id).collect();
    assert!(client.state().conversations().values().all(|row| ids.contains(&row.inbox)));
    for inbox in inboxes {
        assert_eq!(inbox["team"], team["id"]);
        let own: Vec<i64> =
            inbox["members"].as_array().unwrap().iter().map(|member| member.as_i64().unwrap()).collect();
        assert!(!own.is_empty() && own.len() < members.len(), "{own:?}");
        assert!(own.iter().all(|member| members.contains(member)), "{own:?}");
    }
}

#[tokio::test]
async fn wrong_requests_are_told_so_in_json() {
    let client = Client::new(options()).await;
    for (path, body) in [
        (MESSAGES, json!({"created_at": "yesterday"})),
        (CONTACTS, json!({"date": "2024-13-01T00:00:00Z"})),
        (MESSAGES, json!({"limit": -1})),
        (MESSAGES, json!({"limit": "10"})),
        (MESSAGES, json!({"page": -1})),
        (CONVERSATIONS, json!({"order": "name"})),
        (CONVERSATIONS, json!([])),
    ] {
        let response = client.post(path, &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path} {body}");
        assert!(response.headers().contains_key("x-request-id"));
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"], "bad_data", "{path} {body}");
        assert!(error["message"].is_string());
    }
    for (path, status, error) in [
        ("/v1/messages?inboxID=101", StatusCode::BAD_REQUEST, "bad_data"),
        ("/v1/messages?phoneNumber=1&inboxID=x", StatusCode::BAD_REQUEST, "bad_data"),
        ("/v1/conversations/1", StatusCode::NOT_FOUND, "not_found"),
        ("/v1/conversations/x", StatusCode::BAD_REQUEST, "bad_data"),
        ("/v1/nothing", StatusCode::NOT_FOUND, "not_found"),
        (MESSAGES, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
    ] {
        let response = client.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(response.headers().contains_key("x-request-id"), "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"], error, "{path}");
    }
    let empty = client.http.post(client.url(MESSAGES)).bearer_auth(&client.bearer).send().await.unwrap();
    assert_eq!(empty.json::<Vec<Value>>().await.unwrap().len(), 30);
}
