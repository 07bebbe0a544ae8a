//! Faults, latency, outages and compression.

use std::time::Duration;

use heymarket_sync::sandbox::{Endpoint, Fault, Sandbox, SandboxOptions};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

use crate::{CONTACTS, Client, MESSAGES, options};

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
async fn bodies_can_be_of_any_kind_and_length() {
    let client = Client::new(options()).await;
    let state = client.state();
    let ask = async || client.try_post(MESSAGES, &json!({"limit": 20})).await.unwrap();
    let right = ask().await.json::<Value>().await.unwrap();
    for (fault, body) in [(Fault::Object, json!({})), (Fault::Null, Value::Null)] {
        state.push_fault(fault);
        assert_eq!(ask().await.json::<Value>().await.unwrap(), body);
    }
    state.push_fault(Fault::Oversized(1_000_000));
    let padded = ask().await.bytes().await.unwrap();
    assert_eq!(padded.len(), 1_000_000);
    assert_eq!(serde_json::from_slice::<Value>(&padded).unwrap(), right);
    state.push_fault(Fault::Endless);
    let mut endless = ask().await;
    let mut read = 0;
    while read < 5_000_000 {
        read += endless.chunk().await.unwrap().expect("it never ends").len();
    }
    state.push_fault(Fault::Redirect("127.0.0.1:1".parse().unwrap()));
    let plain = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
    let away = plain.unwrap().post(client.url(MESSAGES)).bearer_auth(&client.bearer).send().await.unwrap();
    assert_eq!(away.status(), StatusCode::FOUND);
    assert_eq!(away.headers()[header::LOCATION], "http://127.0.0.1:1/v1/messages/all");
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
