//! Sessions by way of PgBouncer.

use heymarket_sync::store::{StoreError, connect};
use secrecy::SecretString;

use crate::Database;
use crate::support::pgbouncer::PgBouncer;

/// What must be in force in a session, whoever had it before.
async fn guards(store: &heymarket_sync::store::Store) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT current_setting(s) FROM unnest(ARRAY['lock_timeout', 'statement_timeout',
         'idle_in_transaction_session_timeout', 'jit', 'TimeZone', 'default_transaction_isolation']) s",
    )
    .fetch_all(store.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn the_guards_are_in_force_in_a_session_that_another_client_had() {
    let database = Database::migrated().await;
    let Some(bouncer) = PgBouncer::before(database.held.url(), "session").await else { return };
    let url = SecretString::from(bouncer.url(database.held.url()));
    for holder in ["first", "second"] {
        let store = connect(&url, 4).await.unwrap();
        assert_eq!(guards(&store).await, ["3s", "1min", "2s", "off", "UTC", "read committed"], "{holder}");
        let lease = store.acquire_lease(holder).await.unwrap().unwrap();
        store.renew_lease(&lease).await.unwrap();
        store.release_lease(&lease).await.unwrap();
        // The next one gets these sessions of the server.
        store.close().await;
    }
    database.drop().await;
}

#[tokio::test]
async fn poolers_of_transactions_and_statements_are_recognised() {
    let database = Database::migrated().await;
    for mode in ["transaction", "statement"] {
        let Some(bouncer) = PgBouncer::before(database.held.url(), mode).await else { return };
        let url = SecretString::from(bouncer.url(database.held.url()));
        let error = connect(&url, 4).await.unwrap_err();
        assert!(matches!(error, StoreError::Pooled { .. }), "{mode}: {error:?}");
    }
    database.drop().await;
}
