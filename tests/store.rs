//! The store on a real PostgreSQL.

mod support;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use compact_str::CompactString;
use heymarket_sync::{
    api::model::{Contact, Conversation, Json, Member, Message, Note, Reject, Rows, Stream, Version},
    interval::Interval,
    store::{
        Batch, Committed, Lease, LineKey, STANDING, SchemaState, Store, StoreError, Tally, UNDECIDED, connect,
    },
};
use proptest::prelude::*;
use rustix::process::Signal;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use support::database::{TestDatabase, database, empty_database};
use support::server::TestServer;

#[tokio::test]
async fn a_new_database_is_empty_then_current() {
    let database = Database::empty().await;
    let store = &database.store;
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Empty);
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    assert_eq!(store.migrate().await.unwrap(), files);
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
    assert_eq!(store.migrate().await.unwrap(), 0);
    let server = store.check_server().await.unwrap();
    assert!(server.version_num >= 140_000);
    assert!(server.can_create && !server.in_recovery);
    database.drop().await;
}

#[tokio::test]
async fn programs_that_start_together_migrate_once() {
    let database = Database::empty().await;
    let store = &database.store;
    let (first, second) = tokio::join!(store.migrate(), store.migrate());
    first.unwrap();
    second.unwrap();
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
    database.drop().await;
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused_untouched() {
    let database = Database::migrated().await;
    let record =
        "INSERT INTO heymarket_sync._migrations (version, description, success, checksum, execution_time)
                  VALUES (9000, 'later', true, '', 0)";
    database.store.pool().execute(record).await.unwrap();
    assert_eq!(database.store.schema_state().await.unwrap(), SchemaState::Newer(9000));
    let error = database.store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::SchemaTooNew { found: 9000, .. }), "{error}");
    assert_eq!(database.store.schema_state().await.unwrap(), SchemaState::Newer(9000));
    database.drop().await;
}

#[tokio::test]
async fn every_table_and_column_bears_a_comment() {
    let database = Database::migrated().await;
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass || coalesce('.' || a.attname, '')
         FROM pg_class c
         JOIN LATERAL (
             SELECT NULL::name AS attname, 0::int2 AS attnum
             UNION ALL
             SELECT attname, attnum FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a ON true
         WHERE c.relnamespace IN ('heymarket'::regnamespace, 'heymarket_sync'::regnamespace)
           AND c.relkind IN ('r', 'v') AND c.relname <> '_migrations'
           AND col_description(c.oid, a.attnum) IS NULL AND (a.attnum > 0 OR obj_description(c.oid) IS NULL)",
    )
    .fetch_all(database.store.pool())
    .await
    .unwrap();
    assert_eq!(bare, Vec::<String>::new());
    database.drop().await;
}

