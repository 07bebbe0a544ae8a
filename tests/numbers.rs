//! Numbers that `jsonb` cannot hold or print: rows with them land, and every row can be read.

mod support;

use bytes::Bytes;
use heymarket_sync::api::lenient::read_page;
use heymarket_sync::api::model::{Rows, Stream, TimeField};
use heymarket_sync::store::{Batch, Store, connect};
use proptest::prelude::*;
use secrecy::SecretString;
use support::database::{TestDatabase, database};

struct Mirror {
    store: Store,
    _database: TestDatabase,
}

impl Mirror {
    /// Writes what `page` holds of `stream`, and returns how many of its rejects are partial and whole.
    async fn with(stream: Stream, page: &str) -> (Self, usize, usize) {
        let rows = read(stream, page);
        let partial = rows.rejects.iter().filter(|reject| reject.partial).count();
        let whole = rows.rejects.len() - partial;
        let database = database().await;
        let store = connect(&SecretString::from(database.url()), 2).await.unwrap();
        let lease = store.acquire_lease("test").await.unwrap().unwrap();
        let mut batch = Batch::default();
        batch.push(rows);
        let committed = store.commit(&lease, &batch).await.unwrap();
        assert_eq!(committed.refused, 0, "PostgreSQL refuses nothing of {stream}");
        (Self { store, _database: database }, partial, whole)
    }

    /// How many rows of `table` there are, each of which was printed whole and column by column.
    async fn printed(&self, table: &str, columns: &[&str]) -> usize {
        let each: String = columns.iter().map(|column| format!(", length(m.{column}::text)")).collect();
        let select = format!("SELECT length(to_jsonb(m)::text){each}, m::text FROM heymarket.{table} m");
        sqlx::query(sqlx::AssertSqlSafe(select)).fetch_all(self.store.pool()).await.unwrap().len()
    }
}

fn read(stream: Stream, page: &str) -> Rows {
    read_page(stream, TimeField::Updated, &Bytes::from(page.to_owned())).unwrap()
}

