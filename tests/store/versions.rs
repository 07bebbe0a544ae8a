//! Whatever comes in whatever order, the newest version stays.

use chrono::{DateTime, Utc};
use heymarket_sync::api::model::{Conversation, Rows};
use heymarket_sync::store::Batch;
use proptest::prelude::*;

use crate::Database;
use crate::rows::{at, contact, conversation, member, message};

#[tokio::test]
async fn an_older_version_never_overwrites_a_newer_one() {
    let (database, lease) = Database::led().await;
    let cases = [
        ("first", Some(5), "a", 1, "a"),
        ("older", Some(4), "b", 0, "a"),
        ("none is oldest", None, "c", 0, "a"),
        ("equal, read later", Some(5), "d", 1, "d"),
        ("newer", Some(6), "e", 1, "e"),
    ];
    for (name, version, text, written, kept) in cases {
        let batch = Batch {
            messages: vec![message(1, version, text)],
            conversations: vec![conversation(1, version, text)],
            contacts: vec![contact(1, None, version, text)],
            ..Batch::default()
        };
        let done = database.store.commit(&lease, &batch).await.unwrap();
        assert_eq!((done.messages, done.conversations, done.contacts), (written, written, written), "{name}");
        for (table, column) in [("messages", "text"), ("conversations", "name"), ("contacts", "first")] {
            assert_eq!(database.texts(table, column).await, [kept], "{name}: {table}");
        }
    }
    database.drop().await;
}

#[tokio::test]
async fn a_contacts_revision_comes_before_its_time() {
    let (database, lease) = Database::led().await;
    let cases = [
        (Some(2), 5, "a", "a"),
        (Some(1), 9, "b", "a"),
        (Some(3), 1, "c", "c"),
        (None, 99, "d", "c"),
        (Some(3), 1, "e", "e"),
        (Some(3), 0, "f", "e"),
    ];
    for (rev, updated, first, kept) in cases {
        let batch = Batch { contacts: vec![contact(1, rev, Some(updated), first)], ..Batch::default() };
        database.store.commit(&lease, &batch).await.unwrap();
        assert_eq!(database.texts("contacts", "first").await, [kept], "{rev:?} {updated}");
    }
    database.drop().await;
}

#[tokio::test]
async fn an_embedded_conversation_wins_only_if_newer_or_alone() {
    let (database, lease) = Database::led().await;
    let embedded = |version, name: &str| Batch {
        embedded: vec![Conversation { members: vec![member(1, name)], ..conversation(1, version, name) }],
        ..Batch::default()
    };
    let cases = [
        ("alone", Some(5), "a", "a"),
        ("equal", Some(5), "b", "a"),
        ("older", Some(4), "c", "a"),
        ("newer", Some(6), "d", "d"),
    ];
    for (name, version, text, kept) in cases {
        database.store.commit(&lease, &embedded(version, text)).await.unwrap();
        assert_eq!(database.texts("conversations", "name").await, [kept], "{name}");
        assert_eq!(database.texts("conversation_members", "name").await, [kept], "{name}");
    }
    let listed = Batch { conversations: vec![conversation(1, Some(6), "e")], ..Batch::default() };
    database.store.commit(&lease, &listed).await.unwrap();
    assert_eq!(database.texts("conversations", "name").await, ["e"], "a listed one wins at equality");
    database.drop().await;
}

#[tokio::test]
async fn writers_at_once_cannot_overwrite_a_newer_version() {
    let (database, lease) = Database::led().await;
    let rows = 0..100;
    let named = |version: i64, name: &str| {
        rows.clone()
            .map(|id| Conversation {
                members: vec![member(version, name)],
                ..conversation(id, Some(version), name)
            })
            .collect::<Vec<_>>()
    };
    for round in 0..10 {
        let version = |number: i64| round * 10 + number;
        // Of the newest version, the listed copy wins over the embedded one.
        let mut batches = vec![Batch { embedded: named(version(4), "embedded"), ..Batch::default() }];
        for number in [3, 4, 1, 2] {
            let (version, name) = (version(number), version(number).to_string());
            let messages = rows.clone().map(|id| message(id, Some(version), &name)).collect();
            let contacts = rows.clone().map(|id| contact(id, Some(version), None, &name)).collect();
            batches.push(Batch { messages, ..Batch::default() });
            batches.push(Batch { contacts, ..Batch::default() });
            batches.push(Batch { conversations: named(version, &name), ..Batch::default() });
        }
        batches.rotate_left(round as usize);
        let commits = batches.iter().map(|batch| database.store.commit(&lease, batch));
        for committed in futures::future::join_all(commits).await {
            committed.unwrap();
        }
        let newest = vec![version(4).to_string(); rows.clone().count()];
        for (table, column) in [
            ("messages", "text"),
            ("contacts", "first"),
            ("conversations", "name"),
            ("conversation_members", "name"),
        ] {
            assert_eq!(database.texts(table, column).await, newest, "{table} in round {round}");
        }
    }
    database.drop().await;
}

