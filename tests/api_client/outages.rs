//! Outages: one state for all callers, few requests while it lasts, everybody on at its end.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use heymarket_sync::api::availability::{Availability, Outage, Scope};
use tokio::task::JoinSet;

use super::*;
use crate::support::process::reached;

/// How long anything may take here.
const LONG: Duration = Duration::from_secs(60);

const CALLERS: usize = 20;
const MESSAGES: Scope = Scope::Pages(Stream::Messages);

/// Waits until there is an outage with so many failed probes.
async fn outage(availability: &Availability, probes: u32) -> Outage {
    let found = || availability.report().outages.into_iter().find(|outage| outage.probes >= probes);
    reached("an outage", LONG, async || found().is_some()).await.unwrap();
    found().unwrap()
}

fn is_connected(availability: &Availability) -> bool {
    let report = availability.report();
    report.outages.is_empty() && !report.suspected
}

/// Calls of one client that wait for each other at nothing but its gates.
fn callers(client: &Client, count: usize) -> JoinSet<Result<Response, ApiError>> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        calls.spawn(async move { page(&client).await });
    }
    calls
}

async fn all_answered(calls: JoinSet<Result<Response, ApiError>>) {
    let ended = tokio::time::timeout(LONG, calls.join_all()).await.expect("all callers go on");
    for outcome in ended {
        assert_eq!(outcome.unwrap().body, "[]");
    }
}

/// A server that is away while the flag is down, and how it then answers.
async fn switched(
    away: impl Fn(&Seen) -> Answer<Body> + Clone + Send + Sync + 'static,
) -> (Server, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&up);
    let server = Server::start(move |seen| match flag.load(SeqCst) {
        true => answer(200, &[], "[]"),
        false => away(&seen),
    })
    .await;
    (server, up)
}

#[tokio::test]
async fn one_caller_probes_while_all_others_wait_and_go_on_together() {
    let (server, up) = switched(|_| answer(503, &[("x-request-id", "r-out")], "")).await;
    let client = server.client().patient();
    let availability = client.availability();
    let before = heymarket_sync::clock::now();
    let calls = callers(&client, CALLERS);
    let named = outage(&availability, 2).await;
    assert_eq!(named.scope, Scope::Api);
    assert!(named.since >= before && named.since <= heymarket_sync::clock::now());
    assert_eq!((named.error.kind(), named.error.request_id()), (ErrorKind::Server, Some("r-out")));
    let (probes, sent): (Vec<_>, Vec<_>) = server.seen().into_iter().partition(Seen::is_probe);
    assert!(sent.len() <= 2 * CALLERS, "{} requests", sent.len());
    // Two to find out, two that failed since, and one perhaps under way.
    assert!(probes.len() <= 5, "{} probes", probes.len());
    // A late comer sends nothing.
    let late = callers(&client, 1);
    outage(&availability, 3).await;
    assert_eq!(server.seen().iter().filter(|seen| !seen.is_probe()).count(), sent.len());
    up.store(true, SeqCst);
    all_answered(calls).await;
    all_answered(late).await;
    assert!(is_connected(&availability));
    let ended = availability.report().last_ended.unwrap();
    assert_eq!((ended.scope, ended.since), (Scope::Api, named.since));
    assert!(ended.lasted() > Duration::ZERO);
}

#[tokio::test]
async fn an_endpoint_that_refuses_holds_up_nobody_else() {
    let (server, up) = switched(|seen| {
        let refuses = seen.line == "POST /v1/messages/all";
        answer(if refuses { 403 } else { 200 }, &[("x-request-id", "r-403")], "[]")
    })
    .await;
    let client = server.client().patient();
    let availability = client.availability();
    let calls = callers(&client, CALLERS);
    let named = outage(&availability, 1).await;
    assert_eq!((named.scope, named.error.kind()), (MESSAGES, ErrorKind::Forbidden));
    let contacts = PageRequest { stream: Stream::Contacts, ..page_request() };
    let cancel = CancellationToken::new();
    assert_eq!(client.page(&contacts, Priority::Tail, &cancel).await.unwrap().attempts, 1);
    assert!(client.inboxes(Priority::Tail, &cancel).await.unwrap().is_empty());
    assert_eq!(availability.report().outages.len(), 1);
    up.store(true, SeqCst);
    all_answered(calls).await;
}

