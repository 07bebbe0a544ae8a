//! The API client against a small server that misbehaves on request.

mod hostile;
mod outages;
#[path = "../support/mod.rs"]
mod support;

use std::{
    error::Error as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Response as Answer},
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;
use heymarket_sync::{
    api::{
        client::{Client, Inbox, Response, Team},
        endpoints::{CursorField, Order, PageRequest, View},
        error::{ApiError, ErrorKind},
        limiter::Priority,
        model::Stream,
        retry::MAX_ATTEMPTS,
    },
    config::{Api, Credentials, SecretSource},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

const SECRET_ID: &str = "the-secret-id";
const SECRET_KEY: &str = "the-secret-key";

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Seen {
    /// How many came before.
    number: usize,
    line: String,
    headers: HeaderMap,
    body: Value,
}

impl Seen {
    /// The smallest request of an endpoint.
    fn is_probe(&self) -> bool {
        self.body["limit"] == 1 || self.line == "GET /v1/inboxes"
    }

    fn token(&self) -> &str {
        self.headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap()
    }

    /// The token's claims, if its signature holds.
    fn claims(&self, secret: &str) -> Option<Value> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let key = DecodingKey::from_secret(secret.as_bytes());
        Some(jsonwebtoken::decode(self.token(), &key, &validation).ok()?.claims)
    }
}

struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers each request as `answer` says.
    async fn start(answer: impl Fn(Seen) -> Answer<Body> + Clone + Send + Sync + 'static) -> Self {
        Self::start_async(move |seen| Box::pin(std::future::ready(answer(seen)))).await
    }

    async fn start_async(
        answer: impl Fn(Seen) -> BoxFuture<'static, Answer<Body>> + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let handler = move |request: Request| async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let seen = {
                let mut log = log.lock().unwrap();
                let seen = Seen {
                    number: log.len(),
                    line: format!("{} {}", parts.method, parts.uri),
                    headers: parts.headers,
                    body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                };
                log.push(seen.clone());
                seen
            };
            answer(seen).await
        };
        let router = Router::new().fallback(handler).layer(tower_http::compression::CompressionLayer::new());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, seen }
    }

    fn settings(&self) -> Api {
        settings(self.address)
    }

    fn client(&self) -> Client {
        Client::new(&self.settings()).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn settings(address: SocketAddr) -> Api {
    let value = |text| SecretSource::Value(SecretString::from(text));
    Api {
        base_url: format!("http://{address}").parse().unwrap(),
        credentials: Some(Credentials::Secret { id: value(SECRET_ID), key: value(SECRET_KEY) }),
        page_size: 200,
        requests_per_minute: 10_000_000,
        timeout: Duration::from_secs(30),
        max_in_flight: 16,
        max_body: 1_000_000,
    }
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Answer<Body> {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = status.try_into().unwrap();
    for (name, value) in headers {
        answer.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    answer
}

fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn page_request() -> PageRequest {
    PageRequest {
        stream: Stream::Messages,
        view: View::Default,
        inboxes: Vec::new(),
        id: None,
        order: Order::Default,
        cursor: None,
        cursor_field: CursorField::CreatedAt,
        limit: 200,
        page: None,
        ascending: false,
    }
}

async fn page(client: &Client) -> Result<Response, ApiError> {
    client.page(&page_request(), Priority::Tail, &CancellationToken::new()).await
}

/// Everything that a log could show of an error.
fn all_text(error: &ApiError) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_request_is_signed_and_a_response_tells_time_and_request_id() {
    let server = Server::start(|_| {
        answer(200, &[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("x-request-id", "r-7")], "[{}]")
    })
    .await;
    let before = heymarket_sync::clock::now().timestamp();
    let client = server.client();
    let response = page(&client).await.unwrap();
    assert_eq!(response.body, "[{}]");
    assert_eq!(response.server_time, Some("1994-11-06T08:49:37Z".parse().unwrap()));
    assert_eq!(response.request_id.as_deref(), Some("r-7"));
    assert_eq!((response.attempts, client.requests()), (1, 1));

    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /v1/messages/all");
    assert_eq!(seen.body, json!({"limit": 200}));
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["user-agent"], concat!("heymarket-sync/", env!("CARGO_PKG_VERSION")));
    let claims = seen.claims("the-secret-id||the-secret-key").unwrap();
    let iat = claims["iat"].as_i64().unwrap();
    assert_eq!(claims, json!({"iss": SECRET_ID, "iat": iat}));
    assert!((before - 2..=heymarket_sync::clock::now().timestamp()).contains(&iat), "{iat} at {before}");
}

#[tokio::test]
async fn each_endpoint_is_asked_as_documented() {
    let server = Server::start(|seen| {
        let body = match seen.line.as_str() {
            "GET /v1/inboxes" => {
                r#"[{"id":4,"name":"Sales","phones":["1"],"members":[7,"8",null]},{"id":"5","name":null}]"#
            }
            "GET /v1/team" => r#"{"id":9,"name":"Ours","members":[]}"#,
            "GET /v1/conversations/12" => r#"{"id":12}"#,
            "GET /v1/messages?phoneNumber=15550001&inboxID=4&timestamp=99" => "[]",
            "POST /v1/messages/all/count" => "\"200123\"",
            "POST /v1/conversations/count" => "17",
            _ => return answer(404, &[], r#"{"error":"not_found"}"#),
        };
        answer(200, &[], body)
    })
    .await;
    let (client, none) = (server.client(), CancellationToken::new());
    let at = Priority::Recheck;
    let inboxes = [
        Inbox { id: 4, name: "Sales".into(), team: None, members: vec![7, 8] },
        Inbox { id: 5, name: String::new(), team: None, members: Vec::new() },
    ];
    assert_eq!(client.inboxes(at, &none).await.unwrap(), inboxes);
    assert_eq!(client.team(at, &none).await.unwrap(), Team { id: 9, name: "Ours".into() });
    assert_eq!(client.conversation(12, at, &none).await.unwrap().unwrap().body, r#"{"id":12}"#);
    assert!(client.conversation(13, at, &none).await.unwrap().is_none());
    assert_eq!(client.history("15550001", 4, Some(99), at, &none).await.unwrap().body, "[]");
    assert_eq!(client.count(&PageRequest::smallest(Stream::Messages), at, &none).await.unwrap(), 200_123);
    assert_eq!(client.count(&PageRequest::smallest(Stream::Conversations), at, &none).await.unwrap(), 17);
    let error = client.count(&PageRequest::smallest(Stream::Contacts), at, &none).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::NotFound, 1));
    assert_eq!(client.requests(), server.seen().len() as u64);
}

#[tokio::test]
async fn a_refused_token_is_made_anew_once() {
    let server =
        Server::start(|_| answer(401, &[("x-request-id", "r-401")], r#"{"error":"invalid_token"}"#)).await;
    let error = page(&server.client()).await.unwrap_err();
    assert_eq!((error.kind(), error.status(), error.attempts()), (ErrorKind::Unauthorized, Some(401), 2));
    assert_eq!((error.request_id(), error.server_message()), (Some("r-401"), Some("invalid_token")));
    assert!(error.to_string().contains("r-401") && error.to_string().contains("api.secret_key"), "{error}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_skewed_clock_is_corrected_by_the_first_refusal() {
    for ahead in [TimeDelta::hours(7), TimeDelta::hours(-7)] {
        let server = Server::start(move |seen| {
            let now = heymarket_sync::clock::now() + ahead;
            let iat = seen.claims("the-secret-id||the-secret-key").unwrap()["iat"].as_i64().unwrap();
            let fits = (now.timestamp() - 300..=now.timestamp()).contains(&iat);
            answer(if fits { 200 } else { 401 }, &[("date", &http_date(now))], "[]")
        })
        .await;
        let client = server.client();
        assert_eq!(page(&client).await.unwrap().attempts, 2, "{ahead}");
        assert_eq!(page(&client).await.unwrap().attempts, 1, "{ahead}");
        let skew = client.skew().unwrap();
        assert!((skew - ahead).abs() < TimeDelta::seconds(10), "{ahead}: {skew}");
    }
}

#[tokio::test]
async fn a_rotated_secret_file_is_picked_up_by_the_first_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        SecretSource::File(path)
    };
    let server = Server::start(|seen| {
        let secret = if seen.number == 0 { "id-1||key-1" } else { "id-2||key-2" };
        answer(if seen.claims(secret).is_some() { 200 } else { 401 }, &[], "[]")
    })
    .await;
    let credentials = Credentials::Secret { id: file("id", "id-1\n"), key: file("key", "key-1\n") };
    let client = Client::new(&Api { credentials: Some(credentials), ..server.settings() }).unwrap();
    assert_eq!(page(&client).await.unwrap().attempts, 1);
    file("id", "id-2\n");
    file("key", "key-2\n");
    assert_eq!(page(&client).await.unwrap().body, "[]");
    assert!(server.seen().len() <= 3);
}

#[tokio::test]
async fn a_team_key_is_sent_plain_and_not_twice_when_refused() {
    let server = Server::start(|_| answer(401, &[], "")).await;
    let credentials = Credentials::TeamKey(SecretSource::Value(SecretString::from("the-team-key")));
    let client = Client::new(&Api { credentials: Some(credentials), ..server.settings() }).unwrap();
    let error = page(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Unauthorized, 1));
    assert_eq!(server.seen()[0].headers["authorization"], "Bearer the-team-key");
    assert!(!all_text(&error).contains("the-team-key"));
}

#[tokio::test]
async fn a_used_up_limit_is_tried_again_when_the_server_says() {
    let server = Server::start(|seen| match seen.number {
        0 => answer(429, &[("retry-after", "0")], ""),
        1 => answer(
            503,
            &[("retry-after", &http_date(heymarket_sync::clock::now() - TimeDelta::minutes(1)))],
            "",
        ),
        _ => answer(200, &[], "[]"),
    })
    .await;
    assert_eq!(page(&server.client()).await.unwrap().attempts, 3);
}

#[tokio::test]
async fn a_used_up_limit_is_tried_again_where_the_server_says_nothing() {
    let server = Server::start(|seen| match seen.number {
        0 => answer(429, &[], ""),
        _ => answer(200, &[], "[]"),
    })
    .await;
    let begun = std::time::Instant::now();
    assert_eq!(page(&server.client()).await.unwrap().attempts, 2);
    assert!(begun.elapsed() >= Duration::from_millis(250), "not at once");
}

#[tokio::test]
async fn a_retry_after_holds_back_every_caller() {
    let server = Server::start(|_| answer(429, &[("retry-after", "120")], "")).await;
    let client = server.client();
    let error = page(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::RateLimited, 1));
    let cancel = CancellationToken::new();
    let request = page_request();
    let mut second = Box::pin(client.page(&request, Priority::Tail, &cancel));
    assert!(futures::poll!(&mut second).is_pending());
    cancel.cancel();
    let error = second.await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 0));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn trying_ends_and_the_error_tells_how_often() {
    let server = Server::start(|seen| match seen.is_probe() {
        true => answer(200, &[], "[]"),
        false => answer(503, &[("retry-after", "0"), ("x-request-id", "r-9")], r#"{"message":"overloaded"}"#),
    })
    .await;
    let error = page(&server.client()).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Server, MAX_ATTEMPTS));
    assert!(!error.is_outage(), "the endpoint answers other requests");
    assert_eq!(
        error.to_string(),
        "POST /v1/messages/all: the API failed (status 503, server says \"overloaded\", request id r-9, 7 attempts)"
    );
    assert_eq!(server.seen().iter().filter(|seen| !seen.is_probe()).count(), MAX_ATTEMPTS as usize);
}