#[tokio::test]
async fn connection_errors_name_the_place_and_the_way_out_but_no_password() {
    let database = Database::empty().await;
    let at = |user: &str, name: &str| {
        let mut url = reqwest::Url::parse(database.held.url()).unwrap();
        url.set_username(user).unwrap();
        url.set_password(Some("hunter2")).unwrap();
        url.set_path(name);
        url.to_string()
    };
    let cases = [
        (at("postgres", "no_such_database"), "createdb no_such_database"),
        ("postgres://postgres:hunter2@127.0.0.1:1/mirror".to_owned(), "start PostgreSQL"),
        ("postgres://postgres:hunter2@%2Fno%2Fsuch%2Fdirectory/mirror".to_owned(), "no such socket"),
        ("mysql://root:hunter2@localhost/mirror".to_owned(), "postgres://"),
        (at("no_such_role", "postgres"), "no_such_role"),
    ];
    for (url, told) in cases {
        let error = connect(&SecretString::from(url.clone()), 2).await.unwrap_err();
        let text =
            format!("{error} {error:?} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(text.contains(told), "{url}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn sessions_cannot_hold_locks_for_long() {
    let database = Database::migrated().await;
    for (setting, value) in [
        ("idle_in_transaction_session_timeout", "2s"),
        ("lock_timeout", "3s"),
        ("application_name", "heymarket-sync"),
    ] {
        let found: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(database.store.pool())
            .await
            .unwrap();
        assert_eq!(found, value, "{setting}");
    }
    database.drop().await;
}

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

#[tokio::test]
async fn coverage_joins_what_touches_and_tells_the_gaps() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let key = line("date", STANDING);
    assert_eq!(store.gaps(&key, span(0, 10)).await.unwrap(), [span(0, 10)], "before the pass began");
    let begun = store.begin_pass(&key, None, None, at(7)).await.unwrap();
    assert_eq!((begun.started_at, begun.wanted_from, begun.wanted_to), (at(7), None, None));
    assert_eq!(begun.covered, []);

    let prove = |intervals: &[Interval]| {
        let proofs = intervals.iter().map(|interval| (key.clone(), *interval)).collect();
        Batch { proofs, ..Batch::default() }
    };
    let cases: [(&[Interval], &[Interval], &[Interval]); 5] = [
        (&[span(2, 4)], &[span(2, 4)], &[span(4, 10), until(2)]),
        (&[span(6, 8), span(4, 5)], &[span(6, 8), span(2, 5)], &[span(8, 10), span(5, 6), until(2)]),
        (&[span(3, 5)], &[span(6, 8), span(2, 5)], &[span(8, 10), span(5, 6), until(2)]),
        (&[until(1)], &[span(6, 8), span(2, 5), until(1)], &[span(8, 10), span(5, 6), span(1, 2)]),
        (&[span(1, 2), span(5, 20)], &[until(20)], &[]),
    ];
    for (proved, covered, gaps) in cases {
        store.commit(&lease, &prove(proved)).await.unwrap();
        assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, covered, "after {proved:?}");
        assert_eq!(store.gaps(&key, until(10)).await.unwrap(), gaps, "after {proved:?}");
    }

    assert_eq!(store.withdraw(&key, span(5, 30), "a hole").await.unwrap(), [span(5, 20)]);
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, [until(5)]);
    assert_eq!(store.withdraw(&key, span(5, 30), "again").await.unwrap(), []);
    assert_eq!(store.gaps(&key, span(3, 7)).await.unwrap(), [span(5, 7)]);
    database.drop().await;
}

#[tokio::test]
async fn a_pass_goes_on_where_it_was_and_leaves_the_others_alone() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let (standing, recheck) = (line("date", STANDING), line("date", "recheck 2d"));
    store.begin_pass(&standing, None, None, at(1)).await.unwrap();
    store.begin_pass(&recheck, Some(at(2)), Some(at(9)), at(9)).await.unwrap();
    let batch = Batch { proofs: vec![(recheck.clone(), span(5, 9))], ..Batch::default() };
    store.commit(&lease, &batch).await.unwrap();

    let again = store.begin_pass(&recheck, Some(at(4)), Some(at(20)), at(20)).await.unwrap();
    assert_eq!((again.wanted_from, again.wanted_to, again.started_at), (Some(at(2)), Some(at(9)), at(9)));
    assert_eq!(again.covered, [span(5, 9)]);
    let standing_again = store.begin_pass(&standing, Some(at(3)), None, at(30)).await.unwrap();
    assert_eq!((standing_again.wanted_from, standing_again.started_at), (Some(at(3)), at(1)));
    assert_eq!(standing_again.covered, []);

    store.restart_pass(&recheck, Some(at(4)), Some(at(20)), at(20)).await.unwrap();
    let fresh = store.pass(&recheck).await.unwrap().unwrap();
    assert_eq!((fresh.wanted_from, fresh.wanted_to, fresh.started_at), (Some(at(4)), Some(at(20)), at(20)));
    assert_eq!(fresh.covered, []);

    assert_eq!(store.coverage().await.unwrap().len(), 2);
    store.end_pass(&lease, &recheck).await.unwrap();
    store.end_pass(&lease, &standing).await.unwrap();
    assert_eq!(store.pass(&recheck).await.unwrap(), None);
    assert!(store.pass(&standing).await.unwrap().is_some(), "the standing pass never ends");
    store.commit(&lease, &batch).await.unwrap();
    assert_eq!(store.pass(&recheck).await.unwrap(), None, "a late proof of a pass that ended is dropped");

    let error = store.begin_pass(&recheck, Some(at(4)), Some(at(4)), at(9)).await.unwrap_err();
    assert!(matches!(error, StoreError::EmptyWindow { .. }), "{error}");
    database.drop().await;
}

