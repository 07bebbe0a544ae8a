//! What is kept beside the rows: rejects, runs, findings, the status.

use heymarket_sync::api::model::{Message, Reject, Rows, Stream};
use heymarket_sync::store::{Batch, STANDING, Tally, UNDECIDED};

use crate::Database;
use crate::rows::{at, conversation, message, reject};

#[tokio::test]
async fn rejects_are_counted_once_each_and_resolved_by_a_readable_row() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let unknown = Reject { source_id: None, partial: false, payload: "[1]".into(), ..reject("", "no id") };
    let page = |text: &str, rejects: Vec<Reject>| {
        let mut batch = Batch::default();
        batch.push(Rows { messages: vec![message(7, Some(5), text)], rejects, ..Rows::default() });
        batch
    };
    let bad = page("cut", vec![reject("7", "date"), unknown.clone(), unknown.clone()]);
    assert_eq!(store.commit(&lease, &bad).await.unwrap().rejects, 2);
    store.commit(&lease, &bad).await.unwrap();
    let times: Vec<(Option<String>, i64, Vec<u8>)> =
        sqlx::query_as("SELECT source_id, times, payload FROM heymarket_sync.rejects ORDER BY payload")
            .fetch_all(store.pool())
            .await
            .unwrap();
    let expected = [(None, 1, b"[1]".to_vec()), (Some("7".to_owned()), 1, b"{\x00\xff}".to_vec())];
    assert_eq!(times, expected, "the second commit changed nothing");
    assert_eq!(store.open_rejects().await.unwrap(), [(Stream::Messages, 2)].into());

    let mut older = page("old", vec![]);
    older.messages[0].updated = Some(at(4));
    store.commit(&lease, &older).await.unwrap();
    assert_eq!(
        store.open_rejects().await.unwrap(),
        [(Stream::Messages, 2)].into(),
        "an older version proves nothing"
    );

    store.commit(&lease, &page("whole", vec![])).await.unwrap();
    assert_eq!(store.open_rejects().await.unwrap(), [(Stream::Messages, 1)].into());
    store.commit(&lease, &bad).await.unwrap();
    assert_eq!(store.open_rejects().await.unwrap(), [(Stream::Messages, 2)].into(), "open again");

    let mut both = page("cut", vec![reject("7", "date")]);
    both.push(Rows { messages: vec![message(7, Some(6), "whole")], ..Rows::default() });
    store.commit(&lease, &both).await.unwrap();
    assert_eq!(
        store.open_rejects().await.unwrap(),
        [(Stream::Messages, 1)].into(),
        "resolved in the same batch"
    );
    database.drop().await;
}

#[tokio::test]
async fn runs_are_credited_with_what_their_pages_cost() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let standing = store.start_run(Stream::Messages, STANDING, "me").await.unwrap();
    let recheck = store.start_run(Stream::Messages, "recheck", "me").await.unwrap();
    let tally = |run, rows_read| Tally { run, requests: 1, rows_read, rejected: 0 };
    let batch = Batch {
        messages: vec![message(1, None, "a"), message(2, None, "b")],
        embedded: vec![conversation(1, None, "c")],
        tallies: vec![tally(standing, 2), tally(recheck, 5), tally(standing, 3)],
        ..Batch::default()
    };
    store.commit(&lease, &batch).await.unwrap();
    store.end_run(standing, "done").await.unwrap();
    let runs = store.recent_runs(10).await.unwrap();
    let found: Vec<_> = runs
        .iter()
        .map(|run| (run.id, run.requests, run.rows_read, run.rows_written, run.outcome.as_deref()))
        .collect();
    assert_eq!(found, [(recheck, 1, 5, 0, None), (standing, 2, 5, 3, Some("done"))]);
    assert!(runs[1].ended_at.is_some());
    database.drop().await;
}

#[tokio::test]
async fn a_run_is_kept_as_long_as_it_goes_on() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let standing = store.start_run(Stream::Messages, STANDING, "test").await.unwrap();
    let left = store.start_run(Stream::Messages, STANDING, "killed").await.unwrap();
    sqlx::query(
        "INSERT INTO heymarket_sync.runs (stream, pass, holder, ended_at)
         SELECT 'messages', 'recheck 1h', 'test', now() FROM generate_series(1, 1000)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    let newest = store.start_run(Stream::Messages, "recheck 1h", "test").await.unwrap();
    let tallies = vec![Tally { run: standing, requests: 1, rows_read: 5, rejected: 0 }];
    store.commit(&lease, &Batch { tallies, ..Batch::default() }).await.unwrap();
    let runs = store.recent_runs(2_000).await.unwrap();
    assert_eq!(runs.len(), 1_001);
    assert_eq!((runs[0].id, runs[1_000].id, runs[1_000].requests), (newest, standing, 1));
    assert!(runs.iter().all(|run| run.id != left));
    database.drop().await;
}

