//! Reading what is new: a reader that goes by `heymarket.settled_at()` misses nothing and reads nothing twice.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heymarket_sync::api::lenient::read_page;
use heymarket_sync::api::model::{Contact, Conversation, Message, Stream, TimeField};
use heymarket_sync::store::{Batch, Committed, Lease, Store, StoreError, connect};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::task::JoinHandle;

use crate::Database;
use crate::rows::{contact, conversation, member, message, note, reject};
use crate::support::process::reached;
use crate::support::reader::Reader;
use crate::support::server::TestServer;

const SOON: Duration = Duration::from_secs(20);
const READ_COMMITTED: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";
const REPEATABLE_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

fn messages(rows: Vec<Message>) -> Batch {
    Batch { messages: rows, ..Batch::default() }
}

fn texts(ids: &[i64], version: i64, text: &str) -> Batch {
    messages(ids.iter().map(|id| message(*id, Some(version), text)).collect())
}

/// Advances the mark as far as it goes: the first renewal may only learn the time.
async fn advance(store: &Store, lease: &Lease) {
    for _ in 0..3 {
        store.renew_lease(lease).await.unwrap();
    }
}

async fn mark(store: &Store) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT heymarket.settled_at()").fetch_one(store.pool()).await.unwrap()
}

async fn stamp(store: &Store, id: i64) -> Option<DateTime<Utc>> {
    let select = "SELECT _synced_at FROM heymarket.messages WHERE id = $1";
    sqlx::query_scalar(select).bind(id).fetch_optional(store.pool()).await.unwrap()
}

/// Tries until no connection is lost.
async fn again<T>(attempt: impl AsyncFn() -> Result<T, StoreError>) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// As if the clock had stood a day ahead and then stepped back.
async fn step_back(store: &Store) {
    let ahead = "UPDATE heymarket.settled SET settled_at = clock_timestamp() + interval '1 day'";
    store.pool().execute(ahead).await.unwrap();
}

/// Holds up the transactions that write certain messages.
struct Control {
    session: PgConnection,
}

impl Control {
    /// Transactions that insert the message `id` wait until [`Control::release`]: within their work, or as they commit,
    /// after all that they have checked.
    async fn hold(database: &Database, ids: &[i64], committing: bool) -> Self {
        let mut session = PgConnection::connect(database.held.url()).await.unwrap();
        let trigger = if committing {
            "CREATE CONSTRAINT TRIGGER hold_up AFTER INSERT ON heymarket.messages DEFERRABLE INITIALLY DEFERRED"
        } else {
            "CREATE TRIGGER hold_up BEFORE INSERT ON heymarket.messages"
        };
        let held: String = ids.iter().map(|id| format!("SELECT pg_advisory_lock({id});")).collect();
        let setup = format!(
            "CREATE FUNCTION public.hold_up() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
                 'BEGIN PERFORM pg_advisory_xact_lock_shared(NEW.id); RETURN NEW; END';
             {trigger} FOR EACH ROW EXECUTE FUNCTION public.hold_up();
             {held}"
        );
        sqlx::raw_sql(AssertSqlSafe(setup)).execute(&mut session).await.unwrap();
        Self { session }
    }

    /// Returns when so many sessions of the database are held up.
    async fn waits(&mut self, sessions: i64) {
        let session = tokio::sync::Mutex::new(&mut self.session);
        let waiting = async || {
            let count: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
            .fetch_one(&mut **session.lock().await)
            .await
            .unwrap();
            count == sessions
        };
        reached("sessions that are held up", SOON, waiting).await.unwrap();
    }

    async fn release(&mut self, id: i64) {
        let unlocked: bool = sqlx::query_scalar("SELECT pg_advisory_unlock($1)")
            .bind(id)
            .fetch_one(&mut self.session)
            .await
            .unwrap();
        assert!(unlocked);
    }

    async fn now(&mut self) -> DateTime<Utc> {
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&mut self.session).await.unwrap()
    }
}