#[tokio::test]
async fn one_leads_until_it_lets_go_or_falls_silent() {
    let database = Database::migrated().await;
    let store = &database.store;
    assert_eq!(store.leader().await.unwrap(), None);
    let first = store.acquire_lease("first").await.unwrap().unwrap();
    assert_eq!(store.leader().await.unwrap().unwrap().holder, "first");
    assert_eq!(store.acquire_lease("second").await.unwrap().unwrap_err().holder, "first");
    store.renew_lease(&first).await.unwrap();

    database.void_lease().await;
    assert_eq!(store.leader().await.unwrap(), None);
    store.renew_lease(&first).await.unwrap();
    assert_eq!(store.leader().await.unwrap().unwrap().holder, "first", "nobody took over: it holds again");

    database.void_lease().await;
    let second = store.acquire_lease("second").await.unwrap().unwrap();
    assert!(second.epoch() > first.epoch());
    assert!(matches!(store.renew_lease(&first).await, Err(StoreError::LeadLost)));
    store.release_lease(&first).await.unwrap();
    assert_eq!(store.leader().await.unwrap().unwrap().holder, "second", "a former leader frees nothing");

    store.release_lease(&second).await.unwrap();
    assert_eq!(store.leader().await.unwrap(), None);
    assert_eq!(store.acquire_lease("third").await.unwrap().unwrap().holder(), "third");
    database.drop().await;
}

#[tokio::test]
async fn a_lead_ends_with_its_server() {
    let server = TestServer::start().await;
    let url = SecretString::from(server.database().url());
    let store = connect(&url, 8).await.unwrap();
    store.migrate().await.unwrap();
    let mut lease = store.acquire_lease("first").await.unwrap().unwrap();
    let key = line("date", STANDING);
    store.begin_pass(&key, None, None, at(0)).await.unwrap();
    let batch = Batch { messages: vec![message(1, Some(1), "a")], ..Batch::default() };
    let settled = async |lease: Lease| loop {
        match store.commit(&lease, &batch).await {
            Err(error) if error.is_transient() => {}
            outcome => return outcome,
        }
    };
    settled(lease.clone()).await.unwrap();

    for mishap in ["a crash", "a stop", "a kill"] {
        match mishap {
            "a crash" => server.crash().await,
            "a stop" => server.kill(Signal::INT).await,
            _ => server.kill(Signal::KILL).await,
        }
        let restarted = |outcome| matches!(outcome, Err(StoreError::ServerRestarted));
        assert!(restarted(settled(lease.clone()).await.map(|_| ())), "{mishap}");
        assert!(restarted(store.end_pass(&lease, &key).await), "{mishap}");
        assert!(restarted(store.end_line(&lease, key.stream, &key.line).await), "{mishap}");
        assert!(store.pass(&key).await.unwrap().is_some(), "{mishap}");

        store.release_lease(&lease).await.unwrap();
        lease = store.acquire_lease("first").await.unwrap().unwrap();
        settled(lease.clone()).await.unwrap();
    }
    store.close().await;
    server.stop().await;
}

#[tokio::test]
async fn of_many_that_stand_by_one_takes_over() {
    let database = Database::migrated().await;
    let store = &database.store;
    store.acquire_lease("dead").await.unwrap().unwrap();
    database.void_lease().await;
    let tries =
        (0..8).map(|number| async move { store.acquire_lease(&format!("standby {number}")).await.unwrap() });
    let taken = futures::future::join_all(tries).await;
    assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 1);
    database.drop().await;
}