#[tokio::test]
async fn what_is_wrong_for_good_is_asked_once() {
    for (status, kind) in
        [(400, ErrorKind::BadRequest), (403, ErrorKind::Forbidden), (404, ErrorKind::NotFound)]
    {
        let server = Server::start(move |_| answer(status, &[], r#"{"error":"bad_data"}"#)).await;
        let error = page(&server.client()).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts(), error.status()), (kind, 1, Some(status)));
        assert_eq!((error.server_message(), server.seen().len()), (Some("bad_data"), 1));
    }
}

#[tokio::test]
async fn no_error_shows_a_secret_or_what_was_asked() {
    let server = Server::start(|seen| {
        let echo = json!({"error": format!("bad token {}", seen.token()), "text": "hi Ann"}).to_string();
        answer(if seen.line.contains("15550001") { 403 } else { 401 }, &[], echo)
    })
    .await;
    let (client, none) = (server.client(), CancellationToken::new());
    let refused = page(&client).await.unwrap_err();
    let forbidden = client.history("15550001", 4, None, Priority::Recheck, &none).await.unwrap_err();
    // The server does not speak TLS.
    let base_url = format!("https://{}", server.address).parse().unwrap();
    let secure = Client::new(&Api { base_url, ..server.settings() }).unwrap();
    let broken = secure.history("15550001", 4, None, Priority::Recheck, &none).await.unwrap_err();
    assert_eq!((broken.kind(), broken.attempts()), (ErrorKind::Tls, 1));
    for error in [refused, forbidden, broken] {
        let text = all_text(&error);
        let tokens = server.seen();
        let secrets = tokens.iter().map(Seen::token).chain([SECRET_ID, SECRET_KEY, "15550001", "hi Ann"]);
        for secret in secrets {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_stop_is_obeyed_while_the_server_is_silent() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let server = Server::start_async(move |_| {
        arrived.send(()).unwrap();
        Box::pin(std::future::pending())
    })
    .await;
    let (client, cancel) = (server.client(), CancellationToken::new());
    let (request, stop) = (page_request(), cancel.clone());
    let call = tokio::spawn(async move { client.page(&request, Priority::Tail, &stop).await });
    arrivals.recv().await.unwrap();
    cancel.cancel();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 1));
}

#[tokio::test]
async fn without_credentials_there_is_no_client() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let error = Client::new(&Api { credentials: None, ..settings(address) }).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Credentials);
    assert!(error.source().unwrap().to_string().contains("api.secret_id"));
}
