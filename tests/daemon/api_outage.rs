//! Outages of the API: the daemon lives on, says so once, asks seldom, and catches up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use heymarket_sync::sandbox::{Fault, Sandbox, SandboxCredentials};
use serde_json::Value;

use super::support::front::front;
use super::support::tls::{CERTIFICATE, tls_before};
use super::{EQUAL, Process, Rig, SECRET_ID, SECRET_KEY, assert_hidden, reached, ready, traffic};

/// How soon an outage is named, and its end noticed; probes are 15 s apart at most.
const NOTICED: Duration = Duration::from_secs(30);
/// How soon a verb that catches up once ends when the API cannot be reached: 15 s of patience, the start of the
/// program, and a machine that is busy.
const GIVES_UP: Duration = Duration::from_secs(30);

/// The same where a name server may let us wait.
const NAMELESS: Duration = Duration::from_secs(60);

const BEGUN: &str = "the API cannot be read; probing until it answers";
const ENDED: &str = "the API answers again";

async fn api(daemon: &Process) -> Value {
    let status: Value = serde_json::from_str(&daemon.get("/status").await.body).unwrap();
    status["api"].clone()
}

/// Waits until so many probes of the outage have failed, and returns what `/status` tells of it.
async fn outage(daemon: &Process, probes: u64) -> Value {
    let failed = async || api(daemon).await["outages"][0]["probes"].as_u64() >= Some(probes);
    if let Err(error) = reached("an outage with failed probes", NOTICED, failed).await {
        panic!("{error}: {}\n{}", daemon.get("/status").await.body, daemon.log());
    }
    api(daemon).await["outages"][0].clone()
}

/// Waits until `/status` tells of no outage.
async fn connected(daemon: &Process) {
    let connected = async || api(daemon).await["state"] == "connected";
    reached("connected", NOTICED, connected).await.unwrap();
}

