//! Rejects at scale: unchanged ones are not written, open ones are counted at once, payloads are bounded, resolved ones
//! are deleted in time.

use std::time::{Duration, Instant};

use heymarket_sync::api::model::{Reject, Rows, Stream};
use heymarket_sync::store::{Batch, Lease};
use sqlx::Executor;

use crate::Database;
use crate::rows::{contact, conversation, message, reject};

impl Database {
    async fn commit(&self, lease: &Lease, rows: Rows) -> u64 {
        let mut batch = Batch::default();
        batch.push(rows);
        self.store.commit(lease, &batch).await.unwrap().rejects
    }

    /// Where each reject lies, and which transaction wrote it or locked it.
    async fn reject_places(&self) -> Vec<String> {
        let places =
            "SELECT format('%s %s %s %s', id, ctid, xmin, xmax) FROM heymarket_sync.rejects ORDER BY id";
        sqlx::query_scalar(places).fetch_all(self.store.pool()).await.unwrap()
    }
}

fn partial(stream: Stream, id: i64, payload: &str) -> Reject {
    Reject { stream, payload: payload.to_owned().into(), ..reject(&id.to_string(), "custom: bad") }
}

/// A page of each stream whose rows are all partial.
fn partial_rows(rows: i64, payload: &str) -> Rows {
    let rejects = |stream| (0..rows).map(move |id| partial(stream, id, payload));
    Rows {
        messages: (0..rows).map(|id| message(id, None, "m")).collect(),
        conversations: (0..rows).map(|id| conversation(id, None, "c")).collect(),
        contacts: (0..rows).map(|id| contact(id, None, None, "c")).collect(),
        rejects: Stream::ALL.into_iter().flat_map(rejects).collect(),
        ..Rows::default()
    }
}

#[tokio::test]
async fn unchanged_rejects_are_not_written_again() {
    let (database, lease) = Database::led().await;
    let payload = "x".repeat(3_000);
    assert_eq!(database.commit(&lease, partial_rows(1_000, &payload)).await, 3_000);
    let before = database.reject_places().await;
    assert_eq!(database.commit(&lease, partial_rows(1_000, &payload)).await, 0);
    assert!(database.reject_places().await == before, "a row version was written, or a row locked");

    let mut changed = partial_rows(1_000, &payload);
    changed.rejects[7].payload = "y".into();
    changed.rejects[8].reason = "date: bad".to_owned();
    changed.rejects[9].partial = false;
    assert_eq!(database.commit(&lease, changed).await, 3);
    database.drop().await;
}

#[tokio::test]
async fn a_million_open_rejects_are_counted_at_once() {
    let (database, _lease) = Database::led().await;
    let insert = "INSERT INTO heymarket_sync.rejects (stream, source_id, partial, reason, payload)
                  SELECT (ARRAY['messages', 'contacts'])[1 + n % 2], n::text, n % 3 = 0, 'custom: bad', '{}'
                  FROM generate_series(1, 1000000) n";
    database.store.pool().execute(insert).await.unwrap();
    let expected = [(Stream::Messages, 500_000), (Stream::Contacts, 500_000)].into();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(database.store.open_rejects().await.unwrap(), expected);
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    println!("counted in {fastest:?}");
    database.drop().await;
}

impl Database {
    /// What is counted must be what is there: open rejects and their bytes, by stream and kind.
    async fn assert_counted(&self, after: &str) {
        let different: Vec<String> = sqlx::query_scalar(
            "WITH counted AS (
                 SELECT stream, partial, sum(open) AS open, sum(open_bytes) AS bytes
                 FROM heymarket_sync.reject_counts GROUP BY stream, partial
             ), present AS (
                 SELECT stream, partial, count(*) AS open, sum(octet_length(payload)) AS bytes
                 FROM heymarket_sync.rejects WHERE resolved_at IS NULL GROUP BY stream, partial
             )
             SELECT format('%s %s: %s %s, counted %s %s', stream, partial, p.open, p.bytes, c.open, c.bytes)
             FROM counted c FULL JOIN present p USING (stream, partial)
             WHERE (coalesce(c.open, 0), coalesce(c.bytes, 0)) <> (coalesce(p.open, 0), coalesce(p.bytes, 0))",
        )
        .fetch_all(self.store.pool())
        .await
        .unwrap();
        assert_eq!(different, Vec::<String>::new(), "{after}");
    }

    async fn execute(&self, statement: &'static str) -> u64 {
        self.store.pool().execute(statement).await.unwrap().rows_affected()
    }

    /// Source id, reason, payload, and how many bytes were left out of each reject.
    async fn kept(&self) -> Vec<(String, String, Vec<u8>, Option<i64>)> {
        let kept = "SELECT coalesce(source_id, 'unknown'), reason, payload, cut_bytes FROM heymarket_sync.rejects ORDER BY source_id";
        sqlx::query_as(kept).fetch_all(self.store.pool()).await.unwrap()
    }
}

