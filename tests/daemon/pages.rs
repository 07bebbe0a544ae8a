//! The HTTP pages of a daemon, and that nothing private is told anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use heymarket_sync::sandbox::SandboxState;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{EQUAL, Rig, VERB, assert_hidden, ready};

/// How long a client may dawdle: 20 s, and the time of a busy machine.
const HUNG_UP: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn every_page_tells_its_part() {
    let rig = Rig::new(500).await;
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    rig.equal().await;

    let page = daemon.get("/healthz").await;
    assert_eq!((page.status, page.body.as_str()), (200, "alive\n"));
    ready(&daemon, &["ready, leading\n"], VERB).await;
    assert_eq!(daemon.get("/nowhere").await.status, 404);

    let page = daemon.get("/status").await;
    assert_eq!((page.status, page.content_type.as_str()), (200, "application/json"));
    let status: Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!(status["api"]["state"], "connected");
    let holder = format!("(pid {}, run)", daemon.id());
    assert!(status["leader"]["holder"].as_str().unwrap().ends_with(&holder), "{status}");
    let streams: BTreeMap<_, _> = status["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| (stream["stream"].as_str().unwrap(), stream["estimated_rows"].as_i64().unwrap()))
        .collect();
    assert_eq!(streams, BTreeMap::from([("messages", 500), ("conversations", 50), ("contacts", 37)]));
    assert_private(&page.body, rig.source());
    let messages =
        status["streams"].as_array().unwrap().iter().find(|of| of["stream"] == "messages").unwrap();
    assert_eq!(messages["last_error"], Value::Null);
    assert!(messages["lag_seconds"].as_f64().unwrap() >= 119.0, "{messages}");
    for line in messages["lines"].as_array().unwrap() {
        assert_eq!((&line["covered_to"], &line["gaps"]), (&line["held"][0]["to"], &0.into()), "{line}");
    }

    let page = daemon.get("/metrics").await;
    assert_eq!(page.status, 200);
    assert!(page.content_type.starts_with("text/plain"), "{}", page.content_type);
    assert_private(&page.body, rig.source());
    let samples = samples(&page.body);
    for (sample, least) in [
        ("heymarket_sync_rows_read_total{stream=\"messages\"}", 500.0),
        ("heymarket_sync_rows_written_total{stream=\"messages\"}", 500.0),
        ("heymarket_sync_rows_written_total{stream=\"contacts\"}", 37.0),
        ("heymarket_sync_pages_total{stream=\"conversations\"}", 1.0),
        ("heymarket_sync_rejects_open{stream=\"messages\"}", 0.0),
        ("heymarket_sync_contradictions_total{stream=\"messages\"}", 0.0),
        // By proof, which ends two minutes before now, whatever was committed since.
        ("heymarket_sync_lag_seconds{stream=\"messages\"}", 119.0),
        ("heymarket_sync_lag_seconds{stream=\"contacts\"}", 119.0),
        ("heymarket_sync_covered_to_timestamp_seconds{stream=\"messages\",line=\"date\"}", 1.6e9),
        ("heymarket_sync_complete{stream=\"messages\",line=\"date\"}", 1.0),
        ("heymarket_sync_last_commit_timestamp_seconds{stream=\"messages\"}", 1.6e9),
        ("heymarket_sync_api_up", 1.0),
        ("heymarket_sync_database_up", 1.0),
        ("heymarket_sync_leader", 1.0),
    ] {
        let value = samples.get(sample).copied();
        assert!(value.is_some_and(|value| value >= least), "{sample}: {value:?}");
    }
    assert_eq!(samples.get("heymarket_sync_gaps{stream=\"messages\",line=\"date\"}"), Some(&0.0));
    rig.stop(daemon).await;
}

/// Clients that send nothing, half a head, or nothing more after an answer.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dawdle_are_hung_up_on_and_keep_nobody_out() {
    let rig = Rig::new(100).await;
    let daemon = rig.start(&["run"]);
    let address = daemon.address().await;
    let begun = Instant::now();
    let mut ends = Vec::new();
    for sent in ["", "GET /healthz HTTP/1.1\r\nHost: a\r\n", "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        ends.push(tokio::spawn(async move {
            let mut answer = Vec::new();
            // It ends by a reset where something was sent that was not read.
            let _ = tokio::time::timeout(HUNG_UP, client.read_to_end(&mut answer)).await.expect("an end");
            answer
        }));
    }
    // One that goes on with its head, a byte at a time.
    let mut slow = TcpStream::connect(address).await.unwrap();
    let dribbling = tokio::spawn(async move {
        let mut drops = tokio::time::interval(Duration::from_millis(500));
        slow.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
        while slow.write_all(b"x").await.is_ok() {
            drops.tick().await;
        }
    });
    let answers: Vec<_> = futures::future::join_all(ends).await.into_iter().map(Result::unwrap).collect();
    assert!(String::from_utf8_lossy(&answers[2]).starts_with("HTTP/1.1 200"), "{answers:?}");
    tokio::time::timeout(HUNG_UP, dribbling).await.expect("an end").unwrap();
    eprintln!("hung up on within {:.1} s", begun.elapsed().as_secs_f64());

    let descriptors = format!("/proc/{}/fd", daemon.id());
    let open = || std::fs::read_dir(&descriptors).unwrap().count();
    let before = open();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let page = tokio::time::timeout(4 * HUNG_UP, super::support::process::get_patiently(address, "/healthz"));
    assert_eq!(page.await.expect("an answer").status, 200);
    assert!(open() < before + 100, "{before} descriptors, then {}", open());
    drop(idle);
    rig.stop(daemon).await;
}

