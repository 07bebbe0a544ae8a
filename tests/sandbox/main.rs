//! The sandbox API through its HTTP door: what the vendor's pages promise must hold here, or tests against it
//! prove nothing.

mod admission;
mod faults;
mod paging;
mod readings;
mod team;
mod traffic;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use heymarket_sync::sandbox::{Endpoint, RateLimit, Sandbox, SandboxOptions, SandboxState, TeamOptions};
use reqwest::{Response, StatusCode};
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
        let bearer = token(&secret.id, &secret.key, heymarket_sync::clock::now());
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