#[tokio::test]
async fn open_rejects_are_counted_as_they_come_and_go() {
    let (database, lease) = Database::led().await;
    let batches: Vec<_> = (0..6_i64)
        .map(|number| {
            let mut batch = Batch::default();
            let ids = 50 * number..50 * number + 60;
            let rejects = ids.map(|id| partial(Stream::ALL[id as usize % 3], id, &"x".repeat(id as usize)));
            batch.push(Rows { rejects: rejects.collect(), ..Rows::default() });
            batch
        })
        .collect();
    let commits = batches.iter().map(|batch| database.store.commit(&lease, batch));
    for committed in futures::future::join_all(commits).await {
        committed.unwrap();
    }
    database.assert_counted("transactions at one time").await;
    assert_eq!(database.store.open_rejects().await.unwrap().values().sum::<u64>(), 310);

    let mut changed = batches[0].clone();
    changed.rejects[3].payload = "longer".into();
    changed.rejects[4].partial = false;
    database.store.commit(&lease, &changed).await.unwrap();
    database.assert_counted("changes").await;
    let messages: Vec<_> = (0..60).map(|id| message(id, None, "whole")).collect();
    let mut readable = Batch::default();
    readable.push(Rows { messages, ..Rows::default() });
    database.store.commit(&lease, &readable).await.unwrap();
    database.assert_counted("resolved").await;
    database.store.commit(&lease, &batches[0]).await.unwrap();
    database.assert_counted("opened again").await;
    database.execute("DELETE FROM heymarket_sync.rejects WHERE source_id > '4'").await;
    database.assert_counted("deleted by hand").await;
    database.execute("TRUNCATE heymarket_sync.rejects").await;
    database.assert_counted("truncated").await;
    assert!(database.store.open_rejects().await.unwrap().is_empty());
    database.drop().await;
}

#[tokio::test]
async fn payloads_beyond_the_bound_are_left_out_and_their_rejects_kept() {
    let (database, lease) = Database::led().await;
    let page = |rejects: Vec<Reject>| Rows { rejects, ..Rows::default() };
    let (first, second) = ("a".repeat(600), "b".repeat(600));
    // As if open rejects took all but 1,000 bytes of what they may.
    database
        .execute(
            "INSERT INTO heymarket_sync.reject_counts (stream, partial, open, open_bytes)
             VALUES ('contacts', true, 0, 1008 * 1024 * 1024 - 1000)",
        )
        .await;
    let unknown = |payload: &str| Reject { source_id: None, ..partial(Stream::Messages, 0, payload) };
    let rejects = vec![
        partial(Stream::Messages, 1, &first),
        partial(Stream::Messages, 2, &second),
        partial(Stream::Messages, 3, ""),
    ];
    assert_eq!(database.commit(&lease, page(rejects.clone())).await, 3);
    let reason = "custom: bad; its bytes were not kept, since the open rejects take 1 GiB";
    let row = |id: &str, reason: &str, payload: &str, cut| {
        (id.to_owned(), reason.to_owned(), payload.as_bytes().to_vec(), cut)
    };
    let full = [
        row("1", "custom: bad", &first, None),
        row("2", reason, "", Some(600)),
        row("3", "custom: bad", "", None),
    ];
    assert_eq!(database.kept().await, full);

    let before = database.reject_places().await;
    assert_eq!(database.commit(&lease, page(rejects.clone())).await, 0);
    assert_eq!(database.reject_places().await, before, "unchanged");
    let mut changed = rejects.clone();
    changed[0].reason = "date: bad".to_owned();
    assert_eq!(database.commit(&lease, page(changed)).await, 1);
    assert_eq!(database.kept().await[0], row("1", "date: bad", &first, None), "what is there stays");
    let large = |letter: &str| unknown(&letter.repeat(600));
    let two = vec![large("c"), large("d"), large("c")];
    assert_eq!(database.commit(&lease, page(two.clone())).await, 2, "each has a digest of its own");
    assert_eq!(database.commit(&lease, page(two)).await, 0);

    // One that was not kept cannot be tried again, and is filled in when there is room.
    let ids: Vec<i64> = sqlx::query_scalar(
        "SELECT id FROM heymarket_sync.rejects WHERE source_id IS NOT NULL ORDER BY source_id",
    )
    .fetch_all(database.store.pool())
    .await
    .unwrap();
    assert_eq!(database.store.rejects_not_kept(Some(&ids)).await.unwrap(), [ids[1]]);
    assert_eq!(database.store.rejects_not_kept(None).await.unwrap().len(), 3);
    assert_eq!(database.store.request_retries(Some(&ids)).await.unwrap(), [ids[0], ids[2]]);
    let listed = database.store.list_rejects(0, None, false).await.unwrap();
    assert_eq!((listed[1].bytes, listed[1].kept), (600, false));
    database.execute("DELETE FROM heymarket_sync.reject_counts WHERE open = 0").await;
    assert_eq!(database.commit(&lease, page(rejects)).await, 2);
    assert_eq!(database.kept().await[1], row("2", "custom: bad", &second, None));
    database.assert_counted("filled in").await;
    database.drop().await;
}

