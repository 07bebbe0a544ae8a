//! Rows that PostgreSQL itself refuses: read by the lenient reader, set aside alone by the store.

mod support;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use heymarket_sync::api::lenient::{MAX_ENTRIES, read_page};
use heymarket_sync::api::model::{Rows, Stream, TimeField, UnreadableBody};
use heymarket_sync::interval::Interval;
use heymarket_sync::store::{
    Batch, Committed, Lease, LineKey, STANDING, Store, Tally, UnreadablePage, connect,
};
use secrecy::SecretString;
use sqlx::AssertSqlSafe;
use support::database::{TestDatabase, database};

/// An open reject: stream, source id, partial, reason, payload.
type Held = (String, Option<String>, bool, String, Vec<u8>);

struct Mirror {
    store: Store,
    lease: Lease,
    _database: TestDatabase,
}

impl Mirror {
    async fn new() -> Self {
        let database = database().await;
        let store = connect(&SecretString::from(database.url()), 4).await.unwrap();
        let lease = store.acquire_lease("test").await.unwrap().unwrap();
        Self { store, lease, _database: database }
    }

    async fn commit(&self, pages: impl IntoIterator<Item = Rows>) -> Committed {
        let mut batch = Batch::default();
        pages.into_iter().for_each(|page| batch.push(page));
        self.store.commit(&self.lease, &batch).await.unwrap()
    }

    async fn ids(&self, table: &str) -> Vec<i64> {
        let select = format!("SELECT id FROM heymarket.{table} ORDER BY id");
        sqlx::query_scalar(AssertSqlSafe(select)).fetch_all(self.store.pool()).await.unwrap()
    }

    async fn open(&self) -> Vec<Held> {
        sqlx::query_as(
            "SELECT stream, source_id, partial, reason, payload FROM heymarket_sync.rejects
             WHERE resolved_at IS NULL ORDER BY stream, source_id",
        )
        .fetch_all(self.store.pool())
        .await
        .unwrap()
    }
}

/// A page as the API sends it, its rows separated by `, `.
fn page(stream: Stream, rows: &[String]) -> Rows {
    read_page(stream, TimeField::Updated, &Bytes::from(format!(" [{}]\n", rows.join(", ")))).unwrap()
}

fn contact(id: i64, second: u32, phone: &str) -> String {
    format!(r#"{{"id":{id},"updated":"2024-05-01T00:00:{second:02}Z","phone":"{phone}"}}"#)
}

/// Text that compresses badly: too long for an index, although the lenient reader takes any length.
fn long() -> String {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:08x}", state >> 32)
    };
    (0..1_000).map(next).collect()
}