#[tokio::test]
async fn a_former_leader_commits_nothing() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let key = line("date", STANDING);
    store.begin_pass(&key, None, None, at(0)).await.unwrap();
    database.void_lease().await;
    let successor = store.acquire_lease("successor").await.unwrap().unwrap();
    let batch = Batch {
        messages: vec![message(1, Some(1), "a")],
        conversations: vec![whole_conversation()],
        contacts: vec![whole_contact()],
        rejects: vec![reject("9", "bad")],
        proofs: vec![(key.clone(), span(0, 5))],
        ..Batch::default()
    };
    assert!(matches!(store.commit(&lease, &batch).await, Err(StoreError::LeadLost)));
    assert_eq!(database.places().await, Vec::<String>::new());
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, []);
    assert!(store.open_rejects().await.unwrap().is_empty());

    store.commit(&successor, &batch).await.unwrap();
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, [span(0, 5)]);
    database.drop().await;
}

#[tokio::test]
async fn a_takeover_waits_for_a_commit_and_a_renewal_does_not() {
    let (database, lease) = Database::led().await;
    // Holds a commit up after all its statements, the check of the lead included.
    let mut control = PgConnection::connect(database.held.url()).await.unwrap();
    sqlx::raw_sql(
        "CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON heymarket.messages
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.hold_up();
         SELECT pg_advisory_lock(1)",
    )
    .execute(&mut control)
    .await
    .unwrap();
    let batch = Batch { messages: vec![message(1, None, "a")], ..Batch::default() };
    let commit = tokio::spawn({
        let (store, lease) = (database.store.clone(), lease.clone());
        async move { store.commit(&lease, &batch).await }
    });
    while waiting(&mut control).await < 1 {
        assert!(!commit.is_finished(), "the commit was not held up");
    }
    database.store.renew_lease(&lease).await.unwrap();
    database.void_lease().await;
    let takeover = tokio::spawn({
        let store = database.store.clone();
        async move { store.acquire_lease("successor").await }
    });
    while waiting(&mut control).await < 2 {
        assert!(!takeover.is_finished(), "the takeover did not wait for the commit");
    }
    control.execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    commit.await.unwrap().unwrap();
    assert_eq!(takeover.await.unwrap().unwrap().unwrap().holder(), "successor");
    assert_eq!(database.texts("messages", "text").await, ["a"]);
    control.close().await.unwrap();
    database.drop().await;
}

/// How many sessions of this database wait for a lock.
async fn waiting(control: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .fetch_one(control)
    .await
    .unwrap()
}

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
        sqlx::query_as("SELECT source_id, times, payload FROM heymarket_sync.rejects ORDER BY times")
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert_eq!(times, [(Some("7".to_owned()), 2, b"{\x00\xff}".to_vec()), (None, 4, b"[1]".to_vec())]);
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
async fn what_was_proved_since_the_last_confirmation_can_be_withdrawn() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let key = line("date", STANDING);
    store.begin_pass(&key, None, None, at(100)).await.unwrap();
    let prove = async |interval| {
        let batch = Batch { proofs: vec![(key.clone(), interval)], ..Batch::default() };
        store.commit(&lease, &batch).await.unwrap();
    };
    prove(span(40, 60)).await;
    store.confirm(&key).await.unwrap();
    prove(span(20, 50)).await;
    prove(span(60, 70)).await;
    let withdrawn = store.withdraw_unconfirmed(&key, "another reading").await.unwrap();
    assert_eq!(withdrawn, [span(60, 70), span(20, 40)]);
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, [span(40, 60)]);
    assert_eq!(store.withdraw_unconfirmed(&key, "again").await.unwrap(), []);
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

