//! Which copy of a row stays, in whatever order and batches they come.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use heymarket_sync::api::lenient::read_page;
use heymarket_sync::api::model::{Conversation, Rows, Stream, TimeField, Version};
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
        ("equal, read later", Some(5), "d", 1, "d"),
        ("newer", Some(6), "e", 1, "e"),
        ("none, read later", None, "f", 1, "f"),
        ("none again", None, "g", 1, "g"),
        ("over none, read later", Some(5), "h", 1, "h"),
        ("older than that", Some(4), "i", 0, "h"),
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
async fn a_contacts_revision_comes_before_its_time_where_both_copies_have_one() {
    let (database, lease) = Database::led().await;
    let cases = [
        (Some(2), Some(5), "a", "a"),
        (Some(1), Some(9), "b", "a"),
        (Some(3), Some(1), "c", "c"),
        (Some(3), Some(1), "d", "d"),
        (Some(3), Some(0), "e", "d"),
        (Some(3), None, "f", "f"),
        (Some(2), Some(99), "g", "f"),
        (Some(3), Some(0), "h", "h"),
        (None, Some(-1), "i", "h"),
        (None, Some(0), "j", "j"),
        (Some(1), Some(-1), "k", "j"),
        (Some(1), Some(1), "l", "l"),
        (None, None, "m", "m"),
        (Some(-9), None, "n", "n"),
    ];
    for (rev, updated, first, kept) in cases {
        let batch = Batch { contacts: vec![contact(1, rev, updated, first)], ..Batch::default() };
        database.store.commit(&lease, &batch).await.unwrap();
        assert_eq!(database.texts("contacts", "first").await, [kept], "{first}: {rev:?} {updated:?}");
    }
    database.drop().await;
}