/// That the log tells of one outage of `of`, and of its end.
fn assert_told_once(daemon: &Process, of: &str) {
    for message in [BEGUN, ENDED] {
        let told = daemon.logged(message);
        assert_eq!(told.len(), 1, "{message}\n{}", daemon.log());
        assert_eq!(told[0]["of"], of);
    }
    assert!(daemon.logged(ENDED)[0]["lasted"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_may_be_away() {
    let mut rig = Rig::new(500).await;
    let daemon = rig.start(&["run"]);
    rig.equal().await;
    let sandbox = rig.sandbox.take().unwrap();
    let address = sandbox.address();
    sandbox.stop().await;
    traffic(rig.source());
    let checked = rig.start(&["check"]);
    let told = ["ready, leading; the API cannot be read since", "no connection"];
    let told = ready(&daemon, &told, NOTICED);
    let (checked, ()) = tokio::join!(checked.ended(GIVES_UP), told);
    assert_eq!(checked.code(), Some(1), "{}", checked.output());
    let told = "FAIL  credentials: GET /v1/inboxes: no connection; check api.base_url";
    assert!(checked.stdout.contains(told), "{}", checked.stdout);
    assert!(checked.stderr.ends_with("error: 1 of 4 checks failed\n"), "{}", checked.stderr);
    assert_eq!(daemon.get("/healthz").await.status, 200);
    assert_hidden(&daemon.get("/readyz").await.body);
    let told = outage(&daemon, 2).await;
    assert_eq!(told["of"], "the API");
    let metrics = daemon.get("/metrics").await.body;
    assert!(metrics.contains("\nheymarket_sync_api_up 0\n"), "{metrics}");
    assert!(metrics.contains("\nheymarket_sync_api_outages_total{scope=\"the API\"} 1\n"), "{metrics}");
    rig.sandbox = Some(Sandbox::resume(rig.source().clone(), address).await.unwrap());
    reached("the end of the outage", NOTICED, async || !daemon.logged(ENDED).is_empty()).await.unwrap();
    rig.equal().await;
    ready(&daemon, &["ready, leading\n"], NOTICED).await;
    assert!(daemon.get("/metrics").await.body.contains("\nheymarket_sync_api_up 1\n"));
    assert_eq!(api(&daemon).await["last_outage"]["of"], "the API");
    assert_told_once(&daemon, "the API");
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_requests_are_sent_while_it_fails() {
    let rig = Rig::new(500).await;
    let daemon = rig.start(&["run"]);
    rig.equal().await;
    rig.source().set_lasting_fault(Some(Fault::Status(503)));
    traffic(rig.source());
    let told = outage(&daemon, 1).await;
    assert!(told["error"].as_str().unwrap().contains("status 503"), "{told}");
    rig.source().reset_observations();
    let before = told["probes"].as_u64().unwrap();
    let probes = outage(&daemon, 3).await["probes"].as_u64().unwrap() - before;
    let sent = rig.source().counters().all_requests();
    // One may have begun before the count, and one may be under way.
    assert!(sent.abs_diff(probes) <= 1, "{sent} requests, {probes} probes");
    rig.source().set_lasting_fault(None);
    reached("the end of the outage", NOTICED, async || !daemon.logged(ENDED).is_empty()).await.unwrap();
    rig.equal().await;
    assert_told_once(&daemon, "the API");
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_endpoint_may_refuse_while_the_others_work() {
    let rig = Rig::new(500).await;
    let refuses = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&refuses);
    let door = front(rig.sandbox.as_ref().unwrap().base_url(), move |path: &str, _: &Value| {
        (path == "/v1/conversations" && flag.load(SeqCst)).then_some(403)
    });
    let rig = rig.set("HEYMARKET_API_BASE_URL", &format!("http://{}", door.await));
    let daemon = rig.start(&["run"]);
    let told = outage(&daemon, 2).await;
    assert_eq!((&told["of"], &told["request_id"]), (&"POST /v1/conversations".into(), &"r-front".into()));
    // Rows of the other streams land meanwhile.
    traffic(rig.source());
    let newest = rig.source().messages().into_keys().next_back().unwrap();
    let landed = async || {
        let held =
            sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM heymarket.messages WHERE id = $1)");
        held.bind(newest).fetch_one(&rig.pool).await.unwrap()
    };
    reached("the newest message", EQUAL, landed).await.unwrap();
    let metrics = daemon.get("/metrics").await.body;
    assert!(metrics.contains("\nheymarket_sync_api_endpoint_up{stream=\"conversations\"} 0\n"), "{metrics}");
    assert!(metrics.contains("\nheymarket_sync_api_endpoint_up{stream=\"messages\"} 1\n"), "{metrics}");
    refuses.store(false, SeqCst);
    connected(&daemon).await;
    rig.equal().await;
    assert_told_once(&daemon, "POST /v1/conversations");
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_always_fails_holds_up_nobody() {
    let rig = Rig::new(500).await;
    // The second page of 20 by date fails, and whoever asks with its cursor.
    let refused = Arc::new(AtomicU64::new(0));
    let poison = Arc::new(std::sync::Mutex::new(None::<Value>));
    let count = Arc::clone(&refused);
    let door = front(rig.sandbox.as_ref().unwrap().base_url(), move |path: &str, asked: &Value| {
        let by_date = path == "/v1/messages/all" && asked["limit"] == 20 && asked.get("order").is_none();
        let cursor = asked.get("created_at").filter(|_| by_date)?;
        let mut poison = poison.lock().unwrap();
        let fails = poison.get_or_insert_with(|| cursor.clone()) == cursor;
        fails.then(|| {
            count.fetch_add(1, SeqCst);
            500
        })
    });
    let rig = rig
        .set("HEYMARKET_API_BASE_URL", &format!("http://{}", door.await))
        .set("HEYMARKET_SYNC__API__PAGE_SIZE", "20");
    let daemon = rig.start(&["run"]);
    daemon.logs("a request fails, others do not", EQUAL).await;
    assert!(refused.load(SeqCst) > 0);
    // Another cursor gets around it.
    rig.equal().await;
    traffic(rig.source());
    rig.equal().await;
    assert_eq!(daemon.logged(BEGUN).len(), 0, "{}", daemon.log());
    assert_eq!(api(&daemon).await["state"], "connected");
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_come_are_an_outage() {
    let rig = Rig::new(300).await.set("HEYMARKET_SYNC__API__TIMEOUT", "1s");
    let daemon = rig.start(&["run"]);
    rig.equal().await;
    rig.source().set_lasting_fault(Some(Fault::Hang));
    traffic(rig.source());
    ready(&daemon, &["ready, leading; ", "no complete answer within api.timeout"], NOTICED).await;
    rig.source().set_lasting_fault(None);
    rig.equal().await;
    connected(&daemon).await;
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_may_be_rotated_in_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let (id, key) = (folder.path().join("id"), folder.path().join("key"));
    std::fs::write(&id, SECRET_ID).unwrap();
    std::fs::write(&key, SECRET_KEY).unwrap();
    let rig = Rig::new(500)
        .await
        .set("HEYMARKET_API_SECRET_ID", "")
        .set("HEYMARKET_API_SECRET_KEY", "")
        .set("HEYMARKET_API_SECRET_ID_FILE", id.to_str().unwrap())
        .set("HEYMARKET_API_SECRET_KEY_FILE", key.to_str().unwrap());
    let daemon = rig.start(&["run"]);
    rig.equal().await;

    // The old secret is void before the new one is written, and that takes its time.
    rig.source().set_credentials(SandboxCredentials::secret("id-new", "key-new"));
    traffic(rig.source());
    ready(&daemon, &["ready, leading; the API cannot be read", "refused the credentials"], NOTICED).await;
    std::fs::write(&key, "").unwrap();
    std::fs::write(&id, "id-new").unwrap();
    ready(&daemon, &["credentials cannot be used", "is empty"], NOTICED).await;
    std::fs::write(&key, "key-new").unwrap();
    connected(&daemon).await;
    rig.equal().await;
    assert_told_once(&daemon, "the API");

    // Where both secrets live for a while, nothing fails at all.
    let mut both = SandboxCredentials::secret("id-next", "key-next");
    both.secrets.extend(rig.source().credentials().secrets);
    rig.source().set_credentials(both.clone());
    let refused = rig.source().counters().unauthorized;
    for (file, text) in [(&id, "id-next"), (&key, "key-next")] {
        std::fs::write(file, text).unwrap();
    }
    // Looked at each second.
    both.secrets.truncate(1);
    let asked = rig.pages();
    reached("further pages", EQUAL, async || rig.pages() > asked + 10).await.unwrap();
    rig.source().set_credentials(both);
    traffic(rig.source());
    rig.equal().await;
    // At most the requests between the two writes.
    assert!(rig.source().counters().unauthorized - refused <= 20);
    assert_eq!(daemon.logged(BEGUN).len(), 1);
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_is_told_by_check_and_sync_in_time() {
    let rig = Rig::new(100).await;
    let sandbox = rig.sandbox.as_ref().unwrap().address();
    let tls = tls_before(sandbox).await;
    let unused = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let secure = format!("https://localhost:{}", tls.port());
    let start = |verb: &str, base_url: &str, certificate: &str| {
        let mut environment = rig.environment.clone();
        environment.retain(|(name, _)| name != "HEYMARKET_API_BASE_URL");
        environment.push(("HEYMARKET_API_BASE_URL".to_owned(), base_url.to_owned()));
        if !certificate.is_empty() {
            environment.push(("SSL_CERT_FILE".to_owned(), certificate.to_owned()));
        }
        Process::start(&[verb], &environment)
    };
    let trusted = start("check", &secure, CERTIFICATE).ended(GIVES_UP).await;
    assert!(trusted.stdout.contains("ok    credentials: accepted"), "{}", trusted.output());
    let cases = [
        (secure, "the TLS connection failed"),
        (format!("https://{sandbox}"), "the TLS connection failed"),
        (format!("http://{unused}"), "no connection; check api.base_url, name resolution and the network"),
        (
            "http://api.invalid".to_owned(),
            "no connection; check api.base_url, name resolution and the network",
        ),
    ];
    let asked: Vec<_> = cases.iter().map(|(base_url, _)| start("check", base_url, "")).collect();
    let synced = start("sync", &cases[2].0, "");
    for (process, (base_url, told)) in asked.into_iter().zip(&cases) {
        let ended = process.ended(if base_url.ends_with(".invalid") { NAMELESS } else { GIVES_UP }).await;
        assert_eq!(ended.code(), Some(1), "{base_url}: {}", ended.output());
        assert!(ended.stdout.contains(told), "{base_url}: {}", ended.output());
        assert_hidden(&ended.output());
    }
    let ended = synced.ended(GIVES_UP).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.output());
    assert!(ended.stderr.contains("no connection"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_starts_and_stops_while_the_api_is_away() {
    let mut rig = Rig::new(300).await;
    let sandbox = rig.sandbox.take().unwrap();
    let address = sandbox.address();
    sandbox.stop().await;
    let daemon = rig.start(&["run"]);
    outage(&daemon, 1).await;
    rig.stop(daemon).await;
    let daemon = rig.start(&["run"]);
    outage(&daemon, 1).await;
    rig.sandbox = Some(Sandbox::resume(rig.source().clone(), address).await.unwrap());
    rig.equal().await;
    assert_told_once(&daemon, "the API");
    rig.stop(daemon).await;
}