#[tokio::test]
async fn a_commit_never_scans_a_whole_table() {
    let database = Database::migrated().await;
    let url = SecretString::from(database.held.url());
    // Vacuumed while empty, the tables look as if a scan were the cheapest way to find a row.
    database.store.pool().execute("VACUUM ANALYZE").await.unwrap();
    database.store.close().await;
    let mut control = PgConnection::connect(url.expose_secret()).await.unwrap();
    let before = scans(&mut control).await;

    let store = connect(&url, 1).await.unwrap();
    let lease = store.acquire_lease("test").await.unwrap().unwrap();
    // More often than PostgreSQL plans a statement for its parameters.
    for round in 0..10 {
        let (id, name) = (round / 2, round.to_string());
        let batch = Batch {
            messages: vec![message(id, Some(round), &name)],
            conversations: vec![Conversation {
                members: vec![member(round, &name)],
                ..conversation(id, Some(round), &name)
            }],
            contacts: vec![Contact {
                notes: vec![note(round, &name)],
                ..contact(id, None, Some(round), &name)
            }],
            ..Batch::default()
        };
        store.commit(&lease, &batch).await.unwrap();
    }
    store.close().await;
    assert_eq!(scans(&mut control).await, before);
    control.close().await.unwrap();
    database.drop().await;
}

/// How often each table of the mirror was scanned as a whole, once every other session has ended and with
/// that reported.
async fn scans(control: &mut PgConnection) -> Vec<(String, i64)> {
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *control).await.unwrap() > 0 {}
    sqlx::query_as(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'heymarket' ORDER BY relname",
    )
    .fetch_all(control)
    .await
    .unwrap()
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

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap() + TimeDelta::microseconds(1)
}

fn span(start: i64, end: i64) -> Interval {
    Interval::new(Some(at(start)), at(end)).unwrap()
}

fn until(end: i64) -> Interval {
    Interval::new(None, at(end)).unwrap()
}

fn line(line: &str, pass: &str) -> LineKey {
    LineKey { stream: Stream::Messages, line: line.to_owned(), pass: pass.to_owned() }
}

fn some(text: &str) -> Option<CompactString> {
    Some(text.into())
}

fn json(text: &str) -> Option<Json> {
    Some(Json(text.to_owned()))
}

fn message(id: i64, version: Option<i64>, text: &str) -> Message {
    Message { id, updated: version.map(at), text: some(text), ..Message::default() }
}

fn conversation(id: i64, version: Option<i64>, name: &str) -> Conversation {
    Conversation { id, updated: version.map(at), name: some(name), ..Conversation::default() }
}

fn contact(id: i64, rev: Option<i64>, version: Option<i64>, first: &str) -> Contact {
    Contact { id, rev, updated: version.map(at), first: some(first), ..Contact::default() }
}

fn member(id: i64, name: &str) -> Member {
    Member { id, name: some(name) }
}

fn note(id: i64, text: &str) -> Note {
    Note { id: id.to_string().into(), text: some(text), ..Note::default() }
}

fn reject(source_id: &str, reason: &str) -> Reject {
    Reject {
        stream: Stream::Messages,
        source_id: Some(source_id.to_owned()),
        version: Version::default(),
        partial: true,
        reason: reason.to_owned(),
        payload: Bytes::from_static(b"{\x00\xff}"),
    }
}