#[tokio::test]
async fn a_request_that_fails_alone_closes_nothing() {
    let cursor: DateTime<Utc> = "2024-05-06T07:08:09Z".parse().unwrap();
    let server = Server::start(move |seen| match seen.body["created_at"] == "2024-05-06T07:08:09Z" {
        true => answer(500, &[("retry-after", "0")], ""),
        false => answer(200, &[], "[]"),
    })
    .await;
    let client = server.client().patient();
    let poisonous = PageRequest { cursor: Some(cursor), ..page_request() };
    let cancel = CancellationToken::new();
    let error = client.page(&poisonous, Priority::Tail, &cancel).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Server, MAX_ATTEMPTS));
    assert!(!error.is_outage());
    let report = client.availability().report();
    assert!(report.outages.is_empty() && report.last_ended.is_none(), "{report:?}");
    assert_eq!(page(&client).await.unwrap().attempts, 1);
}

/// Without an id the endpoint refuses before it gets to where it fails.
#[tokio::test]
async fn an_endpoint_that_wants_an_id_is_probed_with_one() {
    let (server, up) = switched(|seen| match (seen.line.as_str(), seen.body["id"].as_i64()) {
        ("POST /v1/messages/all", None) => answer(400, &[], ""),
        ("POST /v1/messages/all", Some(_)) => answer(500, &[], ""),
        _ => answer(200, &[], "[]"),
    })
    .await;
    let client = server.client().patient();
    let with_id = PageRequest { id: Some(7), ..page_request() };
    client.probe_with(PageRequest { limit: 1, ..with_id.clone() });
    let (asking, cancel) = (client.clone(), CancellationToken::new());
    let call = tokio::spawn(async move { asking.page(&with_id, Priority::Tail, &cancel).await });
    assert_eq!(outage(&client.availability(), 1).await.scope, MESSAGES);
    up.store(true, SeqCst);
    assert_eq!(call.await.unwrap().unwrap().body, "[]");
}

