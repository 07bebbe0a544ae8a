//! The schema: made, brought up to date, refused, explained.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use heymarket_sync::store::{SchemaState, Store, StoreError, connect};
use secrecy::SecretString;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::Database;
use crate::support::relay::Relay;

/// How long a reader may wait behind a migration: the bound on the migration's own waiting, and the time of a busy
/// machine.
const READER: Duration = Duration::from_secs(15);
/// How long the silence of the server may be borne: 60 s, and the time of a busy machine.
const SILENT: Duration = Duration::from_secs(100);

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
    assert!(server.can_create && !server.in_recovery && !server.read_only);
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

/// As an older program left it: this version is the last.
async fn migrate_to(version: i64, url: &str) {
    let migrations = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"));
    let mut migrator = Migrator::new(migrations).await.unwrap();
    migrator.migrations = Cow::Owned(
        migrator.migrations.iter().filter(|migration| migration.version <= version).cloned().collect(),
    );
    migrator.dangerous_set_table_name("heymarket_sync._migrations");
    migrator.create_schema("heymarket_sync");
    let pool = PgPool::connect(url).await.unwrap();
    migrator.run(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_migration_that_waits_for_a_reader_does_not_hold_up_others() {
    let database = Database::empty().await;
    migrate_to(7, database.held.url()).await;
    let mut reader = PgConnection::connect(database.held.url()).await.unwrap();
    let mut other = PgConnection::connect(database.held.url()).await.unwrap();
    let mut control = PgConnection::connect(database.held.url()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    reading.execute("SELECT count(*) FROM heymarket.conversations").await.unwrap();
    let migration = tokio::spawn({
        let store: Store = database.store.clone();
        async move { store.migrate().await }
    });
    for round in 0..2 {
        let waits = async |control: &mut PgConnection| -> bool {
            let waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted
                           AND relation = 'heymarket.conversations'::regclass";
            sqlx::query_scalar(waiting).fetch_one(control).await.unwrap()
        };
        let look = async {
            while !waits(&mut control).await {
                assert!(!migration.is_finished(), "the migration does not wait for the reader");
            }
        };
        tokio::time::timeout(READER, look).await.expect("a migration that waits");
        let read = other.execute("SELECT count(*) FROM heymarket.conversations");
        tokio::time::timeout(READER, read)
            .await
            .unwrap_or_else(|_| panic!("round {round}: held up"))
            .unwrap();
    }
    reading.commit().await.unwrap();
    migration.await.unwrap().unwrap();
    assert_eq!(database.store.schema_state().await.unwrap(), SchemaState::Current);
    database.drop().await;
}

/// The server never gets the statement, or its answer is lost: another session sees that it is not at work.
#[tokio::test]
async fn a_migration_whose_session_falls_silent_is_given_up() {
    let database = Database::empty().await;
    migrate_to(7, database.held.url()).await;
    let relay = Relay::to(database.held.url()).await;
    let store = connect(&SecretString::from(relay.url(database.held.url())), 4).await.unwrap();
    relay.swallow(Some("ALTER TABLE heymarket.conversations"));
    let error = tokio::time::timeout(SILENT, store.migrate()).await.expect("an end").unwrap_err();
    assert!(matches!(error, StoreError::Migrate { .. }) && error.is_transient(), "{error:?}");
    relay.swallow(None);
    store.migrate().await.unwrap();
    assert_eq!(store.schema_state().await.unwrap(), SchemaState::Current);
    store.close().await;
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