fn whole_message() -> Message {
    Message {
        id: 1,
        conversation_id: Some(2),
        author: some("au"),
        broadcast_id: Some(3),
        custom: json(r#"{"a":1}"#),
        date: Some(at(11)),
        flagged: Some(true),
        link_url: some("li"),
        local_id: some("lo"),
        media: some("me"),
        phone: some("ph"),
        status: some("st"),
        super_: Some(4),
        support: Some(false),
        target: some("ta"),
        text: some("te"),
        type_: some("ty"),
        updated: Some(at(12)),
        user_id: Some(5),
        extra: json(r#"{"x":[]}"#),
        raw: Bytes::new(),
    }
}

fn whole_conversation() -> Conversation {
    Conversation {
        id: 1,
        assigned: Some(2),
        blocked: Some(true),
        channel: some("ch"),
        created: Some(at(11)),
        creator: Some(3),
        email_noti: Some(false),
        inbox: Some(4),
        last_inbound: Some(5),
        local_id: some("lo"),
        muted: Some(true),
        name: some("na"),
        noreply: some("no"),
        op: some("op"),
        read: Some(6),
        replied: Some(false),
        snooze_till: Some(at(12)),
        status: some("st"),
        super_: Some(7),
        support: Some(true),
        target: some("ta"),
        type_: some("ty"),
        updated: Some(at(13)),
        members: vec![member(8, "mo")],
        extra: json(r#"{"x":1}"#),
        raw: Bytes::new(),
    }
}

fn whole_contact() -> Contact {
    Contact {
        id: 1,
        avatar: some("av"),
        created: Some(at(11)),
        creator_id: Some(2),
        custom: json(r#"{"7":"v"}"#),
        display_name: some("di"),
        email: some("em"),
        external_id: some("ei"),
        external_ref: some("er"),
        first: some("fi"),
        inbox_id: Some(3),
        last: some("la"),
        op: some("op"),
        parent_id: Some(4),
        phone: some("ph"),
        rev: Some(5),
        shared: Some(true),
        team_id: Some(6),
        type_: some("ty"),
        updated: Some(at(12)),
        assigned_user_id: Some(7),
        tags: json(r#"["t"]"#),
        is_opted_out: Some(false),
        notes: vec![Note {
            id: "n1".into(),
            date: Some(at(14)),
            name: some("nn"),
            text: some("nt"),
            user_id: Some(9),
        }],
        extra: json(r#"{"x":2}"#),
        raw: Bytes::new(),
    }
}

/// A database of its own for a test.
struct Database {
    held: TestDatabase,
    store: Store,
}

impl Database {
    async fn empty() -> Self {
        Self::on(empty_database().await).await
    }

    async fn migrated() -> Self {
        Self::on(database().await).await
    }

    async fn on(held: TestDatabase) -> Self {
        let store = connect(&SecretString::from(held.url()), 8).await.unwrap();
        Self { held, store }
    }

    async fn led() -> (Self, Lease) {
        let database = Self::migrated().await;
        let lease = database.store.acquire_lease("test").await.unwrap().unwrap();
        (database, lease)
    }

    async fn drop(self) {
        self.store.close().await;
    }

    /// Lets the lease run out, as if its holder had fallen silent.
    async fn void_lease(&self) {
        let void = "UPDATE heymarket_sync.lease SET expires_at = clock_timestamp() - interval '1 ms'";
        self.store.pool().execute(void).await.unwrap();
    }

    /// The only row of a table, times as seconds of [`at`].
    async fn row(&self, table: &str) -> serde_json::Value {
        let select = format!("SELECT to_jsonb(t) - '_synced_at' FROM heymarket.{table} t");
        let mut row: serde_json::Value =
            sqlx::query_scalar(AssertSqlSafe(select)).fetch_one(self.store.pool()).await.unwrap();
        for value in row.as_object_mut().unwrap().values_mut() {
            if let Some(time) = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()) {
                *value = (time.to_utc() - at(0)).num_seconds().into();
            }
        }
        row
    }

    /// A text column of a table, by id.
    async fn texts(&self, table: &str, column: &str) -> Vec<String> {
        let select = format!("SELECT {column} FROM heymarket.{table} ORDER BY id");
        sqlx::query_scalar(AssertSqlSafe(select)).fetch_all(self.store.pool()).await.unwrap()
    }

    /// Where each row of the mirror lies, which transaction wrote it or locked it, and when.
    async fn places(&self) -> Vec<String> {
        let mut places = Vec::new();
        for (table, written) in [
            ("messages", "_synced_at"),
            ("conversations", "_synced_at"),
            ("contacts", "_synced_at"),
            ("conversation_members", "NULL"),
            ("contact_notes", "NULL"),
        ] {
            let select = format!(
                "SELECT format('%s %s %s %s %s', '{table}', ctid, xmin, xmax, {written}) AS place
                 FROM heymarket.{table} ORDER BY 1"
            );
            let rows = self.store.pool().fetch_all(AssertSqlSafe(select)).await.unwrap();
            places.extend(rows.iter().map(|row| row.get::<String, _>("place")));
        }
        places
    }
}