#[tokio::test]
async fn resolved_rejects_are_deleted_after_thirty_days() {
    let (database, _lease) = Database::led().await;
    assert!(database.store.delete_old_rejects().await.unwrap());
    database
        .execute(
            "INSERT INTO heymarket_sync.rejects (stream, source_id, partial, reason, payload, resolved_at)
             SELECT 'messages', n::text, true, 'custom: bad', '{}',
                    CASE WHEN n > 1505 THEN NULL
                    ELSE now() - CASE WHEN n > 1500 THEN interval '719 hours' ELSE interval '721 hours' END END
             FROM generate_series(1, 1510) n",
        )
        .await;
    let left = async || {
        let count = "SELECT count(*) FROM heymarket_sync.rejects";
        sqlx::query_scalar::<_, i64>(count).fetch_one(database.store.pool()).await.unwrap()
    };
    assert!(!database.store.delete_old_rejects().await.unwrap(), "there are more");
    assert_eq!(left().await, 510);
    assert!(database.store.delete_old_rejects().await.unwrap());
    assert_eq!(left().await, 10, "younger ones and open ones stay");
    assert!(database.store.delete_old_rejects().await.unwrap());
    assert_eq!(left().await, 10);
    database.assert_counted("deleted").await;
    database.drop().await;
}

#[tokio::test]
async fn an_embedded_copy_that_did_not_land_opens_no_reject() {
    let (database, lease) = Database::led().await;
    let embedded = |version| Rows {
        embedded: vec![conversation(1, version, "embedded")],
        rejects: vec![Reject {
            embedded: true,
            version: conversation(1, version, "").version(),
            ..partial(Stream::Conversations, 1, "{}")
        }],
        ..Rows::default()
    };
    let listed =
        |version| Rows { conversations: vec![conversation(1, version, "listed")], ..Rows::default() };
    let cases = [
        ("it lands", embedded(Some(5)), 1, 1),
        ("again, unchanged", embedded(Some(5)), 0, 1),
        ("the list shows it", listed(Some(5)), 0, 0),
        ("as new as what is held", embedded(Some(5)), 0, 0),
        ("older", embedded(Some(4)), 0, 0),
        ("of unknown version", embedded(None), 0, 0),
        ("newer", embedded(Some(6)), 1, 1),
    ];
    for (name, rows, written, open) in cases {
        assert_eq!(database.commit(&lease, rows).await, written, "{name}");
        let found = database.store.open_rejects().await.unwrap();
        assert_eq!(found.get(&Stream::Conversations).copied().unwrap_or(0), open, "{name}");
    }
    database.drop().await;
}