#[tokio::test]
async fn a_contact_whose_revision_cannot_be_read_does_not_freeze() {
    let (database, lease) = Database::led().await;
    let read = |rev: &str, second: u32, first: &str| {
        let row = format!(
            r#"[{{"id":1,"rev":{rev},"updated":"2024-05-01T00:00:{second:02}Z","first":"{first}"}}]"#
        );
        read_page(Stream::Contacts, TimeField::Updated, &row.into()).unwrap()
    };
    for (page, kept, open) in [
        (read("5", 1, "a"), "a", 0),
        (read(r#""x""#, 2, "b"), "b", 1),
        (read("[7]", 3, "c"), "c", 1),
        (read(r#""x""#, 2, "b"), "c", 1),
        (read("8", 4, "d"), "d", 0),
    ] {
        let mut batch = Batch::default();
        batch.push(page);
        database.store.commit(&lease, &batch).await.unwrap();
        assert_eq!(database.texts("contacts", "first").await, [kept]);
        let rejects = database.store.open_rejects().await.unwrap();
        assert_eq!(rejects.get(&Stream::Contacts).copied().unwrap_or(0), open, "{kept}");
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
        ("none: not known to be newer", None, "x", "d"),
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

/// A copy of one of three rows: its id, `rev`, `updated`, and whether it came embedded.
type Copy = (usize, Option<i64>, Option<i64>, bool);

/// How two versions compare, straight from the contract; `None` where nothing decides or they are equal.
fn is_newer(one: &Copy, other: &Copy) -> Option<bool> {
    let differ = |one: Option<i64>, other: Option<i64>| match (one, other) {
        (Some(one), Some(other)) if one != other => Some(one > other),
        _ => None,
    };
    differ(one.1, other.1).or(differ(one.2, other.2))
}

/// The copies that are left of each row when `copies` are read one by one; each is named by its place.
fn read_one_by_one<'a>(
    copies: impl IntoIterator<Item = (usize, &'a Copy)>,
) -> BTreeMap<usize, (usize, &'a Copy)> {
    let mut held = BTreeMap::<_, (usize, &Copy)>::new();
    for (place, copy) in copies {
        let replaces = held.get(&copy.0).is_none_or(|held| is_newer(copy, held.1).unwrap_or(!copy.3));
        if replaces {
            held.insert(copy.0, (place, copy));
        }
    }
    held
}

/// Writes `batches` of copies as contacts, messages and conversations, and compares what is held with the model: however
/// copies are put together, the mirror ends as if each had been written alone.
async fn ends_as_if_read_one_by_one(batches: &[Vec<Copy>]) {
    let (database, lease) = Database::led().await;
    let mut place = 0;
    // Contacts have both parts of a version, the others one. Within a batch, embedded conversations count as read last.
    let mut all: [Vec<(usize, Copy)>; 3] = Default::default();
    for copies in batches {
        let mut batch = Batch::default();
        let mut last = Vec::new();
        for copy in copies {
            let (id, rev, updated, embedded) = *copy;
            place += 1;
            let (name, row) = (place.to_string(), id as i64);
            let mut page = Rows {
                contacts: vec![contact(row, rev, updated, &name)],
                messages: vec![message(row, updated, &name)],
                ..Rows::default()
            };
            let members = vec![member(place as i64, &name)];
            let conversation = Conversation { members, ..conversation(row, updated, &name) };
            if embedded {
                page.embedded.push(conversation)
            } else {
                page.conversations.push(conversation)
            }
            batch.push(page);
            all[0].push((place, (id, rev, updated, false)));
            all[1].push((place, (id, None, updated, false)));
            let of_conversations = if embedded { &mut last } else { &mut all[2] };
            of_conversations.push((place, (id, None, updated, embedded)));
        }
        all[2].extend(last);
        database.store.commit(&lease, &batch).await.unwrap();
    }
    for ((table, column), copies) in
        [("contacts", "first"), ("messages", "text"), ("conversations", "name")].into_iter().zip(&all)
    {
        let held = read_one_by_one(copies.iter().map(|(place, copy)| (*place, copy)));
        let names: Vec<String> = held.values().map(|(place, _)| place.to_string()).collect();
        assert_eq!(database.texts(table, column).await, names, "{table}");
        if table == "conversations" {
            assert_eq!(database.texts("conversation_members", "name").await, sorted(names), "members");
        }
    }
    database.drop().await;
}

/// In the order of the members' ids, which are numbers that grow with time.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| name.parse::<i64>().unwrap());
    names
}

fn copies() -> impl Strategy<Value = Vec<Vec<Copy>>> {
    let part = || prop::option::weighted(0.7, 0..4_i64);
    let copy = (0..3_usize, part(), part(), any::<bool>());
    prop::collection::vec(prop::collection::vec(copy, 0..8), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 300, ..ProptestConfig::default() })]
    #[test]
    fn batches_end_as_if_each_copy_were_written_alone(batches in copies()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ends_as_if_read_one_by_one(&batches));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// Where a part of the version can be read in all copies, the order of reading does not matter: the greatest stays.
    #[test]
    fn in_any_order_the_greatest_part_that_all_copies_have_stays(
        seen in prop::collection::vec((prop::option::of(0..4_i64), prop::option::of(0..4_i64)), 1..8),
        with_rev in any::<bool>(),
    ) {
        // Either every copy has a `rev`, or none has one and all have a time.
        let copies: Vec<Copy> = seen.iter().map(|(rev, updated)| match with_rev {
            true => (0, rev.or(Some(0)), *updated, false),
            false => (0, None, updated.or(Some(0)), false),
        }).collect();
        let kept = *read_one_by_one(copies.iter().enumerate())[&0].1;
        prop_assert_eq!(kept.1, copies.iter().map(|copy| copy.1).max().unwrap());
        if !with_rev {
            prop_assert_eq!(kept.2, copies.iter().map(|copy| copy.2).max().unwrap());
        }
    }

    /// Of a source whose `updated` grows with `rev`, the newest version stays in any order, whichever parts of a version
    /// cannot be read, as long as two copies always have one in common.
    #[test]
    fn of_a_source_that_does_not_contradict_itself_the_newest_stays(
        seen in prop::collection::vec((0..6_i64, any::<bool>()), 1..10),
    ) {
        let copies: Vec<Copy> =
            seen.iter().map(|(version, rev)| (0, rev.then_some(*version), Some(10 * version), false)).collect();
        let (place, kept) = read_one_by_one(copies.iter().enumerate())[&0];
        let newest = copies.iter().map(|copy| copy.2).max().unwrap();
        prop_assert_eq!(kept.2, newest);
        prop_assert!(copies[place + 1..].iter().all(|copy| copy.2 < newest), "of equal copies the last stays");
    }

    /// Whatever the copies, the one that is left is no older than the one read last.
    #[test]
    fn the_copy_read_last_is_never_newer_than_what_is_held(
        seen in prop::collection::vec((prop::option::of(0..4_i64), prop::option::of(0..4_i64)), 1..8),
    ) {
        let copies: Vec<Copy> = seen.iter().map(|(rev, updated)| (0, *rev, *updated, false)).collect();
        let (_, kept) = read_one_by_one(copies.iter().enumerate())[&0];
        prop_assert_ne!(is_newer(copies.last().unwrap(), kept), Some(true));
    }

    /// The rule in Rust is the model's.
    #[test]
    fn versions_compare_as_the_contract_says(
        one in (prop::option::of(0..4_i64), prop::option::of(0..4_i64)),
        other in (prop::option::of(0..4_i64), prop::option::of(0..4_i64)),
    ) {
        let version = |(rev, updated): (Option<i64>, Option<i64>)| Version { rev, updated: updated.map(at) };
        let expected = is_newer(&(0, one.0, one.1, false), &(0, other.0, other.1, false));
        let found = match version(one).against(version(other)) {
            Ordering::Less => Some(false),
            Ordering::Equal => None,
            Ordering::Greater => Some(true),
        };
        prop_assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn the_rule_in_sql_is_the_rule_in_rust() {
    let database = Database::migrated().await;
    let parts = [None, Some(-1), Some(0), Some(1)];
    let versions: Vec<_> = parts.into_iter().flat_map(|rev| parts.map(|updated| (rev, updated))).collect();
    for (one, held) in versions.iter().flat_map(|one| versions.iter().map(move |held| (one, held))) {
        let compared = is_newer(&(0, one.0, one.1, false), &(0, held.0, held.1, false));
        let found: (bool, bool) = sqlx::query_as(
            "SELECT heymarket_sync.supersedes($1, $2, $3, $4, true), heymarket_sync.supersedes($1, $2, $3, $4, false)",
        )
        .bind(one.0)
        .bind(one.1.map(at))
        .bind(held.0)
        .bind(held.1.map(at))
        .fetch_one(database.store.pool())
        .await
        .unwrap();
        assert_eq!(found, (compared.unwrap_or(true), compared.unwrap_or(false)), "{one:?} over {held:?}");
    }
    database.drop().await;
}