fn committing(store: &Store, lease: &Lease, batch: Batch) -> JoinHandle<Result<Committed, StoreError>> {
    let (store, lease) = (store.clone(), lease.clone());
    tokio::spawn(async move { store.commit(&lease, &batch).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_miss_nothing_while_many_write() {
    const WRITERS: i64 = 4;
    const ROUNDS: i64 = 40;
    let (database, lease) = Database::led().await;
    let (store, url) = (&database.store, database.held.url());
    let role = format!("reader_{}", std::process::id());
    for sql in [
        format!("CREATE ROLE {role}"),
        format!("GRANT USAGE ON SCHEMA heymarket TO {role}"),
        // Of the three tables alone: the mark needs no right of its own.
        format!("GRANT SELECT ON heymarket.messages, heymarket.conversations, heymarket.contacts TO {role}"),
    ] {
        store.pool().execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let mut readers = Vec::new();
    for begin in [READ_COMMITTED, REPEATABLE_READ, READ_COMMITTED] {
        readers.push(Reader::of(url, begin).await);
    }
    readers[2].run(&format!("SET ROLE {role}")).await;

    let over = AtomicBool::new(false);
    let write = |writer: i64| {
        let lease = &lease;
        async move {
            for round in 0..ROUNDS {
                // By COPY and by upsert, rows that are new and rows that others write at the same time.
                let own =
                    (0..60).map(|row| message(1_000 * (writer + 1) + row + 20 * round, Some(round), "own"));
                let shared = (0..5).map(|id| message(id, Some(round), &writer.to_string()));
                let batch = Batch {
                    messages: own.chain(shared).collect(),
                    embedded: (0..3).map(|id| conversation(id, Some(round), "embedded")).collect(),
                    contacts: (0..3).map(|id| contact(id, Some(round), None, &writer.to_string())).collect(),
                    ..Batch::default()
                };
                while let Err(error) = store.commit(lease, &batch).await {
                    assert!(error.is_transient(), "{error}");
                }
            }
        }
    };
    let lead = async {
        while !over.load(Relaxed) {
            store.renew_lease(&lease).await.unwrap();
        }
    };
    let write = async {
        futures::future::join_all((0..WRITERS).map(write)).await;
        over.store(true, Relaxed);
    };
    let read = futures::future::join_all(readers.iter_mut().map(async |reader| {
        while !over.load(Relaxed) {
            reader.look().await.unwrap();
        }
        reader.len()
    }));
    let ((), (), midway) = tokio::join!(lead, write, read);
    store.release_lease(&lease).await.unwrap();
    for (reader, midway) in readers.iter_mut().zip(midway) {
        assert!(midway > 0, "nothing was read before the end");
        reader.look().await.unwrap();
        reader.has_all().await;
    }
    drop(readers);
    for sql in [format!("DROP OWNED BY {role}"), format!("DROP ROLE {role}")] {
        store.pool().execute(AssertSqlSafe(sql)).await.unwrap();
    }
    database.drop().await;
}

#[tokio::test]
async fn the_mark_stays_below_a_transaction_that_is_open() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let mut reader = Reader::of(database.held.url(), READ_COMMITTED).await;
    advance(store, &lease).await;
    let mut control = Control::hold(&database, &[1], false).await;
    let first = committing(store, &lease, texts(&[1], 1, "begun first"));
    control.waits(1).await;
    store.commit(&lease, &texts(&[2], 1, "committed first")).await.unwrap();
    advance(store, &lease).await;
    reader.look().await.unwrap();
    control.release(1).await;
    first.await.unwrap().unwrap();
    assert!(stamp(store, 1).await < stamp(store, 2).await, "stamps are taken as transactions begin");
    advance(store, &lease).await;
    reader.look().await.unwrap();
    assert_eq!(reader.len(), 2);
    reader.has_all().await;
    database.drop().await;
}

#[tokio::test]
async fn a_commit_whose_client_is_gone_holds_the_mark_until_it_is_done() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let mut reader = Reader::of(database.held.url(), READ_COMMITTED).await;
    let mut control = Control::hold(&database, &[1], true).await;
    let first = committing(store, &lease, texts(&[1], 1, "held up"));
    control.waits(1).await;
    // The client gives up and never learns that the server commits all the same.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    store.commit(&lease, &texts(&[2], 1, "later")).await.unwrap();
    advance(store, &lease).await;
    reader.look().await.unwrap();
    assert_eq!(reader.len(), 0);
    control.release(1).await;
    reached("the row", SOON, async || stamp(store, 1).await.is_some()).await.unwrap();
    advance(store, &lease).await;
    reader.look().await.unwrap();
    assert_eq!(reader.len(), 2);
    reader.has_all().await;
    database.drop().await;
}

#[tokio::test]
async fn a_transaction_that_the_mark_has_passed_is_done_again() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    // A leader that knows nothing of the other's transactions.
    let other = connect(&SecretString::from(database.held.url()), 4).await.unwrap();
    let mut control = Control::hold(&database, &[1], false).await;
    let batch = texts(&[1], 1, "late");
    let late = committing(store, &lease, batch.clone());
    control.waits(1).await;
    let begun = control.now().await;
    advance(&other, &lease).await;
    assert!(mark(store).await > begun);
    control.release(1).await;
    let error = late.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Overtaken) && error.is_transient(), "{error}");
    assert_eq!(stamp(store, 1).await, None);
    store.commit(&lease, &batch).await.unwrap();
    assert!(stamp(store, 1).await.unwrap() >= mark(store).await);
    other.close().await;
    database.drop().await;
}