/// A version of one of four rows: `(id, version, content, embedded)`.
type Seen = (i64, Option<i64>, u8, bool);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_order_each_row_ends_at_its_newest_version(
        batches in prop::collection::vec(
            prop::collection::vec((0..4_i64, prop::option::of(0..4_i64), 0..3_u8, any::<bool>()), 0..8),
            1..6,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ends_at_the_newest(&batches));
    }
}

async fn ends_at_the_newest(batches: &[Vec<Seen>]) {
    let (database, lease) = Database::led().await;
    // Content is the name, and names the only member.
    let mut messages = [const { None::<(Option<i64>, u8)> }; 4];
    let mut conversations = messages;
    for seen in batches {
        let mut batch = Batch::default();
        for (id, version, content, embedded) in seen {
            let name = content.to_string();
            let conversation = Conversation {
                members: vec![member(i64::from(*content), &name)],
                ..conversation(*id, *version, &name)
            };
            let page = if *embedded {
                Rows { embedded: vec![conversation], ..Rows::default() }
            } else {
                Rows { conversations: vec![conversation], ..Rows::default() }
            };
            batch.push(Rows { messages: vec![message(*id, *version, &name)], ..page });

            let held = &mut messages[*id as usize];
            if held.is_none_or(|(held, _)| *version >= held) {
                *held = Some((*version, *content));
            }
        }
        // Within a batch a listed copy is preferred at equality, whichever was read first.
        for pass in [false, true] {
            for (id, version, content, embedded) in seen.iter().filter(|(.., embedded)| *embedded == pass) {
                let held = &mut conversations[*id as usize];
                let wins = |held: Option<i64>| if *embedded { *version > held } else { *version >= held };
                if held.is_none_or(|(held, _)| wins(held)) {
                    *held = Some((*version, *content));
                }
            }
        }
        database.store.commit(&lease, &batch).await.unwrap();
    }
    let found: Vec<(i64, String)> = sqlx::query_as("SELECT id, text FROM heymarket.messages ORDER BY id")
        .fetch_all(database.store.pool())
        .await
        .unwrap();
    assert_eq!(found, newest(&messages));
    // Of embedded copies alone that are equal, which one is kept is open.
    let found: Vec<(i64, String, i64, Option<DateTime<Utc>>)> = sqlx::query_as(
        "SELECT c.id, c.name, m.id, c.updated FROM heymarket.conversations c
         LEFT JOIN heymarket.conversation_members m ON m.conversation_id = c.id ORDER BY c.id",
    )
    .fetch_all(database.store.pool())
    .await
    .unwrap();
    for (id, name, member, updated) in &found {
        assert_eq!(*name, member.to_string(), "members of conversation {id}");
        let (version, content) = conversations[*id as usize].expect("only rows that were seen are held");
        assert_eq!(*updated, version.map(at), "conversation {id}");
        let listed = batches.iter().flatten().any(|row| (row.0, row.1, row.3) == (*id, version, false));
        if listed {
            assert_eq!(*name, content.to_string(), "conversation {id}");
        }
    }
    assert_eq!(found.len(), conversations.iter().flatten().count());
    database.drop().await;
}

fn newest(held: &[Option<(Option<i64>, u8)>]) -> Vec<(i64, String)> {
    held.iter().zip(0..).filter_map(|(held, id)| held.map(|(_, content)| (id, content.to_string()))).collect()
}
