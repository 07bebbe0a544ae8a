//! Many new messages go in by COPY: the same rows as by upsert, whatever is held already and whoever else writes.

mod support;

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use heymarket_sync::api::lenient::read_page;
use heymarket_sync::api::model::{Message, Stream, TimeField};
use heymarket_sync::store::{Batch, Committed, Lease, Store, StoreError, connect};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use support::database::{TestDatabase, database};
use support::process::reached;

/// Enough to go in by COPY.
const MANY: i64 = 200;
const SOON: Duration = Duration::from_secs(20);

struct Mirror {
    store: Store,
    lease: Lease,
    database: TestDatabase,
}

impl Mirror {
    async fn new() -> Self {
        let database = database().await;
        let store = connect(&SecretString::from(database.url()), 4).await.unwrap();
        let lease = store.acquire_lease("test").await.unwrap().unwrap();
        Self { store, lease, database }
    }

    async fn commit(&self, messages: Vec<Message>) -> Result<Committed, StoreError> {
        self.store.commit(&self.lease, &Batch { messages, ..Batch::default() }).await
    }

    /// Each message as JSON, by id.
    async fn rows(&self) -> Vec<Value> {
        let select = "SELECT to_jsonb(m) - '_synced_at' FROM heymarket.messages m ORDER BY id";
        sqlx::query_scalar(select).fetch_all(self.store.pool()).await.unwrap()
    }

    async fn texts(&self) -> Vec<(i64, Option<String>)> {
        let select = "SELECT id, text FROM heymarket.messages ORDER BY id";
        sqlx::query_as(select).fetch_all(self.store.pool()).await.unwrap()
    }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn message(id: i64, version: i64, text: &str) -> Message {
    Message { id, updated: Some(at(version)), text: Some(text.into()), ..Message::default() }
}

/// Every second field is absent in every second row; texts are of all lengths, and of all kinds of characters.
fn varied() -> Vec<Message> {
    let row = |id: i64| {
        let text = format!("{}\u{1F600}\\\"\\\\\\n\\t é", "x".repeat((id * id % 3_000) as usize));
        let whole = format!(
            r#"{{"id":{id},"conversation_id":{},"author":"{text}","broadcast_id":-{id},"custom":{{"a":[{id},"é"]}},
                "date":"2024-05-04T00:00:00.{id:06}Z","flagged":true,"link_url":"li","local_id":"","media":"me",
                "phone":"+1","status":"st","super":{id},"support":false,"target":"ta","text":"{text}","type":"ty",
                "updated":"0001-01-02T00:00:00Z","user_id":9223372036854775807,"new":{{"deep":[null,1e5]}}}}"#,
            i64::MIN + id
        );
        let bare = format!(r#"{{"id":{id},"updated":"2024-05-04T00:00:00Z"}}"#);
        if id % 2 == 0 { whole } else { bare }
    };
    let rows: Vec<_> = (1..=MANY).map(row).collect();
    let body = Bytes::from(format!("[{}]", rows.join(",")));
    let rows = read_page(Stream::Messages, TimeField::Updated, &body).unwrap();
    assert_eq!(rows.messages.len(), MANY as usize);
    rows.messages
}

#[tokio::test]
async fn the_rows_are_those_that_upserts_write() {
    let (together, apart) = (Mirror::new().await, Mirror::new().await);
    assert_eq!(together.commit(varied()).await.unwrap().messages, MANY as u64);
    for row in varied() {
        apart.commit(vec![row]).await.unwrap();
    }
    assert_eq!(together.rows().await, apart.rows().await);
}

#[tokio::test]
async fn what_is_held_is_replaced_by_what_is_as_new_alone() {
    let mirror = Mirror::new().await;
    let held = (1..=MANY).filter(|id| id % 3 == 0);
    mirror.commit(held.map(|id| message(id, 5, "held")).collect()).await.unwrap();
    // Every second one of the held is older than what comes.
    let version = |id: i64| if id % 2 == 0 { 6 } else { 4 };
    let come = (1..=MANY).map(|id| message(id, version(id), "new")).collect::<Vec<_>>();
    let stays = |id: i64| id % 3 == 0 && id % 2 != 0;
    let written = mirror.commit(come.clone()).await.unwrap();
    assert_eq!(written.messages as usize, (1..=MANY).filter(|id| !stays(*id)).count());
    let text = |id| if stays(id) { "held" } else { "new" };
    let expected: Vec<_> = (1..=MANY).map(|id| (id, Some(text(id).to_owned()))).collect();
    assert_eq!(mirror.texts().await, expected);
    assert_eq!(mirror.commit(come).await.unwrap(), Committed::default(), "nothing has changed");
}

#[tokio::test]
async fn rows_that_postgresql_refuses_are_set_aside_alone() {
    let mirror = Mirror::new().await;
    let text = |id: i64| if [7, MANY].contains(&id) { "\0" } else { "fine" };
    let written = mirror.commit((1..=MANY).map(|id| message(id, 1, text(id))).collect()).await.unwrap();
    assert_eq!((written.messages, written.refused), (MANY as u64 - 2, 2));
    assert!(mirror.texts().await.iter().all(|(id, _)| ![7, MANY].contains(id)));
}

#[tokio::test]
async fn a_row_that_another_session_inserts_meanwhile_is_upserted() {
    for (theirs, text) in [(9, "theirs"), (1, "ours")] {
        let mirror = Mirror::new().await;
        let mut other = PgConnection::connect(mirror.database.url()).await.unwrap();
        let mut transaction = other.begin().await.unwrap();
        sqlx::query("INSERT INTO heymarket.messages (id, updated, text) VALUES (100, $1, 'theirs')")
            .bind(at(theirs))
            .execute(&mut *transaction)
            .await
            .unwrap();
        let ours = mirror.commit((1..=MANY).map(|id| message(id, 5, "ours")).collect());
        let meet = async {
            let waits =
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')";
            let waiting = async || {
                sqlx::query_scalar::<_, bool>(AssertSqlSafe(waits))
                    .fetch_one(mirror.store.pool())
                    .await
                    .unwrap()
            };
            reached("our session waits for theirs", SOON, waiting).await.unwrap();
            transaction.commit().await.unwrap();
        };
        let (written, ()) = tokio::join!(ours, meet);
        assert_eq!(written.unwrap().messages as usize, if text == "ours" { MANY } else { MANY - 1 } as usize);
        let texts = mirror.texts().await;
        assert_eq!(texts.len(), MANY as usize);
        assert_eq!(texts[99], (100, Some(text.to_owned())));
    }
}