#[tokio::test]
async fn stamps_and_mark_go_on_upwards_when_the_clock_steps_back() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let mut reader = Reader::of(database.held.url(), READ_COMMITTED).await;
    store.commit(&lease, &texts(&[10], 1, "before")).await.unwrap();
    step_back(store).await;
    let ahead = mark(store).await;
    reader.look().await.unwrap();
    let mut control = Control::hold(&database, &[1, 2, 3], false).await;
    let mut open = committing(store, &lease, texts(&[1], 1, "a"));
    control.waits(1).await;
    // Some transaction is open at each moment.
    for id in [2, 3] {
        let next = committing(store, &lease, texts(&[id], 1, "b"));
        control.waits(2).await;
        control.release(id - 1).await;
        open.await.unwrap().unwrap();
        open = next;
        advance(store, &lease).await;
        assert!(stamp(store, id - 1).await.unwrap() >= ahead, "a stamp fell below the mark");
        reader.look().await.unwrap();
        assert_eq!(reader.missed().await, [], "the mark stands still");
    }
    control.release(3).await;
    open.await.unwrap().unwrap();
    store.release_lease(&lease).await.unwrap();
    // Whoever leads next, in another process, goes on from there.
    let other = connect(&SecretString::from(database.held.url()), 4).await.unwrap();
    let next = other.acquire_lease("next").await.unwrap().unwrap();
    other.commit(&next, &texts(&[4, 10], 2, "next")).await.unwrap();
    other.release_lease(&next).await.unwrap();
    assert!(mark(store).await < ahead + TimeDelta::seconds(1), "it goes on from the mark");
    reader.look().await.unwrap();
    reader.has_all().await;
    other.close().await;
    database.drop().await;
}

#[tokio::test]
async fn a_clean_end_leaves_the_mark_above_all_rows() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let mut reader = Reader::of(database.held.url(), REPEATABLE_READ).await;
    for round in 1..4 {
        store.commit(&lease, &texts(&[1, round], round, "row")).await.unwrap();
    }
    store.release_lease(&lease).await.unwrap();
    let newest = stamp(store, 3).await.unwrap();
    assert_eq!(mark(store).await, newest + TimeDelta::microseconds(1));
    reader.look().await.unwrap();
    reader.has_all().await;

    // A former leader moves nothing.
    let next = store.acquire_lease("next").await.unwrap().unwrap();
    store.commit(&next, &texts(&[5], 1, "next")).await.unwrap();
    let before = mark(store).await;
    store.release_lease(&lease).await.unwrap();
    assert!(matches!(store.renew_lease(&lease).await, Err(StoreError::LeadLost)));
    assert_eq!(mark(store).await, before);
    database.drop().await;
}

#[tokio::test]
async fn the_mark_is_as_old_as_the_rows_that_the_statement_sees() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    advance(store, &lease).await;
    let before = mark(store).await;
    let mut control = Control::hold(&database, &[1], true).await;
    let mut session = PgConnection::connect(database.held.url()).await.unwrap();
    let reading = tokio::spawn(async move {
        // The rows come before the mark, and something holds the statement up in between.
        let select = "WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared(1))
                      SELECT heymarket.settled_at(), (SELECT count(*) FROM heymarket.messages) FROM held";
        sqlx::query_as::<_, (DateTime<Utc>, i64)>(select).fetch_one(&mut session).await.unwrap()
    });
    control.waits(1).await;
    store.commit(&lease, &texts(&[2], 1, "meanwhile")).await.unwrap();
    advance(store, &lease).await;
    assert!(mark(store).await > before);
    control.release(1).await;
    assert_eq!(reading.await.unwrap(), (before, 0));
    database.drop().await;
}

