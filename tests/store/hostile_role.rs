//! What a DBA sets on the role or the database does not matter.

use heymarket_sync::store::{Batch, STANDING, connect};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::Database;
use crate::rows::{at, line, message, span};

/// On the role: what would make sessions wait for ever, end early, or read and write other things.
const HOSTILE: &[(&str, &str)] = &[
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("TimeZone", "Asia/Kolkata"),
    ("DateStyle", "German, DMY"),
    ("IntervalStyle", "iso_8601"),
    ("statement_timeout", "50ms"),
    ("lock_timeout", "10ms"),
    ("idle_in_transaction_session_timeout", "50ms"),
    ("idle_session_timeout", "50ms"),
    ("search_path", "nowhere"),
    ("synchronous_commit", "off"),
    ("jit", "on"),
    ("extra_float_digits", "-15"),
    ("standard_conforming_strings", "off"),
    ("bytea_output", "escape"),
    ("client_encoding", "LATIN1"),
    ("transform_null_equals", "on"),
];

/// What sessions have all the same.
const IN_FORCE: &[(&str, &str)] = &[
    ("default_transaction_isolation", "read committed"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("statement_timeout", "1min"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("idle_session_timeout", "0"),
    ("search_path", "pg_catalog, public"),
    ("synchronous_commit", "on"),
    ("jit", "off"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("transform_null_equals", "off"),
    ("application_name", "heymarket-sync"),
];

#[tokio::test]
async fn settings_of_the_role_and_the_database_do_not_matter() {
    let database = Database::migrated().await;
    let mut control = PgConnection::connect(database.held.url()).await.unwrap();
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut control).await.unwrap();
    let role = format!("{name}_hostile");
    let mut run = async |statement: String| {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut control).await.unwrap();
    };
    run(format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'hostile'")).await;
    for (place, settings) in [("ROLE", HOSTILE), ("DATABASE", &HOSTILE[..5])] {
        let target = if place == "ROLE" { &role } else { &name };
        for (setting, value) in settings {
            let quoted = if value.contains(',') { (*value).to_owned() } else { format!("'{value}'") };
            run(format!("ALTER {place} {target} SET {setting} = {quoted}")).await;
        }
    }
    let mut url = reqwest::Url::parse(database.held.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("hostile")).unwrap();
    let store = connect(&SecretString::from(String::from(url)), 4).await.unwrap();
    let found: Vec<(String, String)> =
        sqlx::query_as("SELECT s, current_setting(s) FROM unnest($1::text[]) s")
            .bind(IN_FORCE.iter().map(|(name, _)| *name).collect::<Vec<_>>())
            .fetch_all(store.pool())
            .await
            .unwrap();
    let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, IN_FORCE);
    sqlx::query("SELECT pg_sleep(0.3)").execute(store.pool()).await.unwrap();

    // A whole round: the sessions that are kept, too.
    let lease = store.acquire_lease("test").await.unwrap().unwrap();
    let key = line("date", STANDING);
    store.begin_pass(&lease, &key, None, None, at(0)).await.unwrap();
    for round in 1..3 {
        let batch = Batch {
            messages: vec![message(1, Some(round), "a \\ b")],
            proofs: vec![(key.clone(), span(0, round))],
            ..Batch::default()
        };
        store.commit(&lease, &batch).await.unwrap();
        store.renew_lease(&lease).await.unwrap();
        // Longer than the role lets a session idle.
        sqlx::query("SELECT pg_sleep(0.1)").execute(store.pool()).await.unwrap();
    }
    assert_eq!(store.pass(&key).await.unwrap().unwrap().covered, [span(0, 2)]);
    assert_eq!(database.texts("messages", "text").await, ["a \\ b"]);
    store.release_lease(&lease).await.unwrap();
    store.close().await;
    database.store.close().await;
    let end = format!("DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut control).await.unwrap();
    control.close().await.unwrap();
}