#[tokio::test]
async fn a_prober_that_is_cancelled_hands_over() {
    let (server, up) = switched(|_| answer(502, &[], "")).await;
    let client = server.client().patient();
    let availability = client.availability();
    let cancel = CancellationToken::new();
    let (request, stop, prober) = (page_request(), cancel.clone(), client.clone());
    let first = tokio::spawn(async move { prober.page(&request, Priority::Tail, &stop).await });
    outage(&availability, 1).await;
    let second = callers(&client, 1);
    cancel.cancel();
    assert_eq!(first.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    let probes = availability.report().outages[0].probes;
    outage(&availability, probes + 1).await;
    up.store(true, SeqCst);
    all_answered(second).await;
}

#[tokio::test]
async fn whatever_keeps_answers_away_is_an_outage() {
    let other = Server::start(|_| answer(200, &[], "[]")).await;
    let target = format!("http://localhost:{}/login", other.address.port());
    for kind in [ErrorKind::NotJson, ErrorKind::Redirect, ErrorKind::Body, ErrorKind::Timeout] {
        let up = Arc::new(AtomicBool::new(false));
        let (flag, target) = (Arc::clone(&up), target.clone());
        let server = Server::start_async(move |_| {
            let answer = match (flag.load(SeqCst), kind) {
                (true, _) => answer(200, &[], "[]"),
                (false, ErrorKind::NotJson) => answer(200, &[], "<html>maintenance</html>"),
                (false, ErrorKind::Body) => answer(200, &[], "[1, 2,"),
                (false, ErrorKind::Redirect) => answer(302, &[("location", &target)], ""),
                (false, _) => return Box::pin(std::future::pending()),
            };
            Box::pin(std::future::ready(answer))
        })
        .await;
        let timeout = Duration::from_millis(300);
        let client = Client::new(&Api { timeout, ..server.settings() }).unwrap().patient();
        let calls = callers(&client, 3);
        let named = outage(&client.availability(), 1).await;
        assert_eq!((named.scope, named.error.kind()), (Scope::Api, kind));
        up.store(true, SeqCst);
        all_answered(calls).await;
    }
    assert_eq!(other.seen().len(), 0, "no credentials leave for another host");
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::new(&settings(address)).unwrap().patient();
    let calls = callers(&client, CALLERS);
    let named = outage(&client.availability(), 1).await;
    assert_eq!((named.scope, named.error.kind()), (Scope::Api, ErrorKind::Connect));
    let listener = TcpListener::bind(address).await.unwrap();
    let router = Router::new().fallback(async || answer(200, &[], "[]"));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    all_answered(calls).await;
}

#[tokio::test]
async fn a_server_that_says_how_long_it_is_away_is_believed() {
    let server = Server::start(|_| answer(503, &[("retry-after", "120")], "")).await;
    let client = server.client().patient();
    let availability = client.availability();
    let mut calls = callers(&client, 1);
    assert_eq!(outage(&availability, 0).await.scope, Scope::Api);
    calls.abort_all();
    while calls.join_next().await.is_some() {}
    assert_eq!(server.seen().len(), 1, "no probe before its time");
}

#[tokio::test]
async fn a_used_up_limit_is_no_outage_and_waited_for() {
    let refusals = 2 * MAX_ATTEMPTS as usize;
    let server = Server::start(move |seen| match seen.number < refusals {
        true => answer(429, &[("retry-after", "0")], ""),
        false => answer(200, &[], "[]"),
    })
    .await;
    let client = server.client().patient();
    assert_eq!(page(&client).await.unwrap().attempts as usize, refusals + 1);
    let report = client.availability().report();
    assert!(report.last_ended.is_none() && report.limited_since.is_none(), "{report:?}");
}

#[tokio::test]
async fn a_storm_of_refused_tokens_ends_when_the_secrets_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        SecretSource::File(path)
    };
    let server = Server::start(|seen| match seen.claims("id-2||key-2").is_some() {
        true => answer(200, &[], "[]"),
        false => answer(401, &[("x-request-id", "r-401")], ""),
    })
    .await;
    let credentials = Credentials::Secret { id: file("id", "id-1"), key: file("key", "key-1") };
    let client = Client::new(&Api { credentials: Some(credentials), ..server.settings() }).unwrap().patient();
    let availability = client.availability();
    let calls = callers(&client, CALLERS);
    let named = outage(&availability, 1).await;
    assert_eq!((named.scope, named.error.kind()), (Scope::Api, ErrorKind::Unauthorized));
    // Each caller once with the old token and once with a fresh one, and the probes.
    assert!(server.seen().len() <= 2 * CALLERS + 4, "{}", server.seen().len());
    // The files change one after the other, and not at once.
    file("key", "");
    let unreadable = || {
        let outages = availability.report().outages;
        outages.first().is_some_and(|outage| outage.error.kind() == ErrorKind::Credentials)
    };
    reached("the half-written file is said", LONG, async || unreadable()).await.unwrap();
    file("id", "id-2");
    let probes = availability.report().outages[0].probes;
    outage(&availability, probes + 1).await;
    file("key", "key-2");
    all_answered(calls).await;
    assert!(is_connected(&availability));
}

#[tokio::test]
async fn a_refusal_that_others_do_not_meet_costs_no_page() {
    let refused = |seen: &Seen| seen.number < 2 && !seen.is_probe();
    let server = Server::start(move |seen| answer(if refused(&seen) { 401 } else { 200 }, &[], "[]")).await;
    let client = server.client().patient();
    assert_eq!(page(&client).await.unwrap().attempts, 3);
    assert!(client.availability().report().last_ended.is_none());
}

#[tokio::test]
async fn latency_is_the_exchange_alone() {
    let server = Server::start(|_| answer(200, &[], "[]")).await;
    let client = Client::new(&Api { requests_per_minute: 60, ..server.settings() }).unwrap();
    assert_eq!(client.latency(), Duration::ZERO);
    let begun = std::time::Instant::now();
    page(&client).await.unwrap();
    // The limiter begins empty: the first of 60 requests a minute waits for a second.
    let waited = begun.elapsed().saturating_sub(client.latency());
    assert!(client.latency() > Duration::ZERO && waited >= Duration::from_secs(1), "{waited:?}");
}