#[tokio::test]
async fn the_last_error_of_a_stream_outlives_later_runs_of_other_passes() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let run = async |stream, pass: &str, outcome: Option<&str>, requests| {
        let run = store.start_run(stream, pass, "test").await.unwrap();
        let tallies = vec![Tally { run, requests, rows_read: 0, rejected: 0 }];
        store.commit(&lease, &Batch { tallies, ..Batch::default() }).await.unwrap();
        if let Some(outcome) = outcome {
            store.end_run(run, outcome).await.unwrap();
        }
    };
    let told = async || {
        let errors = store.last_errors().await.unwrap();
        errors.get(&Stream::Messages).map(|last| (last.pass.clone(), last.error.clone(), last.over))
    };
    let last = |pass: &str, error: &str, over| Some((pass.to_owned(), error.to_owned(), over));
    let refused = "POST /v1/messages: the API refused it (status 403, request id r-1)";
    run(Stream::Messages, STANDING, Some("stopped"), 1).await;
    run(Stream::Contacts, STANDING, Some("an error of another stream"), 1).await;
    assert_eq!(told().await, None);
    run(Stream::Messages, STANDING, Some(refused), 1).await;
    run(Stream::Messages, "recheck 1h", Some("done"), 9).await;
    run(Stream::Messages, STANDING, None, 0).await;
    assert_eq!(told().await, last(STANDING, refused, false));
    run(Stream::Messages, "recheck 1h", Some("2 intervals stayed open"), 9).await;
    run(Stream::Messages, "recheck 1h", Some("done"), 9).await;
    assert_eq!(told().await, last(STANDING, refused, false), "one that is not over comes first");
    run(Stream::Messages, STANDING, None, 1).await;
    assert_eq!(told().await, last("recheck 1h", "2 intervals stayed open", true));
    // More runs than are kept.
    sqlx::query(
        "INSERT INTO heymarket_sync.runs (stream, pass, holder, ended_at, outcome)
         SELECT 'messages', 'recheck 1h', 'test', now(), 'done' FROM generate_series(1, 1500)",
    )
    .execute(store.pool())
    .await
    .unwrap();
    run(Stream::Messages, "recheck 1h", None, 0).await;
    assert_eq!(told().await, last("recheck 1h", "2 intervals stayed open", true));
    let standing: i64 = sqlx::query_scalar("SELECT count(*) FROM heymarket_sync.runs WHERE outcome = $1")
        .bind(refused)
        .fetch_one(store.pool())
        .await
        .unwrap();
    assert_eq!(standing, 1, "the last error of the standing pass is kept");
    let status = store.status().await.unwrap();
    assert_eq!(status.last_errors[&Stream::Contacts].error, "an error of another stream");
    database.drop().await;
}

#[tokio::test]
async fn a_finding_replaces_the_one_before() {
    let database = Database::migrated().await;
    let store = &database.store;
    assert_eq!(store.put_reading(Stream::Messages, "cursor", "exclusive", "1 page").await.unwrap(), None);
    let before = store.put_reading(Stream::Messages, "cursor", "inclusive", "2 pages").await.unwrap();
    assert_eq!(before.as_deref(), Some("exclusive"));
    let readings = store.readings().await.unwrap();
    assert_eq!(readings.len(), 1);
    assert_eq!((readings[0].answer.as_str(), readings[0].evidence.as_str()), ("inclusive", "2 pages"));
    database.drop().await;
}

#[tokio::test]
async fn a_test_that_decides_nothing_leaves_what_was_decided() {
    let database = Database::migrated().await;
    let store = &database.store;
    let cases = [
        (UNDECIDED, None, UNDECIDED),
        ("date", Some(UNDECIDED), "date"),
        (UNDECIDED, Some("date"), "date"),
        ("created_at", Some("date"), "created_at"),
    ];
    for (answer, before, after) in cases {
        let found = store.put_reading(Stream::Messages, "cursor", answer, "a page").await.unwrap();
        assert_eq!(found.as_deref(), before, "{answer}");
        assert_eq!(store.readings().await.unwrap()[0].answer, after, "{answer}");
    }
    database.drop().await;
}

#[tokio::test]
async fn the_status_tells_what_is_held_and_who_leads() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let messages = vec![Message { date: Some(at(3)), ..message(1, None, "a") }, message(2, None, "b")];
    let batch = Batch { messages, rejects: vec![reject("5", "bad")], ..Batch::default() };
    store.commit(&lease, &batch).await.unwrap();
    let status = store.status().await.unwrap();
    assert_eq!(status.leader.unwrap().holder, "test");
    let messages = status.streams[&Stream::Messages];
    assert_eq!((messages.estimated_rows, messages.newest, messages.open_rejects), (2, Some(at(3)), 1));
    assert_eq!(status.streams[&Stream::Contacts].estimated_rows, 0);
    assert!(status.database_bytes > 0);
    database.drop().await;
}
