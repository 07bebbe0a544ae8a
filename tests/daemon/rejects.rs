//! `rejects`: what was set aside is listed and shown as it came, and read again on request.

use serde_json::Value;

use super::{Rig, STOP, VERB};

/// Sets rows aside as an earlier version of the program might have, and returns their numbers.
async fn set_aside(rig: &Rig, rejects: &[(&str, Option<&str>, bool, &[u8])]) -> Vec<i64> {
    let mut ids = Vec::new();
    for (stream, source_id, partial, payload) in rejects {
        let id = sqlx::query_scalar(
            "INSERT INTO heymarket_sync.rejects (stream, source_id, partial, reason, payload)
             VALUES ($1, $2, $3, 'an earlier reader said no', $4) RETURNING id",
        )
        .bind(stream)
        .bind(source_id)
        .bind(partial)
        .bind(payload)
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        ids.push(id);
    }
    ids
}

/// Number, resolved or not, partial, and reason of each reject.
async fn held(rig: &Rig) -> Vec<(i64, bool, bool, String)> {
    sqlx::query_as(
        "SELECT id, resolved_at IS NOT NULL, partial, reason FROM heymarket_sync.rejects ORDER BY id",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap()
}

async fn texts(rig: &Rig, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(&rig.pool).await.unwrap()
}

const CONTACT: &[u8] = br#"{"id": 901, "updated":"2024-05-01T00:00:00Z","first":"Ada","rev":2}"#;
const TALK: &[u8] = br#"{"id":902,"updated":"2024-05-01T00:00:00Z","members":[{"id":1,"name":"m"}]}"#;
const UNREADABLE: &[u8] = b"{\"id\":\"x\x1b[2J\xff\"}";
const PARTIAL: &[u8] = br#"{"id":903,"updated":"2024-05-01T00:00:00Z","first":["a"]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn rejects_are_listed_shown_and_tried_again() {
    let rig = Rig::new(20).await;
    let ended = rig.verb(&["rejects"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "no rejects\n"), "{}", ended.stderr);
    assert_eq!(rig.verb(&["rejects", "list", "--json"]).await.stdout, "[]\n");
    let ended = rig.verb(&["rejects", "retry"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "0 tried, 0 resolved, 0 still open\n"));

    let long: String = (0..3_000_u32).map(|n| format!("{:04x}", n.wrapping_mul(40_503) % 65_536)).collect();
    let refused = format!(r#"{{"id":904,"updated":"2024-05-01T00:00:00Z","phone":"{long}"}}"#);
    let ids = set_aside(
        &rig,
        &[
            ("contacts", Some("901"), false, CONTACT),
            ("conversations", Some("902"), false, TALK),
            ("messages", None, false, UNREADABLE),
            ("contacts", Some("903"), false, PARTIAL),
            ("contacts", Some("904"), false, refused.as_bytes()),
        ],
    )
    .await;

    let ended = rig.verb(&["rejects"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{}", ended.stdout);
    assert!(lines[1].contains("901") && lines[1].contains("an earlier reader said no"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("Ada"), "a list tells no content");
    let listed = rig.verb(&["rejects", "list", "--stream", "conversations", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["source_id"]), (&ids[1].into(), &"902".into()));
    assert_eq!(listed[0]["bytes"], TALK.len());

    let ended = rig.verb(&["rejects", "show", &ids[0].to_string()]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let (facts, payload) = ended.stdout.split_once("\n\n").unwrap();
    for fact in ["stream:     contacts", "source id:  901", "whole: set aside", "state:      open"] {
        assert!(facts.contains(fact), "{fact:?} is not in {facts}");
    }
    assert_eq!(payload.trim_end_matches('\n').as_bytes(), CONTACT);
    let ended = rig.verb(&["rejects", "show", "4711"]).await;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.stderr.contains("there is no reject 4711"), "{}", ended.stderr);
    assert_eq!(rig.verb(&["rejects", "show"]).await.code(), Some(2));

    // One whose bytes were not kept cannot be tried.
    let not_kept = "INSERT INTO heymarket_sync.rejects (stream, source_id, partial, reason, payload, cut_bytes, cut_sha256)
                    VALUES ('contacts', '905', true, 'first: an array', '', 4096, '\\xab') RETURNING id::text";
    let not_kept = texts(&rig, not_kept).await.remove(0);
    let ended = rig.verb(&["rejects", "retry", &not_kept]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(1), "0 tried, 0 resolved, 0 still open\n"));
    let said = format!("not tried: {not_kept}; the bytes of each were not kept");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
    assert!(rig.verb(&["rejects", "show", &not_kept]).await.stdout.contains("bytes:      4096, not kept\n"));
    texts(&rig, "DELETE FROM heymarket_sync.rejects WHERE source_id = '905' RETURNING id::text").await;

    // Nobody leads: the verb does the work itself.
    let ended = rig.verb(&["rejects", "retry", &ids[0].to_string(), "4711"]).await;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.stdout, "1 tried, 1 resolved, 0 still open\n");
    assert!(ended.stderr.contains("not tried: 4711"), "{}", ended.stderr);
    let ended = rig.verb(&["rejects", "retry"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("4 tried, 1 resolved, 3 still open\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("first: an array"), "{}", ended.stdout);
    let states = held(&rig).await;
    let told: Vec<_> =
        states.iter().map(|(_, resolved, partial, reason)| (*resolved, *partial, reason.as_str())).collect();
    assert_eq!(
        told,
        [
            (true, false, "an earlier reader said no"),
            (true, false, "an earlier reader said no"),
            (false, false, "id: not a number"),
            (false, true, "first: an array"),
            (false, false, "PostgreSQL refused it (SQLSTATE 54000)"),
        ]
    );
    assert_eq!(texts(&rig, "SELECT first FROM heymarket.contacts WHERE id = 901").await, ["Ada"]);
    assert_eq!(
        texts(&rig, "SELECT name FROM heymarket.conversation_members WHERE conversation_id = 902").await,
        ["m"]
    );
    let contacts = texts(&rig, "SELECT id::text FROM heymarket.contacts ORDER BY id").await;
    assert_eq!(contacts, ["901", "903"], "a partial one lands, a refused one does not");
    let all = rig.verb(&["rejects", "list", "--all", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&all.stdout).unwrap().as_array().unwrap().len(), 5);
    assert_eq!(rig.verb(&["rejects"]).await.stdout.lines().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_handed_to_the_leader_and_overwrites_nothing_newer() {
    let rig = Rig::new(50).await;
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    let held_now =
        texts(&rig, "SELECT first || coalesce(rev, 0) FROM heymarket.contacts ORDER BY id DESC LIMIT 1")
            .await;
    let id = texts(&rig, "SELECT id::text FROM heymarket.contacts ORDER BY id DESC LIMIT 1").await.remove(0);
    let older = format!(r#"{{"id":{id},"updated":"2001-05-01T00:00:00Z","first":"Old"}}"#);
    let ids = set_aside(
        &rig,
        &[
            ("contacts", Some(&id), false, older.as_bytes()),
            ("contacts", Some("901"), false, CONTACT),
            ("messages", None, false, UNREADABLE),
        ],
    )
    .await;
    let ended = rig.start(&["rejects", "retry"]).ended(VERB).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("3 rejects wait for ") && ended.stderr.contains(", run)"),
        "{}",
        ended.stderr
    );
    assert!(ended.stdout.starts_with("3 tried, 2 resolved, 1 still open\n"), "{}", ended.stdout);
    let states = held(&rig).await;
    assert_eq!(
        states.iter().map(|state| (state.0, state.1)).collect::<Vec<_>>(),
        [(ids[0], true), (ids[1], true), (ids[2], false)]
    );
    let sql = "SELECT first || coalesce(rev, 0) FROM heymarket.contacts ORDER BY id DESC LIMIT 1";
    assert_eq!(texts(&rig, sql).await, held_now, "a newer version is held");
    assert_eq!(texts(&rig, "SELECT first FROM heymarket.contacts WHERE id = 901").await, ["Ada"]);
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.ended(STOP).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_deletes_what_was_resolved_long_ago() {
    let rig = Rig::new(20).await;
    let ids = set_aside(
        &rig,
        &[
            ("contacts", Some("901"), false, CONTACT),
            ("contacts", Some("903"), true, PARTIAL),
            ("messages", None, false, UNREADABLE),
        ],
    )
    .await;
    let age =
        "UPDATE heymarket_sync.rejects SET resolved_at = now() - make_interval(days => $2) WHERE id = $1";
    for (id, days) in [(ids[0], 31), (ids[1], 29)] {
        sqlx::query(age).bind(id).bind(days).execute(&rig.pool).await.unwrap();
    }
    let ended = rig.verb(&["sync"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(held(&rig).await.iter().map(|held| held.0).collect::<Vec<_>>(), ids[1..]);
}