fn message(id: usize, fields: &str) -> String {
    format!(r#"{{"id":{id},"updated":"2024-05-01T00:00:00Z",{fields}}}"#)
}

/// Numbers about PostgreSQL's bounds, those of `float8`, and the smallest and largest that can be written.
fn edges() -> Vec<String> {
    let mut numbers: Vec<String> = [
        "0",
        "-0",
        "1.5",
        "1e308",
        "-1.7976931348623157e308",
        "5e-324",
        "1e400",
        "1e16382",
        "1e16383",
        "1e16384",
        "1e-16299",
        "1e-16300",
        "1e-16301",
        "1e-16382",
        "1e-16383",
        "1e-16384",
        "1.5e-16383",
        "123e-16383",
        "1e130998",
        "1e130999",
        "1e131000",
        "1e131070",
        "1e131071",
        "1e131072",
        "-1e131071",
        "9.9e131071",
        "0e131072",
        "0e-16384",
        "0.0e-16390",
        "1e-131072",
        "1e2147483647",
        "1e-2147483648",
        "1e9223372036854775807",
        "1e99999999999999999999",
    ]
    .map(str::to_owned)
    .into();
    for digits in [16_383, 16_384, 131_000, 131_071, 131_072, 131_073] {
        numbers.push("7".repeat(digits));
        numbers.push(format!("0.{}", "7".repeat(digits)));
        numbers.push(format!("{}.5", "7".repeat(digits)));
        numbers.push(format!("0.{}e{digits}", "7".repeat(digits)));
    }
    numbers
}

#[tokio::test]
async fn every_number_lands_where_it_can_be_printed() {
    let rows: Vec<String> = edges()
        .iter()
        .enumerate()
        .flat_map(|(index, number)| {
            [
                message(4 * index, &format!(r#""custom":{number}"#)),
                message(4 * index + 1, &format!(r#""custom":{{"data":[{{"a":[1,{number}]}}],"type":"x"}}"#)),
                message(4 * index + 2, &format!(r#""new":{number}"#)),
                message(4 * index + 3, &format!(r#""new":{{"b":[[{number}]]}},"flagged":{number}"#)),
            ]
        })
        .collect();
    let (mirror, _, whole) = Mirror::with(Stream::Messages, &format!("[{}]", rows.join(","))).await;
    assert_eq!(whole, 0);
    assert_eq!(mirror.printed("messages", &["custom", "_extra"]).await, rows.len());

    let contacts: Vec<String> = edges()
        .iter()
        .enumerate()
        .map(|(id, number)| {
            let note = format!(r#"{{"id":"a","text":"t","new":{number}}}"#);
            message(
                id,
                &format!(r#""tags":["t",{number}],"custom":{{"7":{number}}},"rev":{number},"note":[{note}]"#),
            )
        })
        .collect();
    let (mirror, _, whole) = Mirror::with(Stream::Contacts, &format!("[{}]", contacts.join(","))).await;
    assert_eq!(whole, 0);
    assert_eq!(mirror.printed("contacts", &["custom", "tags", "_extra"]).await, contacts.len());
}

#[tokio::test]
async fn short_numbers_that_print_long_leave_their_row_readable() {
    // 8,200 numbers of 131,000 digits are a gigabyte, the most that PostgreSQL prints at once.
    let many = vec!["1e130998"; 8_200].join(",");
    let rows = [
        message(1, &format!(r#""custom":{{"data":[{many}]}}"#)),
        message(2, &format!(r#""new":[{many}]"#)),
        message(3, &format!(r#""custom":[{many}],"new":[{many}],"date":[{many}]"#)),
    ];
    let (mirror, partial, whole) = Mirror::with(Stream::Messages, &format!("[{}]", rows.join(","))).await;
    assert_eq!((partial, whole), (3, 0));
    assert_eq!(mirror.printed("messages", &["custom", "_extra"]).await, 3);
}

#[test]
fn a_row_whose_number_became_a_string_is_partial() {
    let reason = "a number that jsonb cannot hold or print, kept as a string";
    let cases = [
        (r#""custom":{"data":1e131072}"#, Some(format!("custom: {reason}"))),
        (r#""custom":{"data":[0.5,1e400]}"#, None),
        (r#""new":[{"a":1e131072}]"#, Some(format!("a field without a column: {reason}"))),
        (
            r#""custom":1e-20000,"new":-1e200000"#,
            Some(format!("custom: {reason}; a field without a column: {reason}")),
        ),
        (r#""custom":1e-20000,"custom":1"#, None),
        (r#""custom":{"data":"1e131072"}"#, None),
        (r#""super":1e131072"#, Some("super: a number beyond 64 bits".to_owned())),
    ];
    for (fields, expected) in cases {
        let rows = read(Stream::Messages, &format!("[{}]", message(1, fields)));
        assert_eq!(rows.messages.len(), 1, "{fields}");
        let reasons: Vec<_> = rows.rejects.iter().map(|reject| reject.reason.clone()).collect();
        assert_eq!(reasons, Vec::from_iter(expected), "{fields}");
        assert!(rows.rejects.iter().all(|reject| reject.partial), "{fields}");
    }
    let listed = r#"{"id":1,"updated":"2024-05-01T00:00:00Z","note":[{"id":"a","new":1e131072}]}"#;
    let rows = read(Stream::Contacts, &format!("[{listed}]"));
    assert_eq!(
        (rows.contacts.len(), rows.rejects[0].reason.clone()),
        (1, format!("note: in an entry, a field without a column: {reason}"))
    );
}

/// Digits, a point and an exponent such that the number lies about one of the bounds.
fn about_the_bounds() -> impl Strategy<Value = String> {
    let around = |bound: i64| (bound - 3..bound + 4).boxed();
    let exponent = prop_oneof![
        around(131_000),
        around(131_072),
        around(-16_300),
        around(-16_383),
        around(-131_072),
        around(308),
        around(-324),
        around(0),
        any::<i32>().prop_map(i64::from),
    ];
    let written = ("-?(0|[1-9][0-9]{0,5})", "(\\.[0-9]{1,6})?", exponent);
    written.prop_map(|(integer, fraction, exponent)| format!("{integer}{fraction}e{exponent}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]
    #[test]
    fn numbers_about_the_bounds_land_and_print(
        numbers in prop::collection::vec(about_the_bounds(), 100)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rows: Vec<_> = numbers.iter().enumerate()
                .map(|(id, number)| message(id, &format!(r#""custom":[{number}],"new":{number}"#)))
                .collect();
            let (mirror, _, whole) = Mirror::with(Stream::Messages, &format!("[{}]", rows.join(","))).await;
            assert_eq!(whole, 0);
            assert_eq!(mirror.printed("messages", &["custom", "_extra"]).await, rows.len());
        });
    }
}
