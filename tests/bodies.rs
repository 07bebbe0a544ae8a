//! Bodies that cannot be read: too large, of too many rows, broken, or none; what is around them is mirrored.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt as _;
use heymarket_sync::api::client::Client;
use heymarket_sync::api::endpoints::{CursorField, Order, PageRequest, View};
use heymarket_sync::api::limiter::Priority;
use heymarket_sync::api::model::Stream;
use heymarket_sync::app::{App, AppError};
use heymarket_sync::config::Settings;
use heymarket_sync::sync::scheduler::SyncError;
use heymarket_sync::telemetry;
use serde_json::Value;
use sqlx::PgPool;
use support::database::{TestDatabase, database};
use support::process::Process;
use support::settings;
use tokio_util::sync::CancellationToken;

/// The smallest `api.max_body`.
const MAX_BODY: usize = 64 * 1024;

/// What the server answers pages of contacts with; it has nothing of the other streams.
enum Answers {
    /// Rows as they are printed, by `updated` in seconds; newest first, below the cursor, `limit` of them.
    Rows(BTreeMap<i64, String>),
    /// Always the same.
    Always(String),
}

struct Source {
    address: SocketAddr,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<AtomicUsize>,
}

impl Source {
    async fn start(answers: Answers) -> Self {
        let answers = Arc::new(Mutex::new(answers));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, counter) = (Arc::clone(&answers), Arc::clone(&asked));
        let app = Router::new().fallback(move |request: Request| {
            let (shared, counter) = (Arc::clone(&shared), Arc::clone(&counter));
            async move {
                let path = request.uri().path().to_owned();
                let body = axum::body::to_bytes(request.into_body(), 10_000).await.unwrap();
                if path != "/v1/contacts" {
                    let body = if path.ends_with("/count") { "\"0\"" } else { "[]" };
                    return (StatusCode::OK, body.to_owned()).into_response();
                }
                counter.fetch_add(1, SeqCst);
                let asked: Value = serde_json::from_slice(&body).unwrap();
                let page = shared.lock().unwrap().page(&asked);
                ([(header::CONTENT_TYPE, "application/json")], page).into_response()
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, answers, asked }
    }

    fn set(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    fn environment(&self, database: &TestDatabase, max_body: usize) -> [(&'static str, String); 7] {
        [
            ("HEYMARKET_API_BASE_URL", format!("http://{}", self.address)),
            ("HEYMARKET_API_KEY", "team-key".to_owned()),
            ("DATABASE_URL", database.url().to_owned()),
            ("HEYMARKET_SYNC__API__REQUESTS_PER_MINUTE", "10000000".to_owned()),
            ("HEYMARKET_SYNC__API__MAX_BODY", max_body.to_string()),
            ("HEYMARKET_SYNC__SYNC__EMPTY_APART", "0s".to_owned()),
            ("HEYMARKET_SYNC__SYNC__PATIENCE", "0s".to_owned()),
        ]
    }

    fn settings(&self, database: &TestDatabase, max_body: usize) -> Settings {
        settings::of_environment(self.environment(database, max_body))
    }

    /// Catches up once with contacts; how many intervals stayed open.
    async fn sync(&self, database: &TestDatabase) -> usize {
        let cancel = CancellationToken::new();
        let app = App::open(self.settings(database, MAX_BODY), "test", &cancel).await.unwrap();
        let outcome = app.sync(&[Stream::Contacts], &cancel).await;
        app.close().await;
        match outcome {
            Ok(()) => 0,
            Err(AppError::Sync(SyncError::Open(open))) => open,
            Err(error) => panic!("{error:?}"),
        }
    }
}

impl Answers {
    fn page(&self, asked: &Value) -> String {
        match self {
            Self::Always(body) => body.clone(),
            Self::Rows(rows) => {
                let cursor: Option<DateTime<Utc>> = asked["date"].as_str().map(|date| date.parse().unwrap());
                let below = |second: &i64| cursor.is_none_or(|cursor| at(*second) < cursor);
                let limit = asked["limit"].as_u64().unwrap_or(30) as usize;
                let mut found: Vec<_> =
                    rows.iter().filter(|(second, _)| below(second)).map(|(_, row)| row.as_str()).collect();
                if asked["ascending"] != true {
                    found.reverse();
                }
                found.truncate(limit);
                format!("[{}]", found.join(","))
            }
        }
    }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn contact(second: i64, text: &str) -> String {
    let updated = at(second).to_rfc3339_opts(SecondsFormat::AutoSi, true);
    format!(r#"{{"id":{second},"updated":"{updated}","first":"{text}"}}"#)
}

/// A contact every ten seconds, of which `bad` are printed otherwise.
fn rows(bad: &[(i64, &str)]) -> Answers {
    let mut rows: BTreeMap<_, _> = (1..=300).map(|n| (n * 10, contact(n * 10, "fine"))).collect();
    rows.extend(bad.iter().map(|(second, row)| (*second, (*row).to_owned())));
    Answers::Rows(rows)
}

async fn missing(database: &TestDatabase) -> Vec<i64> {
    let pool = PgPool::connect(database.url()).await.unwrap();
    let found = sqlx::query_scalar(
        "SELECT n FROM generate_series(10::bigint, 3000, 10) n
         WHERE NOT EXISTS (SELECT FROM heymarket.contacts WHERE id = n) ORDER BY n",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    pool.close().await;
    found
}

/// Reason, and whether it is resolved, of each reject.
async fn rejects(database: &TestDatabase) -> Vec<(String, bool)> {
    let pool = PgPool::connect(database.url()).await.unwrap();
    let found = sqlx::query_as(
        "SELECT reason, resolved_at IS NOT NULL FROM heymarket_sync.rejects ORDER BY source_id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    pool.close().await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_too_large_is_an_open_interval_and_the_rest_is_mirrored() {
    let large = "x".repeat(MAX_BODY);
    let bad = [
        (3000, contact(3000, &large)),
        (1500, contact(1500, &large)),
        (1490, contact(1490, &large)),
        (10, contact(10, &large)),
    ];
    let bad: Vec<_> = bad.iter().map(|(second, row)| (*second, row.as_str())).collect();
    let database = database().await;
    let source = Source::start(rows(&bad)).await;
    let open = source.sync(&database).await;
    assert_eq!(missing(&database).await, [10, 1490, 1500, 3000]);
    assert!(open >= 3, "{open} intervals are open");
    let asked = source.asked.load(SeqCst);
    assert!(asked < 1_000, "{asked} requests");

    source.set(rows(&[]));
    assert_eq!(source.sync(&database).await, 0, "what was open is tried again");
    assert_eq!(missing(&database).await, [0_i64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_stays_too_large_costs_few_requests_each_time() {
    let large = contact(1500, &"x".repeat(MAX_BODY));
    let database = database().await;
    let source = Source::start(rows(&[])).await;
    source.sync(&database).await;
    source.asked.store(0, SeqCst);
    source.sync(&database).await;
    let quiet = source.asked.swap(0, SeqCst);

    let database = support::database::database().await;
    source.set(rows(&[(1500, &large)]));
    let mut tries = Vec::new();
    for _ in 0..3 {
        assert!(source.sync(&database).await > 0);
        assert_eq!(missing(&database).await, [1500]);
        tries.push(source.asked.swap(0, SeqCst) - quiet);
    }
    // A sync walks such a gap twice: the second time because the first cast doubt on how the API is read.
    assert!(tries[0] <= 140, "the first try: {tries:?}, a quiet one {quiet}");
    assert!(tries[1..].iter().all(|asked| *asked <= 50), "later tries: {tries:?}, a quiet one {quiet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_no_array_is_set_aside_and_the_rest_is_mirrored() {
    let database = database().await;
    let source = Source::start(rows(&[(1500, r#"{"id":1500,"first":"#)])).await;
    assert!(source.sync(&database).await > 0);
    assert_eq!(missing(&database).await, [1500]);
    let held = rejects(&database).await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(held[0].0.starts_with("the body is not a JSON array of rows"), "{held:?}");
    assert!(!held[0].1, "{held:?}");

    source.set(rows(&[]));
    assert_eq!(source.sync(&database).await, 0);
    assert_eq!(missing(&database).await, [0_i64; 0]);
    assert!(rejects(&database).await[0].1, "resolved by what was read in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_with_nonsense_is_left_alone_after_a_while() {
    let many = format!("[{}0]", "0,".repeat(30_000));
    let cases = [
        ("tiny elements", many.as_str(), 1),
        ("nested deeply", &format!("[{}{}]", "[".repeat(5_000), "]".repeat(5_000)), 1),
        ("larger than allowed", &format!("[\"{}\"]", "x".repeat(MAX_BODY)), 0),
    ];
    for (name, body, pages_set_aside) in cases {
        let database = database().await;
        let source = Source::start(Answers::Always(body.to_owned())).await;
        assert!(source.sync(&database).await > 0, "{name}");
        let asked = source.asked.load(SeqCst);
        assert!(asked < 400, "{name}: {asked} requests");
        let held = rejects(&database).await;
        assert!(held.len() <= 1, "{name}: {} rejects", held.len());
        let pages = held.iter().filter(|held| held.0.starts_with("the body is not")).count();
        assert_eq!(pages, pages_set_aside, "{name}: {held:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_a_page_without_rows() {
    let database = database().await;
    let source = Source::start(Answers::Always("null\n".to_owned())).await;
    assert_eq!(source.sync(&database).await, 0);
    assert_eq!(rejects(&database).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_in_hand_are_bounded_however_many_walkers_there_are() {
    const BODY: usize = 6 * 1024 * 1024;
    const BOUND: usize = 32 * 1024 * 1024;
    let database = database().await;
    let source = Source::start(Answers::Always(format!("[\"{}\"]", "x".repeat(BODY)))).await;
    let client = Client::new(&source.settings(&database, BOUND).api).unwrap();
    let request = PageRequest {
        stream: Stream::Contacts,
        cursor: None,
        cursor_field: CursorField::Date,
        order: Order::Default,
        ascending: false,
        limit: 200,
        page: None,
        view: View::Default,
        inboxes: Vec::new(),
        id: None,
    };
    let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cancel = CancellationToken::new();
    futures::stream::iter(0..32)
        .for_each_concurrent(16, |_| async {
            let response = client.page(&request, Priority::History, &cancel).await.unwrap();
            most.fetch_max(held.fetch_add(response.body.len(), SeqCst) + response.body.len(), SeqCst);
            // As long as it takes others to read theirs.
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            held.fetch_sub(response.body.len(), SeqCst);
        })
        .await;
    let most = most.load(SeqCst);
    assert!(most <= BOUND, "{most} bytes at once");
    assert!(most > BODY, "several at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_again_and_again_is_not_logged_each_time() {
    let large = "x".repeat(MAX_BODY);
    let bad: Vec<_> = (1..=40).map(|n| (n * 70, contact(n * 70, &large))).collect();
    let bad: Vec<_> = bad.iter().map(|(second, row)| (*second, row.as_str())).collect();
    let database = database().await;
    let source = Source::start(rows(&bad)).await;
    let environment = source.environment(&database, MAX_BODY);
    let environment: Vec<_> = environment.map(|(name, value)| (name.to_owned(), value)).into();
    let program = Process::start(&["--set", "log.format=json", "sync", "--stream", "contacts"], &environment);
    let ended = program.ended(Duration::from_secs(60)).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let lines = |message: &str| ended.stderr.lines().filter(|line| line.contains(message)).count();
    assert_eq!(lines("\"left open\""), telemetry::MAX_LINES as usize, "{}", ended.stderr);
    assert!(ended.stderr.lines().count() < 2 * telemetry::MAX_LINES as usize, "{}", ended.stderr);
    assert!(ended.stderr.contains("error: "), "what is wrong in the end is said: {}", ended.stderr);
}