#[tokio::test]
async fn a_change_of_members_notes_or_deletion_is_read_as_new() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let mut reader = Reader::of(database.held.url(), READ_COMMITTED).await;
    let conversation = |members| Conversation { members, ..conversation(1, Some(1), "c") };
    let contact = |notes| Contact { notes, ..contact(1, None, Some(1), "c") };
    let whole = |conversation, contact| Batch {
        messages: vec![message(1, Some(1), "m")],
        conversations: vec![conversation],
        contacts: vec![contact],
        ..Batch::default()
    };
    let steps = [
        ("first", whole(conversation(vec![member(1, "a")]), contact(vec![note(1, "a")])), 3),
        ("unchanged", whole(conversation(vec![member(1, "a")]), contact(vec![note(1, "a")])), 0),
        ("changed", whole(conversation(vec![member(1, "b")]), contact(vec![note(1, "b")])), 2),
        (
            "one more",
            whole(conversation(vec![member(1, "b"), member(2, "c")]), contact(vec![note(1, "b")])),
            1,
        ),
        ("all gone", whole(conversation(vec![]), contact(vec![])), 2),
        ("revived", whole(conversation(vec![]), contact(vec![])), 3),
    ];
    for (step, batch, written) in steps {
        if step == "revived" {
            for table in ["messages", "conversations", "contacts"] {
                let marked = format!("UPDATE heymarket.{table} SET _deleted_at = now()");
                store.pool().execute(AssertSqlSafe(marked)).await.unwrap();
            }
        }
        let done = store.commit(&lease, &batch).await.unwrap();
        assert_eq!(done.messages + done.conversations + done.contacts, written, "{step}");
        assert_eq!(reader.missed().await.len() as u64, written, "{step}: not a new version");
        advance(store, &lease).await;
        reader.look().await.unwrap();
        reader.has_all().await;
    }
    database.drop().await;
}

#[tokio::test]
async fn rows_of_retried_rejects_are_read_as_new() {
    let (database, lease) = Database::led().await;
    let store = &database.store;
    let mut reader = Reader::of(database.held.url(), READ_COMMITTED).await;
    store.commit(&lease, &Batch { rejects: vec![reject("7", "bad")], ..Batch::default() }).await.unwrap();
    store.request_retries(None).await.unwrap();
    step_back(store).await;
    reader.look().await.unwrap();
    let mut tried = Vec::new();
    for request in store.requested_retries().await.unwrap() {
        let body = br#"[{"id":7,"date":"2024-01-01T00:00:00Z","updated":"2024-01-01T00:00:00Z"}]"#;
        let rows = read_page(Stream::Messages, TimeField::Updated, &body.as_slice().into()).unwrap();
        tried.push((request, rows));
    }
    store.settle_retries(&lease, tried).await.unwrap();
    store.release_lease(&lease).await.unwrap();
    reader.look().await.unwrap();
    assert_eq!(reader.len(), 1);
    reader.has_all().await;
    database.drop().await;
}

#[tokio::test]
async fn a_crash_of_the_server_loses_no_reader_a_row() {
    let server = TestServer::start().await;
    let url = server.database().url().to_owned();
    let store = connect(&SecretString::from(url.as_str()), 8).await.unwrap();
    store.migrate().await.unwrap();
    let mut reader = Reader::of(&url, READ_COMMITTED).await;
    let mut round = 0;
    for _ in 0..3 {
        let lease = again(async || store.acquire_lease("leader").await).await.unwrap();
        for _ in 0..20 {
            round += 1;
            let rows = texts(&[round, round + 1, round + 2], round, "row");
            again(async || store.commit(&lease, &rows).await).await;
            again(async || store.renew_lease(&lease).await).await;
            reader.look().await.unwrap();
        }
        assert!(reader.len() > 0);
        // This one may be undone.
        store.commit(&lease, &texts(&[round], round + 1, "newest")).await.unwrap();
        server.crash().await;
        reader.reconnect(&url).await;
        reader.run("UPDATE heymarket_sync.lease SET expires_at = '-infinity'").await;
    }
    // What the crashes undid is read from the source again.
    let lease = again(async || store.acquire_lease("leader").await).await.unwrap();
    let all = texts(&(1..=round + 2).collect::<Vec<_>>(), round, "row");
    again(async || store.commit(&lease, &all).await).await;
    again(async || store.release_lease(&lease).await).await;
    reader.look().await.unwrap();
    assert_eq!(reader.missed().await, []);
    store.close().await;
    server.stop().await;
}
