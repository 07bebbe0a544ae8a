//! Sessions with the database, and how they plan.

use heymarket_sync::api::model::{Contact, Conversation};
use heymarket_sync::store::{Batch, connect};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, Executor, PgConnection};

use crate::Database;
use crate::rows::{contact, conversation, member, message, note};

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
