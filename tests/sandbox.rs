//! The sandbox API through its HTTP door: what the vendor's pages promise must hold here, or tests against it
//! prove nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use heymarket_sync::{
    clock,
    sandbox::{
        DefaultView, Endpoint, Event, Fault, Paging, RateLimit, Sandbox, SandboxCredentials, SandboxOptions,
        SandboxState, TeamOptions,
    },
};
use reqwest::{Response, StatusCode, header};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages/all";
const CONVERSATIONS: &str = "/v1/conversations";
const CONTACTS: &str = "/v1/contacts";

struct Client {
    sandbox: Sandbox,
    http: reqwest::Client,
    bearer: String,
}

impl Client {
    async fn new(options: SandboxOptions) -> Self {
        let sandbox = Sandbox::start(options).await.unwrap();
        Self::of(sandbox)
    }

    fn of(sandbox: Sandbox) -> Self {
        let secret = sandbox.credentials().secrets[0].clone();
        let bearer = token(&secret.id, &secret.key, Utc::now());
        Self { sandbox, http: http(), bearer }
    }

    fn state(&self) -> &SandboxState {
        self.sandbox.state()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.base_url())
    }

    async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        self.http.post(self.url(path)).bearer_auth(&self.bearer).json(body).send().await
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.try_post(path, body).await.unwrap()
    }

    async fn page(&self, path: &str, body: Value) -> Vec<Value> {
        let response = self.post(path, &body).await;
        assert_eq!(response.status(), StatusCode::OK, "{path} {body}");
        response.json().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.http.get(self.url(path)).bearer_auth(&self.bearer).send().await.unwrap()
    }
}

