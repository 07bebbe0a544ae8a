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