fn refused(stream: Stream, id: i64, sqlstate: &str, row: &str) -> Held {
    let reason = format!("PostgreSQL refused it (SQLSTATE {sqlstate})");
    (stream.name().to_owned(), Some(id.to_string()), false, reason, row.as_bytes().to_vec())
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

#[tokio::test]
async fn a_refused_row_is_set_aside_alone_and_byte_for_byte() {
    let cases: [(&str, i64, &[i64]); 6] = [
        ("one of many", 500, &[250]),
        ("the first", 500, &[1]),
        ("the last", 500, &[500]),
        ("several", 100, &[3, 4, 50, 99]),
        ("alone", 1, &[1]),
        ("all", 5, &[1, 2, 3, 4, 5]),
    ];
    for (name, rows, bad) in cases {
        let mirror = Mirror::new().await;
        let run = mirror.store.start_run(Stream::Contacts, STANDING, "test").await.unwrap();
        let long = long();
        let row = |id| contact(id, 1, if bad.contains(&id) { &long } else { "15550100" });
        let all: Vec<String> = (1..=rows).map(row).collect();
        let key = LineKey { stream: Stream::Contacts, line: "updated".into(), pass: STANDING.into() };
        mirror.store.begin_pass(&mirror.lease, &key, None, None, at(0)).await.unwrap();
        let proof = Interval::new(Some(at(0)), at(9)).unwrap();
        let mut batch = Batch { proofs: vec![(key.clone(), proof)], ..Batch::default() };
        batch.tallies.push(Tally { run, requests: 1, rows_read: rows, rejected: 0 });
        batch.push(page(Stream::Contacts, &all));
        let written = mirror.store.commit(&mirror.lease, &batch).await.unwrap();
        let bad_rows = bad.len() as u64;
        assert_eq!(written.contacts, rows as u64 - bad_rows, "{name}");
        assert_eq!((written.rejects, written.refused), (bad_rows, bad_rows), "{name}");
        let good: Vec<i64> = (1..=rows).filter(|id| !bad.contains(id)).collect();
        assert_eq!(mirror.ids("contacts").await, good, "{name}");
        let mut expected: Vec<_> =
            bad.iter().map(|id| refused(Stream::Contacts, *id, "54000", &row(*id))).collect();
        expected.sort();
        assert_eq!(mirror.open().await, expected, "{name}");
        // The proof went in with them: what is set aside is held, too.
        assert_eq!(mirror.store.gaps(&key, proof).await.unwrap(), [], "{name}");
        let runs = mirror.store.recent_runs(1).await.unwrap();
        assert_eq!((runs[0].rows_written, runs[0].rejected), (good.len() as i64, bad_rows as i64), "{name}");
    }
}

#[tokio::test]
async fn a_refused_row_keeps_the_version_held_and_is_resolved_by_a_readable_one() {
    let mirror = Mirror::new().await;
    mirror.commit([page(Stream::Contacts, &[contact(1, 1, "old")])]).await;
    let bad = contact(1, 2, &long());
    mirror.commit([page(Stream::Contacts, std::slice::from_ref(&bad))]).await;
    mirror.commit([page(Stream::Contacts, std::slice::from_ref(&bad))]).await;
    assert_eq!(mirror.open().await, [refused(Stream::Contacts, 1, "54000", &bad)]);
    let phones: Vec<String> = sqlx::query_scalar("SELECT phone FROM heymarket.contacts")
        .fetch_all(mirror.store.pool())
        .await
        .unwrap();
    assert_eq!(phones, ["old"]);
    mirror.commit([page(Stream::Contacts, &[contact(1, 0, "older")])]).await;
    assert_eq!(mirror.open().await.len(), 1, "an older version resolves nothing");
    mirror.commit([page(Stream::Contacts, &[contact(1, 3, "new")])]).await;
    assert_eq!(mirror.open().await, []);
}

/// A row of the `second`th version, with `value` in a text field.
fn version(stream: Stream, second: u32, value: &str) -> String {
    let field = match stream {
        Stream::Messages => "text",
        Stream::Conversations => "name",
        Stream::Contacts => "phone",
    };
    let (rev, second) = if stream == Stream::Contacts { (second, 0) } else { (0, second) };
    format!(r#"{{"id":1,"rev":{rev},"updated":"2024-05-01T00:00:{second:02}Z","{field}":{value}}}"#)
}

#[tokio::test]
async fn a_reject_is_resolved_only_by_a_version_at_least_as_new_as_what_was_refused() {
    // Versions as they come, an upper-case letter for one that is bad; `|` begins another transaction, `,` another
    // page. What is open at the end.
    let cases = [
        ("a | B | a", Some('B')),
        ("a | B | a | b", None),
        ("a | B | c", None),
        ("a | B , a", Some('B')),
        ("B , a", Some('B')),
        ("B a", Some('B')),
        ("a | B | A", Some('B')),
        ("B , A", Some('B')),
        ("A , B , a", Some('B')),
        ("B | A | b", None),
        ("b , A", None),
        ("b A", None),
        ("B , b , A", None),
        ("C | b , A", Some('C')),
        ("B | b | A", None),
        ("B | b | B", Some('B')),
        ("b , B", Some('B')),
        ("A , a", None),
        ("b | A", None),
        ("b | A | A", None),
        ("A | b | A", None),
        ("c | A | B", None),
        ("c | A , B", None),
        ("a | A", Some('A')),
        ("b | A | B", Some('B')),
        ("C | b | A", Some('C')),
    ];
    // Bad for the reader, which lets the row land without the field, and for PostgreSQL, which refuses the row.
    let refused = (Stream::Contacts, format!("\"{}\"", long()));
    let partial = Stream::ALL.map(|stream| (stream, "[]".to_owned()));
    for (stream, bad) in partial.into_iter().chain([refused]) {
        let mirror = Mirror::new().await;
        for (course, open) in cases {
            let empty = "TRUNCATE heymarket.messages, heymarket.conversations, heymarket.contacts, heymarket_sync.rejects CASCADE";
            sqlx::query(empty).execute(mirror.store.pool()).await.unwrap();
            let row = |letter: char| {
                let second = u32::from(letter.to_ascii_lowercase()) - u32::from('a');
                version(stream, second, if letter.is_ascii_uppercase() { &bad } else { "\"good\"" })
            };
            for transaction in course.split('|') {
                let pages = transaction.split(',').map(|letters| {
                    let rows: Vec<_> = letters.chars().filter(|letter| *letter != ' ').map(row).collect();
                    page(stream, &rows)
                });
                mirror.commit(pages).await;
            }
            let payloads: Vec<_> = mirror.open().await.into_iter().map(|held| held.4).collect();
            let expected: Vec<_> = open.into_iter().map(|letter| row(letter).into_bytes()).collect();
            assert!(
                payloads == expected,
                "{stream}, {}: {course}",
                if bad == "[]" { "partial" } else { "refused" }
            );
        }
    }
}

#[tokio::test]
async fn a_bad_copy_older_than_what_is_held_is_kept_and_alarms_nobody() {
    for stream in Stream::ALL {
        let mirror = Mirror::new().await;
        let bad = version(stream, 1, "[]");
        mirror.commit([page(stream, &[version(stream, 2, "\"good\"")])]).await;
        let mut seen = Vec::new();
        for _ in 1..=2 {
            mirror.commit([page(stream, std::slice::from_ref(&bad))]).await;
            assert_eq!(mirror.open().await, [], "{stream}");
            let kept = mirror.store.list_rejects(0, None, true).await.unwrap();
            assert_eq!((kept.len(), kept[0].times), (1, 1), "{stream}");
            let (held, payload) = mirror.store.reject(kept[0].id).await.unwrap().unwrap();
            assert_eq!(payload, bad.as_bytes(), "{stream}");
            seen.push(held.resolved_at.unwrap());
        }
        assert_eq!(seen[0], seen[1], "{stream}: it is resolved since it was set aside first");
    }
}

#[tokio::test]
async fn an_open_reject_of_unknown_version_outlives_an_older_bad_copy() {
    let mirror = Mirror::new().await;
    let bad = |version: &str| format!(r#"{{"id":1,{version},"first":[]}}"#);
    let good = contact(1, 5, "good");
    let unknown = bad(r#""rev":"x","updated":"2024-05-01T00:00:06Z""#);
    let older = bad(r#""updated":"2024-05-01T00:00:04Z""#);
    for row in [&good, &unknown, &older] {
        mirror.commit([page(Stream::Contacts, std::slice::from_ref(row))]).await;
    }
    let open: Vec<_> = mirror.open().await.into_iter().map(|held| held.4).collect();
    assert_eq!(open, [unknown.into_bytes()]);
}

#[tokio::test]
async fn a_reject_is_resolved_by_what_is_not_known_to_be_older() {
    let rows = |row: &str| {
        read_page(Stream::Contacts, TimeField::Updated, &Bytes::from(format!("[{row}]"))).unwrap()
    };
    let good = r#"{"id":1,"rev":3,"updated":"2024-05-01T00:00:00Z"}"#;
    let cases = [
        ("rev cannot be read, updated is newer", r#"{"id":1,"rev":"x","updated":"2025-05-01T00:00:00Z"}"#, 1),
        ("rev cannot be read, updated is held", r#"{"id":1,"rev":"x","updated":"2024-05-01T00:00:00Z"}"#, 0),
        ("neither", r#"{"id":1,"rev":"x","updated":"soon"}"#, 0),
        ("updated cannot be read, rev is newer", r#"{"id":1,"rev":4,"updated":"soon"}"#, 1),
        ("updated cannot be read, rev is held", r#"{"id":1,"rev":3,"updated":"soon"}"#, 0),
        ("set aside, of a newer rev", r#"{"id":1,"rev":4,"updated":[]}"#, 1),
    ];
    for (name, bad, open) in cases {
        let mirror = Mirror::new().await;
        mirror.commit([rows(good)]).await;
        mirror.commit([rows(bad)]).await;
        assert_eq!(mirror.open().await.len(), 1, "{name}");
        mirror.commit([rows(good)]).await;
        assert_eq!(mirror.open().await.len(), open, "{name}");
    }
}

#[tokio::test]
async fn members_and_notes_that_are_refused_take_their_row_with_them_and_no_other() {
    let mirror = Mirror::new().await;
    let long = long();
    let noted = |id: i64, note: &str| {
        format!(
            r#"{{"id":{id},"updated":"2024-05-01T00:00:00Z","note":[{{"id":"a","text":"t"}},{{"id":"{note}"}}]}}"#
        )
    };
    let rows = [noted(1, "b"), noted(2, &long), noted(3, "c")];
    mirror.commit([page(Stream::Contacts, &rows)]).await;
    assert_eq!(mirror.ids("contacts").await, [1, 3]);
    assert_eq!(mirror.open().await, [refused(Stream::Contacts, 2, "54000", &rows[1])]);

    // The reader mends what text cannot hold, so a member is made unfit by hand.
    let talk = |id: i64| {
        format!(
            r#"{{"id":{id},"updated":"2024-05-01T00:00:00Z","members":[{{"id":7,"name":"a"}},{{"id":8,"name":"b"}}]}}"#
        )
    };
    let message = |id: i64, talk: &str| {
        format!(r#"{{"id":{id},"updated":"2024-05-01T00:00:00Z","conversation" : {talk}}}"#)
    };
    let mut embedded = page(Stream::Messages, &[message(1, &talk(11)), message(2, &talk(12))]);
    embedded.embedded[1].members[0].name = Some("a\0".into());
    let mut listed = page(Stream::Conversations, &[talk(21), talk(22)]);
    listed.conversations[0].members[1].name = Some("\0".into());
    mirror.commit([embedded, listed]).await;
    assert_eq!(mirror.ids("messages").await, [1, 2], "the messages themselves are fine");
    assert_eq!(mirror.ids("conversations").await, [11, 22]);
    let conversations: Vec<_> =
        mirror.open().await.into_iter().filter(|held| held.0 == "conversations").collect();
    let expected = [(12, "22021"), (21, "22021")]
        .map(|(id, sqlstate)| refused(Stream::Conversations, id, sqlstate, &talk(id)));
    assert_eq!(conversations, expected);
    let members: i64 = sqlx::query_scalar("SELECT count(*) FROM heymarket.conversation_members")
        .fetch_one(mirror.store.pool())
        .await
        .unwrap();
    assert_eq!(members, 4);
}

#[tokio::test]
async fn a_row_with_the_most_members_lands() {
    let mirror = Mirror::new().await;
    let members: Vec<_> = (0..MAX_ENTRIES).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
    let row = format!(r#"{{"id":1,"updated":"2024-05-01T00:00:00Z","members":[{}]}}"#, members.join(","));
    let written = mirror.commit([page(Stream::Conversations, &[row])]).await;
    assert_eq!((written.conversations, written.rejects), (1, 0));
    assert_eq!(mirror.ids("conversation_members").await.len(), MAX_ENTRIES);
}

#[tokio::test]
async fn a_message_without_a_readable_date_lands_on_either_line_and_is_partial() {
    let mirror = Mirror::new().await;
    let read =
        |field, row: &str| read_page(Stream::Messages, field, &Bytes::from(format!("[{row}]"))).unwrap();
    let unplaced = r#"{"id":5,"date":"soon","updated":"2024-05-01T00:00:01Z"}"#;
    for field in [TimeField::Date, TimeField::Updated] {
        mirror.commit([read(field, unplaced)]).await;
        let held = mirror.open().await;
        assert_eq!((held.len(), held[0].2, held[0].3.as_str()), (1, true, "date: not an RFC 3339 time"));
        assert_eq!(mirror.ids("messages").await, [5]);
    }

    let whole = r#"{"id":5,"date":"2024-05-01T00:00:00Z","updated":"2024-05-01T00:00:02Z"}"#;
    mirror.commit([read(TimeField::Updated, whole)]).await;
    assert_eq!(mirror.open().await, []);
}

#[tokio::test]
async fn a_page_set_aside_is_one_reject_until_its_interval_is_held() {
    let mirror = Mirror::new().await;
    let key =
        |pass: &str| LineKey { stream: Stream::Messages, line: "date".to_owned(), pass: pass.to_owned() };
    let unreadable = |pass, below, body: Vec<u8>| UnreadablePage {
        key: key(pass),
        below: at(below),
        reason: "it ends inside a value (request id r-1)".to_owned(),
        body: UnreadableBody::of(&body),
    };
    let set_aside = async |pages| {
        let batch = Batch { pages, ..Batch::default() };
        mirror.store.commit(&mirror.lease, &batch).await.unwrap()
    };
    mirror.store.begin_pass(&mirror.lease, &key(STANDING), None, None, at(0)).await.unwrap();
    mirror.store.begin_pass(&mirror.lease, &key("recheck"), Some(at(0)), Some(at(100)), at(0)).await.unwrap();
    set_aside(vec![unreadable(STANDING, 50, vec![b'['; 10])]).await;
    let body: Vec<u8> = (0..100_000_u32).map(|byte| byte as u8).collect();
    let pages = vec![unreadable(STANDING, 60, body.clone()), unreadable("recheck", 70, b"[".to_vec())];
    assert_eq!(set_aside(pages).await.rejects, 2);
    let held = mirror.open().await;
    assert_eq!(held.len(), 2, "one for each line and pass");
    assert_eq!(held[1].1.as_deref(), Some("page of line date, pass standing"));
    let reason = "it ends inside a value (request id r-1); the first 65536 of 100000 bytes are kept";
    assert_eq!(held[1].3, reason);
    assert_eq!(held[1].4, body[..65_536]);

    let again = vec![unreadable(STANDING, 60, body.clone())];
    assert_eq!(set_aside(again).await.rejects, 0, "unchanged");

    let prove = async |pass, start, end| {
        let proofs = vec![(key(pass), Interval::new(Some(at(start)), at(end)).unwrap())];
        let batch = Batch { proofs, ..Batch::default() };
        mirror.store.commit(&mirror.lease, &batch).await.unwrap();
        mirror.open().await.len()
    };
    assert_eq!(prove(STANDING, 60, 90).await, 2, "what is above says nothing");
    assert_eq!(prove(STANDING, 10, 20).await, 2, "nor what is far below");
    assert_eq!(prove("recheck", 30, 60).await, 2, "nor another pass");
    assert_eq!(prove(STANDING, 20, 60).await, 1);
    assert_eq!(prove("recheck", 0, 100).await, 0);
}
