//! What is written of a row, and what is not.

use heymarket_sync::api::model::{Contact, Conversation};
use heymarket_sync::store::{Batch, Committed};
use sqlx::{AssertSqlSafe, Executor};

use crate::Database;
use crate::rows::{
    contact, conversation, member, message, note, whole_contact, whole_conversation, whole_message,
};

#[tokio::test]
async fn every_field_lands_in_its_column() {
    let (database, lease) = Database::led().await;
    let batch = Batch {
        messages: vec![whole_message()],
        conversations: vec![whole_conversation()],
        contacts: vec![whole_contact()],
        ..Batch::default()
    };
    let written = database.store.commit(&lease, &batch).await.unwrap();
    assert_eq!(written, Committed { messages: 1, conversations: 1, contacts: 1, ..Committed::default() });

    // The columns' names and values as JSON, against JSON written by hand.
    for (table, expected) in [
        (
            "messages",
            r#"{"id":1,"conversation_id":2,"author":"au","broadcast_id":3,"custom":{"a":1},"date":11,"flagged":true,
               "link_url":"li","local_id":"lo","media":"me","phone":"ph","status":"st","super":4,"support":false,
               "target":"ta","text":"te","type":"ty","updated":12,"user_id":5,"_extra":{"x":[]},"_deleted_at":null}"#,
        ),
        (
            "conversations",
            r#"{"id":1,"assigned":2,"blocked":true,"channel":"ch","created":11,"creator":3,"email_noti":false,"inbox":4,
               "last_inbound":5,"local_id":"lo","muted":true,"name":"na","noreply":"no","op":"op","read":6,
               "replied":false,"snooze_till":12,"status":"st","super":7,"support":true,"target":"ta","type":"ty",
               "updated":13,"_extra":{"x":1},"_deleted_at":null}"#,
        ),
        (
            "contacts",
            r#"{"id":1,"avatar":"av","created":11,"creator_id":2,"custom":{"7":"v"},"display_name":"di","email":"em",
               "external_id":"ei","external_ref":"er","first":"fi","inbox_id":3,"last":"la","op":"op","parent_id":4,
               "phone":"ph","rev":5,"shared":true,"team_id":6,"type":"ty","updated":12,"assigned_user_id":7,
               "tags":["t"],"is_opted_out":false,"_extra":{"x":2},"_deleted_at":null}"#,
        ),
        ("conversation_members", r#"{"conversation_id":1,"id":8,"name":"mo"}"#),
        ("contact_notes", r#"{"contact_id":1,"id":"n1","date":14,"name":"nn","text":"nt","user_id":9}"#),
    ] {
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(database.row(table).await, expected, "{table}");
    }
    database.drop().await;
}

#[tokio::test]
async fn members_and_notes_are_those_of_the_version_held() {
    let (database, lease) = Database::led().await;
    // Version, members by id and name, and what is held then; absent members are deleted.
    type People<'a> = &'a [(i64, &'a str)];
    let cases: [(&str, i64, People, u64, People); 7] = [
        ("first", 5, &[(1, "a"), (2, "b")], 1, &[(1, "a"), (2, "b")]),
        ("same", 5, &[(2, "b"), (1, "a")], 0, &[(1, "a"), (2, "b")]),
        ("older", 4, &[(9, "z")], 0, &[(1, "a"), (2, "b")]),
        ("one gone, equal version", 5, &[(1, "a")], 1, &[(1, "a")]),
        ("one renamed", 5, &[(1, "c")], 1, &[(1, "c")]),
        ("one replaced", 6, &[(3, "c")], 1, &[(3, "c")]),
        ("all gone", 6, &[], 1, &[]),
    ];
    for (name, version, people, written, held) in cases {
        let members = people.iter().map(|(id, name)| member(*id, name)).collect();
        let notes = people.iter().map(|(id, name)| note(*id, name)).collect();
        let batch = Batch {
            conversations: vec![Conversation { members, ..conversation(1, Some(version), "same") }],
            contacts: vec![Contact { notes, ..contact(1, None, Some(version), "same") }],
            ..Batch::default()
        };
        let done = database.store.commit(&lease, &batch).await.unwrap();
        assert_eq!((done.conversations, done.contacts), (written, written), "{name}");
        for (table, column) in [("conversation_members", "name"), ("contact_notes", "text")] {
            let found: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!(
                "SELECT id::text, {column} FROM heymarket.{table} ORDER BY id"
            )))
            .fetch_all(database.store.pool())
            .await
            .unwrap();
            let held: Vec<_> = held.iter().map(|(id, name)| (id.to_string(), name.to_string())).collect();
            assert_eq!(found, held, "{name}: {table}");
        }
    }
    database.drop().await;
}

#[tokio::test]
async fn unchanged_rows_are_not_written_again() {
    let (database, lease) = Database::led().await;
    let batch = Batch {
        messages: vec![whole_message(), message(2, None, "bare")],
        conversations: vec![whole_conversation(), conversation(2, None, "bare")],
        contacts: vec![whole_contact(), contact(2, None, None, "bare")],
        ..Batch::default()
    };
    database.store.commit(&lease, &batch).await.unwrap();
    let before = database.places().await;
    assert_eq!(before.len(), 8);
    let again = database.store.commit(&lease, &batch).await.unwrap();
    assert_eq!(again, Committed::default());
    assert_eq!(database.places().await, before);

    let changed = Batch { messages: vec![message(2, None, "changed")], ..Batch::default() };
    database.store.commit(&lease, &changed).await.unwrap();
    assert_eq!(database.places().await.iter().filter(|place| !before.contains(place)).count(), 1);
    database.drop().await;
}

#[tokio::test]
async fn a_row_that_comes_back_is_no_longer_deleted() {
    let (database, lease) = Database::led().await;
    let at = |version| Batch {
        messages: vec![message(1, Some(version), "a")],
        conversations: vec![conversation(1, Some(version), "a")],
        contacts: vec![contact(1, None, Some(version), "a")],
        ..Batch::default()
    };
    database.store.commit(&lease, &at(5)).await.unwrap();
    let tables = ["messages", "conversations", "contacts"];
    for table in tables {
        let gone = format!("UPDATE heymarket.{table} SET _deleted_at = now()");
        database.store.pool().execute(AssertSqlSafe(gone)).await.unwrap();
    }
    for (version, living) in [(4, 0_i64), (5, 1)] {
        database.store.commit(&lease, &at(version)).await.unwrap();
        for table in tables {
            let count = format!("SELECT count(*) FROM heymarket.{table} WHERE _deleted_at IS NULL");
            let found: i64 =
                sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(database.store.pool()).await.unwrap();
            assert_eq!(found, living, "{table} at version {version}");
        }
    }
    database.drop().await;
}
