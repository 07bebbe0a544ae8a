//! Sessions with the database, and how they plan.

use std::pin::Pin;
use std::time::Duration;

use heymarket_sync::api::model::{Contact, Conversation};
use heymarket_sync::store::{Batch, STANDING, StoreError, connect};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, Executor, PgConnection};

use crate::Database;
use crate::rows::{contact, conversation, line, member, message, note, span};
use crate::support::relay::Relay;

/// How long the silence of the server may be borne: a statement has 65 s.
const SILENT: Duration = Duration::from_secs(90);

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

/// As when the machine of the server vanishes, or a firewall forgets the connection: it does not even end.
#[tokio::test]
async fn no_statement_waits_for_ever() {
    let (database, lease) = Database::led().await;
    let relay = Relay::to(database.held.url()).await;
    let url = SecretString::from(relay.url(database.held.url()));
    let store = connect(&url, 16).await.unwrap();
    let key = line("date", STANDING);
    relay.swallow(Some("heymarket_sync."));
    let silent = async |name: &str, done: Pin<Box<dyn Future<Output = Result<(), StoreError>>>>| {
        let outcome = tokio::time::timeout(SILENT, done).await;
        let error = outcome.unwrap_or_else(|_| panic!("{name} waits")).unwrap_err();
        assert!(error.is_transient(), "{name}: {error:?}");
    };
    let batch = Batch { messages: vec![message(1, Some(1), "a")], ..Batch::default() };
    tokio::join!(
        silent("leader", Box::pin(async { store.leader().await.map(drop) })),
        silent("renew_lease", Box::pin(async { store.renew_lease(&lease).await })),
        silent("asked", Box::pin(async { store.asked().await.map(drop) })),
        silent("schema_state", Box::pin(async { store.schema_state().await.map(drop) })),
        silent("gaps", Box::pin(async { store.gaps(&key, span(0, 1)).await.map(drop) })),
        silent("end_pass", Box::pin(async { store.end_pass(&lease, &key).await })),
        silent("end_run", Box::pin(async { store.end_run(1, "done").await })),
        silent("commit", Box::pin(async { store.commit(&lease, &batch).await.map(drop) })),
    );
    // Those sessions are gone: as many can be had as before.
    relay.swallow(None);
    let again = (0..16).map(|_| store.leader());
    for leader in futures::future::join_all(again).await {
        // Nobody has taken the lead, and nobody renewed it.
        assert_eq!(leader.unwrap(), None);
    }
    store.commit(&lease, &batch).await.unwrap();
    store.close().await;
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

/// How often each table of the mirror with more than one row was scanned as a whole, once every other session has ended and with
/// that reported.
async fn scans(control: &mut PgConnection) -> Vec<(String, i64)> {
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *control).await.unwrap() > 0 {}
    sqlx::query_as(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables
         WHERE schemaname = 'heymarket' AND relname <> 'settled' ORDER BY relname",
    )
    .fetch_all(control)
    .await
    .unwrap()
}