/// Reads Prometheus text: every sample by name and labels. Names are ours, and each is declared before.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut declared = BTreeSet::new();
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(matches!(kind, "TYPE" | "HELP"), "{line}");
            declared.insert(name.to_owned());
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        assert!(name.starts_with("heymarket_sync_"), "{line}");
        let parts = ["_sum", "_count", "_bucket"];
        let family = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(declared.contains(name) || declared.contains(family), "not declared: {line}");
        assert!(sample == name || sample.ends_with('}'), "{line}");
        let before = samples.insert(sample.to_owned(), value.parse().expect("a number"));
        assert!(before.is_none(), "twice: {line}");
    }
    samples
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_is_told_even_in_the_most_detailed_log() {
    let rig = Rig::new(200).await.set("RUST_LOG", "trace");
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    rig.equal().await;
    let mut told = String::new();
    for path in ["/status", "/metrics", "/readyz", "/healthz"] {
        told += &daemon.get(path).await.body;
    }
    daemon.signal(rustix::process::Signal::TERM);
    let ended = daemon.ended(EQUAL).await;
    assert!(ended.stderr.contains("\"level\":\"TRACE\""), "the log is not detailed");
    told += &ended.output();
    for verb in ["status", "check", "config", "sync"] {
        told += &rig.verb(&[verb]).await.output();
    }
    assert_hidden(&told);
    assert_private(&told, rig.source());
}

/// No text, name or phone number of the team is in `told`.
pub fn assert_private(told: &str, source: &SandboxState) {
    let messages = source.messages();
    let texts = messages.values().flat_map(|message| [message.text.to_string(), message.target.to_string()]);
    let contacts = source.contacts();
    let people = contacts.values().flat_map(|contact| [contact.phone.to_string(), contact.email.to_string()]);
    // Short ones, such as "ok", are words of any log.
    let private: BTreeSet<_> = texts.chain(people).filter(|text| text.len() >= 8).collect();
    assert!(private.len() > 100, "there is something to find");
    for private in private {
        let line = told.lines().find(|line| line.contains(&private));
        assert!(line.is_none(), "{private:?} is told: {}", line.unwrap_or_default());
    }
}