fn http() -> reqwest::Client {
    // Err: another test of this process was first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn token(id: &str, key: &str, issued: DateTime<Utc>) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(format!("{id}||{key}").as_bytes());
    let claims = json!({"iss": id, "iat": issued.timestamp()});
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

fn options() -> SandboxOptions {
    SandboxOptions {
        team: TeamOptions { end: Some("2024-12-22T23:31:49.43203Z".parse().unwrap()), ..team() },
        rate_limit: RateLimit { per_minute: None, retry_after: true },
        ..SandboxOptions::default()
    }
}

fn team() -> TeamOptions {
    TeamOptions { messages: 4_000, conversations: 700, contacts: 600, ..TeamOptions::default() }
}

fn id(row: &Value) -> i64 {
    row["id"].as_i64().unwrap()
}

fn time(row: &Value, field: &str) -> DateTime<Utc> {
    row[field].as_str().unwrap().parse().unwrap()
}

/// Every row as the sandbox holds it.
fn truth(state: &SandboxState, rows: Endpoint) -> BTreeMap<i64, Value> {
    let mut all = BTreeMap::new();
    state.for_each_printed(rows, |id, bytes| {
        all.insert(id, serde_json::from_slice(bytes).unwrap());
    });
    all
}

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
async fn rows_bear_the_fields_of_the_endpoint_pages() {
    const MESSAGE: &str = "author broadcast_id conversation custom date flagged id link_url local_id media phone \
                           status super support target text type updated user";
    const CONVERSATION: &str = "assigned blocked channel created creator email_noti id inbox last_inbound local_id \
                                members muted name noreply op read replied snooze_till status super support \
                                target type updated";
    const CONTACT: &str = "avatar created creator_id custom display_name email external_id external_ref first id \
                           inbox_id last note op parent_id phone rev shared team_id type updated \
                           assigned_user_id tags is_opted_out";
    let client = Client::new(options()).await;
    for (path, fields) in [(MESSAGES, MESSAGE), (CONVERSATIONS, CONVERSATION), (CONTACTS, CONTACT)] {
        let names: BTreeSet<_> = fields.split_whitespace().collect();
        for row in client.page(path, json!({"limit": 1_000})).await {
            let found: BTreeSet<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(found, names, "{path}");
        }
    }
}

#[tokio::test]
async fn messages_embed_their_conversation_as_it_is_now() {
    let client = Client::new(options()).await;
    for message in client.page(MESSAGES, json!({"limit": 200})).await {
        let embedded = &message["conversation"];
        assert_eq!(Some(embedded), client.state().json(Endpoint::Conversations, id(embedded)).as_ref());
    }
}

#[tokio::test]
async fn the_generated_team_is_realistic() {
    let state = SandboxState::generate(&options());
    let messages = state.messages();
    let mut dates = BTreeMap::<_, usize>::new();
    let mut updates = BTreeMap::<_, usize>::new();
    for message in messages.values() {
        *dates.entry((message.broadcast_id, message.date)).or_default() += 1;
        *updates.entry(message.updated).or_default() += 1;
        assert!(message.updated >= message.date);
    }
    let broadcasts: Vec<_> = dates.iter().filter(|((broadcast, _), _)| *broadcast != 0).collect();
    assert!(broadcasts.iter().any(|(_, rows)| **rows >= 200), "{broadcasts:?}");
    assert!(updates.values().any(|&rows| rows >= 100), "a run of equal updated");
    for status in ["received", "sent", "delivered", "failed"] {
        assert!(messages.values().any(|message| &*message.status == status), "{status}");
    }
    let conversations = state.conversations();
    let twice = |ids: Vec<&str>| ids.iter().collect::<BTreeSet<_>>().len() < ids.len();
    assert!(conversations.values().any(|row| row.members.windows(2).any(|pair| pair[0].id == pair[1].id)));
    assert!(conversations.values().any(|row| row.is_closed() && row.snooze_till.is_none()));
    let contacts = state.contacts();
    assert!(contacts.values().any(|row| twice(row.notes.iter().map(|note| &*note.id).collect())));
    assert!(contacts.values().any(|row| row.is_opted_out && row.rev > 1));
    assert!(contacts.values().any(|row| &*row.tags != "[]" && &*row.custom != "{}"));
}

#[tokio::test]
async fn the_same_seed_makes_the_same_team() {
    let of = |seed| {
        let base = options();
        let options = SandboxOptions { team: TeamOptions { seed, ..base.team.clone() }, ..base };
        let state = SandboxState::generate(&options);
        let mut printed = Vec::new();
        for rows in [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts] {
            state.for_each_printed(rows, |_, bytes| printed.extend_from_slice(bytes));
        }
        printed
    };
    assert!(of(1) == of(1));
    assert!(of(1) != of(2));
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
    assert!(inboxes.iter().all(|inbox| inbox["team"] == team["id"] && inbox["members"] == json!(members)));
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

#[tokio::test]
async fn credentials_are_checked() {
    let client = Client::new(options()).await;
    let now = Utc::now();
    let (id, key) = (SandboxCredentials::DEMO_SECRET_ID, SandboxCredentials::DEMO_SECRET_KEY);
    let ask = async |bearer: &str| {
        let response = client.http.get(client.url("/v1/inboxes")).bearer_auth(bearer).send().await.unwrap();
        response.status()
    };
    let minutes = TimeDelta::minutes;
    for (bearer, status) in [
        (token(id, key, now), StatusCode::OK),
        (token(id, key, now - minutes(4)), StatusCode::OK),
        (token(id, key, now - minutes(6)), StatusCode::UNAUTHORIZED),
        (token(id, key, now + minutes(2)), StatusCode::UNAUTHORIZED),
        (token(id, "other", now), StatusCode::UNAUTHORIZED),
        (token("other", key, now), StatusCode::UNAUTHORIZED),
        (SandboxCredentials::DEMO_TEAM_KEY.to_owned(), StatusCode::OK),
        ("nonsense".to_owned(), StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(ask(&bearer).await, status);
    }
    let bare = client.http.get(client.url("/v1/inboxes")).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bare.json::<Value>().await.unwrap()["error"], "unauthorized");
    assert_eq!(client.state().counters().unauthorized, 6);

    client.state().set_credentials(SandboxCredentials::secret("new", "key"));
    assert_eq!(ask(&token(id, key, now)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&token("new", "key", now)).await, StatusCode::OK);
}

#[tokio::test]
async fn a_skewed_clock_shows_in_the_date_and_refuses_tokens() {
    let client = Client::new(options()).await;
    client.state().set_clock_skew(TimeDelta::hours(-2));
    let refused = client.get("/v1/inboxes").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let date = refused.headers()[header::DATE].to_str().unwrap();
    let behind = Utc::now() - DateTime::parse_from_rfc2822(date).unwrap().to_utc();
    assert!((TimeDelta::minutes(119)..TimeDelta::minutes(121)).contains(&behind), "{behind}");
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused() {
    let rate_limit = RateLimit { per_minute: Some(3), retry_after: true };
    let client = Client::new(SandboxOptions { rate_limit, ..options() }).await;
    for _ in 0..3 {
        assert_eq!(client.get("/v1/inboxes").await.status(), StatusCode::OK);
    }
    let refused = client.get("/v1/inboxes").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"], "rate_limited");

    client.state().set_rate_limit(RateLimit { retry_after: false, ..rate_limit });
    let refused = client.get("/v1/inboxes").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(!refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(client.state().counters().rate_limited, 2);
    assert_eq!(client.state().counters().requests_to(Endpoint::Inboxes), 5);

    client.state().set_rate_limit(RateLimit { per_minute: None, retry_after: true });
    assert_eq!(client.get("/v1/inboxes").await.status(), StatusCode::OK);
}

#[test]
fn live_traffic_follows_the_seed() {
    let run = || {
        let state = SandboxState::generate(&options());
        let start: DateTime<Utc> = "2024-12-23T00:00:00Z".parse().unwrap();
        let events: Vec<Event> =
            (0..2_000).map(|step| state.apply_event(start + TimeDelta::milliseconds(step))).collect();
        let truth =
            [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts].map(|rows| truth(&state, rows));
        (events, truth)
    };
    let (events, after) = run();
    assert!((events.clone(), after) == run());
    let kinds: [fn(&Event) -> bool; 8] = [
        |event| matches!(event, Event::Received(_)),
        |event| matches!(event, Event::Sent(_)),
        |event| matches!(event, Event::StatusChanged(_)),
        |event| matches!(event, Event::ArrivedLate(_)),
        |event| matches!(event, Event::Closed(_)),
        |event| matches!(event, Event::Reopened(_)),
        |event| matches!(event, Event::ContactEdited(_)),
        |event| matches!(event, Event::FirstContact(_)),
    ];
    for (kind, is) in kinds.into_iter().enumerate() {
        assert!(events.iter().any(is), "kind {kind}");
    }
}

#[test]
fn events_move_the_times_they_should() {
    let small = TeamOptions { messages: 100, conversations: 20, contacts: 20, ..options().team };
    let state = SandboxState::generate(&SandboxOptions { team: small, ..options() });
    let start: DateTime<Utc> = "2024-12-23T00:00:00Z".parse().unwrap();
    for step in 0..500 {
        let now = start + TimeDelta::milliseconds(step);
        let (messages, conversations, contacts) = (state.messages(), state.conversations(), state.contacts());
        match state.apply_event(now) {
            Event::Received(id) | Event::Sent(id) | Event::FirstContact(id) => {
                let message = state.message(id).unwrap();
                assert!(!messages.contains_key(&id));
                assert_eq!((message.date, message.updated), (now, now));
                assert!(state.conversation(message.conversation_id).unwrap().updated >= now);
            }
            Event::ArrivedLate(id) => {
                let message = state.message(id).unwrap();
                assert!(!messages.contains_key(&id));
                assert!(message.date < now && message.updated == now);
            }
            Event::StatusChanged(id) => {
                let (before, after) = (&messages[&id], state.message(id).unwrap());
                assert!(after.updated > before.updated && after.date == before.date);
                assert_ne!(after.status, before.status);
            }
            Event::Closed(id) | Event::Reopened(id) => {
                let (before, after) = (&conversations[&id], state.conversation(id).unwrap());
                assert!(after.updated > before.updated && after.is_closed() != before.is_closed());
            }
            Event::ContactEdited(id) => {
                let (before, after) = (&contacts[&id], state.contact(id).unwrap());
                assert!(after.updated > before.updated && after.rev == before.rev + 1);
            }
        }
    }
}

#[test]
fn ticks_apply_the_rate() {
    let state = SandboxState::generate(&SandboxOptions { live_rate: 2.5, ..options() });
    let start: DateTime<Utc> = "2024-12-23T00:00:00Z".parse().unwrap();
    let at = |millis| state.tick(start + TimeDelta::milliseconds(millis)).len();
    assert_eq!([at(0), at(400), at(600), at(2_000), at(1_000)], [0, 1, 0, 4, 0]);
    state.set_live_rate(0.0);
    assert_eq!(at(9_000), 0);
}

#[tokio::test]
async fn a_running_sandbox_is_live() {
    let client = Client::new(SandboxOptions { live_rate: 1_000.0, ..options() }).await;
    let arrived = async {
        while client.state().messages().len() == 4_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.unwrap();
    let newest = client.page(MESSAGES, json!({"order": "updated_at", "limit": 1})).await.remove(0);
    assert!(clock::now() - time(&newest, "updated") < TimeDelta::minutes(1));
}

#[tokio::test]
async fn faults_come_as_ordered() {
    let client = Client::new(options()).await;
    let state = client.state();
    let ask = async || client.try_post(MESSAGES, &json!({"limit": 200})).await;

    state.push_fault_on(Endpoint::Contacts, Fault::Status(502));
    state.push_fault(Fault::TooManyRequests { retry_after: Some(7) });
    state.push_fault(Fault::TooManyRequests { retry_after: None });
    state.push_fault(Fault::Status(503));
    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "7");
    assert!(!ask().await.unwrap().headers().contains_key(header::RETRY_AFTER));
    assert_eq!(ask().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(client.post(CONTACTS, &json!({})).await.status(), StatusCode::BAD_GATEWAY);

    state.push_fault(Fault::Reset);
    assert!(ask().await.is_err());
    state.push_fault(Fault::Truncated);
    let cut = ask().await.unwrap();
    assert_eq!(cut.status(), StatusCode::OK);
    assert!(cut.content_length().unwrap() > 1_000);
    assert!(cut.bytes().await.is_err());
    state.push_fault(Fault::Html);
    let html = ask().await.unwrap();
    assert_eq!(
        (html.status(), &html.headers()[header::CONTENT_TYPE]),
        (StatusCode::OK, &"text/html".parse().unwrap())
    );
    state.push_fault(Fault::NoBody);
    assert!(ask().await.unwrap().bytes().await.unwrap().is_empty());
    state.push_fault(Fault::EmptyArray);
    assert_eq!(ask().await.unwrap().json::<Value>().await.unwrap(), json!([]));

    assert_eq!(state.queued_faults(), 0);
    assert_eq!(ask().await.unwrap().json::<Vec<Value>>().await.unwrap().len(), 200);
    state.set_lasting_fault(Some(Fault::Status(500)));
    for _ in 0..3 {
        assert_eq!(ask().await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    state.set_lasting_fault(None);
    assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
    assert_eq!(state.counters().faults, 12);
}

#[tokio::test]
async fn hanging_requests_wait_side_by_side_and_end_with_the_sandbox() {
    const HANGING: usize = 8;
    let client = Client::new(options()).await;
    client.state().set_lasting_fault(Some(Fault::Hang));
    let state = client.state().clone();
    let requests: Vec<_> = (0..HANGING)
        .map(|_| {
            let request = client.http.get(client.url("/v1/inboxes")).bearer_auth(&client.bearer);
            tokio::spawn(async move { request.send().await.map(|response| response.status()) })
        })
        .collect();
    let all_in = async {
        while state.counters().peak_in_flight < HANGING {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_in).await.unwrap();
    client.sandbox.stop().await;
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn latency_is_added() {
    let latency = Duration::from_millis(50);
    let client = Client::new(SandboxOptions { latency, ..options() }).await;
    let before = std::time::Instant::now();
    client.page(CONTACTS, json!({})).await;
    assert!(before.elapsed() >= latency);
}

#[tokio::test]
async fn a_team_outlives_an_outage() {
    let client = Client::new(options()).await;
    let (address, state) = (client.sandbox.address(), client.state().clone());
    let before = client.page(CONTACTS, json!({})).await;
    let (http, url) = (client.http.clone(), client.url("/v1/inboxes"));
    client.sandbox.stop().await;
    assert!(http.get(url).send().await.unwrap_err().is_connect());
    let again = Client::of(Sandbox::resume(state, address).await.unwrap());
    assert_eq!(again.page(CONTACTS, json!({})).await, before);
}

#[tokio::test]
async fn rows_can_be_changed_removed_and_spoilt() {
    let client = Client::new(options()).await;
    let state = client.state();
    let message = client.page(MESSAGES, json!({"limit": 1})).await.remove(0);
    let (message_id, conversation_id) = (id(&message), id(&message["conversation"]));

    let moved: DateTime<Utc> = "2025-01-01T00:00:00.000001Z".parse().unwrap();
    assert!(state.change_message(message_id, |row| {
        row.date = moved;
        row.text = "moved".into();
    }));
    assert!(!state.change_message(1, |_| ()));
    let newest = client.page(MESSAGES, json!({"limit": 2})).await;
    assert_eq!((id(&newest[0]), &newest[0]["date"]), (message_id, &json!("2025-01-01T00:00:00.000001Z")));
    assert_ne!(id(&newest[1]), message_id);

    state.set_raw(Endpoint::Conversations, conversation_id, Some(Bytes::from_static(b"{\"id\":\"odd\"}")));
    let shown: Value =
        client.get(&format!("/v1/conversations/{conversation_id}")).await.json().await.unwrap();
    assert_eq!(shown, json!({"id": "odd"}));
    assert_eq!(client.page(MESSAGES, json!({"limit": 1})).await[0]["conversation"], shown);
    state.set_raw(Endpoint::Conversations, conversation_id, None);

    state.set_raw(Endpoint::Messages, message_id, Some(Bytes::from_static(b"17")));
    assert_eq!(client.page(MESSAGES, json!({"limit": 2})).await[0], json!(17));
    state.set_raw(Endpoint::Messages, message_id, None);

    assert!(state.remove(Endpoint::Messages, message_id));
    assert!(!state.remove(Endpoint::Messages, message_id));
    assert_ne!(id(&client.page(MESSAGES, json!({"limit": 1})).await[0]), message_id);
    assert!(state.remove(Endpoint::Conversations, conversation_id));
    let gone = client.get(&format!("/v1/conversations/{conversation_id}")).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn answers_are_compressed_on_request() {
    let client = Client::new(SandboxOptions { gzip: true, ..options() }).await;
    let plain = reqwest::Client::builder().no_proxy().gzip(false).build().unwrap();
    let ask = plain.post(client.url(MESSAGES)).bearer_auth(&client.bearer).json(&json!({"limit": 100}));
    let packed = ask.try_clone().unwrap().header(header::ACCEPT_ENCODING, "gzip").send().await.unwrap();
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
    let whole = ask.send().await.unwrap();
    assert!(!whole.headers().contains_key(header::CONTENT_ENCODING));
    assert!(packed.bytes().await.unwrap().len() < whole.bytes().await.unwrap().len() / 2);
    assert_eq!(client.page(MESSAGES, json!({"limit": 100})).await.len(), 100);
}
