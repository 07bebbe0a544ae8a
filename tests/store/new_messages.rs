//! Many new messages go in by COPY: the same rows as by upsert, whatever is held already and whoever else writes.

use std::time::Duration;

use bytes::Bytes;
use heymarket_sync::api::lenient::read_page;
use heymarket_sync::api::model::{Message, Stream, TimeField};
use heymarket_sync::store::{Batch, Committed};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::Database;
use crate::rows::{at, message};
use crate::support::process::reached;

/// Enough to go in by COPY.
const MANY: i64 = 200;
const SOON: Duration = Duration::from_secs(20);

fn batch(messages: Vec<Message>) -> Batch {
    Batch { messages, ..Batch::default() }
}

/// Each message as JSON, by id.
async fn held(database: &Database) -> Vec<Value> {
    let select = "SELECT to_jsonb(m) - '_synced_at' FROM heymarket.messages m ORDER BY id";
    sqlx::query_scalar(select).fetch_all(database.store.pool()).await.unwrap()
}

async fn texts(database: &Database) -> Vec<(i64, String)> {
    let select = "SELECT id, text FROM heymarket.messages ORDER BY id";
    sqlx::query_as(select).fetch_all(database.store.pool()).await.unwrap()
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
    let ((together, lease), (apart, other_lease)) = tokio::join!(Database::led(), Database::led());
    let written = together.store.commit(&lease, &batch(varied())).await.unwrap();
    assert_eq!(written.messages, MANY as u64);
    for row in varied() {
        apart.store.commit(&other_lease, &batch(vec![row])).await.unwrap();
    }
    assert_eq!(held(&together).await, held(&apart).await);
    together.drop().await;
    apart.drop().await;
}

#[tokio::test]
async fn what_is_held_is_replaced_by_what_is_as_new_alone() {
    let (database, lease) = Database::led().await;
    let held = (1..=MANY).filter(|id| id % 3 == 0);
    let held = batch(held.map(|id| message(id, Some(5), "held")).collect());
    database.store.commit(&lease, &held).await.unwrap();
    // Every second one of the held is older than what comes.
    let version = |id: i64| if id % 2 == 0 { 6 } else { 4 };
    let come = batch((1..=MANY).map(|id| message(id, Some(version(id)), "new")).collect());
    let stays = |id: i64| id % 3 == 0 && id % 2 != 0;
    let written = database.store.commit(&lease, &come).await.unwrap();
    assert_eq!(written.messages as usize, (1..=MANY).filter(|id| !stays(*id)).count());
    let text = |id| if stays(id) { "held" } else { "new" };
    let expected: Vec<_> = (1..=MANY).map(|id| (id, text(id).to_owned())).collect();
    assert_eq!(texts(&database).await, expected);
    let again = database.store.commit(&lease, &come).await.unwrap();
    assert_eq!(again, Committed::default(), "nothing has changed");
    database.drop().await;
}

#[tokio::test]
async fn rows_that_postgresql_refuses_are_set_aside_alone() {
    let (database, lease) = Database::led().await;
    let text = |id: i64| if [7, MANY].contains(&id) { "\0" } else { "fine" };
    let come = batch((1..=MANY).map(|id| message(id, Some(1), text(id))).collect());
    let written = database.store.commit(&lease, &come).await.unwrap();
    assert_eq!((written.messages, written.refused), (MANY as u64 - 2, 2));
    assert!(texts(&database).await.iter().all(|(id, _)| ![7, MANY].contains(id)));
    database.drop().await;
}

#[tokio::test]
async fn a_row_that_another_session_inserts_meanwhile_is_upserted() {
    for (theirs, text) in [(9, "theirs"), (1, "ours")] {
        let (database, lease) = Database::led().await;
        let mut other = PgConnection::connect(database.held.url()).await.unwrap();
        let mut transaction = other.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO heymarket.messages (id, updated, text, _synced_at) VALUES (100, $1, 'theirs', now())",
        )
            .bind(at(theirs))
            .execute(&mut *transaction)
            .await
            .unwrap();
        let come = batch((1..=MANY).map(|id| message(id, Some(5), "ours")).collect());
        let meet = async {
            let waits =
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')";
            let waiting =
                async || sqlx::query_scalar::<_, bool>(waits).fetch_one(database.store.pool()).await.unwrap();
            reached("our session waits for theirs", SOON, waiting).await.unwrap();
            transaction.commit().await.unwrap();
        };
        let (written, ()) = tokio::join!(database.store.commit(&lease, &come), meet);
        let expected = if text == "ours" { MANY } else { MANY - 1 };
        assert_eq!(written.unwrap().messages as i64, expected);
        let texts = texts(&database).await;
        assert_eq!(texts.len(), MANY as usize);
        assert_eq!(texts[99], (100, text.to_owned()));
        database.drop().await;
    }
}
