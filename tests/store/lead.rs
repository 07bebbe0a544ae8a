//! The lease: one leads, and only that one writes.

use heymarket_sync::store::{Batch, Lease, STANDING, StoreError, connect};
use rustix::process::Signal;
use secrecy::SecretString;
use sqlx::{Connection, Executor, PgConnection};

use crate::Database;
use crate::rows::{at, line, message, reject, span, whole_contact, whole_conversation};
use crate::support::server::TestServer;

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

/// The clock of the database's machine was set back, or the database is a copy from another one.
#[tokio::test]
async fn a_lease_from_a_clock_that_ran_ahead_is_void() {
    let database = Database::migrated().await;
    let store = &database.store;
    let first = store.acquire_lease("first").await.unwrap().unwrap();
    let ahead = "UPDATE heymarket_sync.lease SET expires_at = clock_timestamp() + interval '1 hour'";
    store.pool().execute(ahead).await.unwrap();
    assert_eq!(store.leader().await.unwrap(), None);
    assert_eq!(store.status().await.unwrap().leader, None);
    // Its holder, if it lives, has it again at the next renewal.
    store.renew_lease(&first).await.unwrap();
    assert_eq!(store.leader().await.unwrap().unwrap().holder, "first");
    store.pool().execute(ahead).await.unwrap();
    let second = store.acquire_lease("second").await.unwrap().unwrap();
    assert!(second.epoch() > first.epoch());
    assert_eq!(store.leader().await.unwrap().unwrap().holder, "second");
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
    store.begin_pass(&lease, &key, None, None, at(0)).await.unwrap();
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
    store.begin_pass(&lease, &key, None, None, at(0)).await.unwrap();
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
    // Nor does it change what is covered by any other way.
    let lost = |outcome: Result<(), StoreError>, what: &str| {
        assert!(matches!(outcome, Err(StoreError::LeadLost)), "{what}: {outcome:?}");
    };
    let proved = Batch { proofs: vec![(key.clone(), span(6, 9))], ..Batch::default() };
    store.commit(&successor, &proved).await.unwrap();
    let before = store.coverage().await.unwrap();
    let recheck = line("date", "recheck 2d");
    lost(store.begin_pass(&lease, &key, Some(at(1)), None, at(0)).await.map(drop), "begin_pass");
    lost(store.begin_pass(&lease, &recheck, None, None, at(0)).await.map(drop), "begin_pass");
    lost(store.restart_pass(&lease, &recheck, None, None, at(0)).await, "restart_pass");
    lost(store.withdraw(&lease, &key, span(7, 8), "a test").await.map(drop), "withdraw");
    lost(store.confirm(&lease, &key).await, "confirm");
    lost(store.withdraw_unconfirmed(&lease, &key, "a test").await.map(drop), "withdraw_unconfirmed");
    lost(store.end_pass(&lease, &key).await, "end_pass");
    lost(store.end_line(&lease, key.stream, &key.line).await, "end_line");
    assert_eq!(store.coverage().await.unwrap(), before);
    assert_eq!(before.len(), 1);
    let unconfirmed = store.withdraw_unconfirmed(&successor, &key, "a test").await.unwrap();
    assert_eq!(unconfirmed, [span(6, 9)], "it was not confirmed");

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
