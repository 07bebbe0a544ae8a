//! What holds for every page, however damaged: reading never panics, no element is lost, and what is
//! kept as JSON is JSON.

use bytes::Bytes;
use heymarket_sync::api::{
    lenient::{read_page, split},
    model::{Json, Rows, Stream, TimeField},
};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::Value;

/// Pieces that pages are made of, and pieces that break them.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"\\",
    b" ",
    b"\n",
    b"null",
    b"true",
    b"0",
    b"-1.5e9",
    b"1e400000",
    b"NaN",
    b"\"id\":",
    b"\"updated\":",
    b"\"conversation\":",
    b"\"members\":",
    b"\"note\":",
    b"\"custom\":",
    b"\"text\":",
    b"\"x\":",
    b"{\"id\":1}",
    b"\"2024-12-22T23:31:49.5Z\"",
    b"\"0001-01-01T00:00:00Z\"",
    b"\"\\ud83d\"",
    b"\\u0000",
    b"\xFF",
    b"\0",
];

const PAGE: &str = r#"[{"id":1,"updated":"2024-12-22T23:31:49.43203Z","date":"2024-12-22T23:31:49Z","text":"é\n\ud83d\udc4d",
 "custom":{"data":[1,2.5e3,{"a":null}],"type":"x"},"flagged":true,"new":["\u0000",{}],
 "conversation":{"id":2,"updated":"2024-12-22T23:31:49Z","members":[{"id":1,"name":"a"},{"id":1,"name":"b","x":1}]}},
 {"id":"3","updated":"2024-12-22 23:31:49+01:00","note":[{"id":"a","text":"t","user_id":5},{"id":7}],
 "tags":[{"id":1},"t"],"members":[{"id":4}]}]"#;

/// Replaces, removes or inserts at a place of a page.
#[derive(Clone, Debug)]
struct Damage {
    at: prop::sample::Index,
    removed: usize,
    inserted: Vec<u8>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let inserted = prop_oneof![Just(vec![]), select(PIECES).prop_map(<[u8]>::to_vec), vec(any::<u8>(), 1..3)];
    (any::<prop::sample::Index>(), 0..4_usize, inserted).prop_map(|(at, removed, inserted)| Damage {
        at,
        removed,
        inserted,
    })
}

fn damaged_page() -> impl Strategy<Value = Vec<u8>> {
    vec(damage(), 1..6).prop_map(|damages| {
        let mut page = PAGE.as_bytes().to_vec();
        for Damage { at, removed, inserted } in damages {
            let at = at.index(page.len() + 1);
            let end = (at + removed).min(page.len());
            page.splice(at..end, inserted);
        }
        page
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec(select(PIECES), 0..40).prop_map(|pieces| pieces.concat());
    let rows =
        vec(select(PIECES), 0..30).prop_map(|pieces| [b"[{\"id\":1,", &pieces.concat()[..], b"}]"].concat());
    prop_oneof![damaged_page(), pieces, rows, vec(any::<u8>(), 0..200)]
}

fn kept_json(rows: &Rows) -> impl Iterator<Item = &Json> {
    let messages = rows.messages.iter().flat_map(|row| [&row.custom, &row.extra]);
    let conversations = rows.conversations.iter().chain(&rows.embedded).map(|row| &row.extra);
    let contacts = rows.contacts.iter().flat_map(|row| [&row.custom, &row.tags, &row.extra]);
    messages.chain(conversations).chain(contacts).flatten()
}

/// What `jsonb` would refuse, or a row lost.
fn check(stream: Stream, body: &[u8]) -> Result<(), TestCaseError> {
    let Ok(rows) = read_page(stream, TimeField::Updated, &Bytes::copy_from_slice(body)) else {
        return Ok(());
    };
    let landed = rows.messages.len() + rows.conversations.len() + rows.contacts.len();
    let set_aside = rows.rejects.iter().filter(|reject| !reject.partial);
    prop_assert_eq!(landed + set_aside.count(), rows.elements);
    prop_assert_eq!(rows.listed.len(), rows.elements);
    for reject in &rows.rejects {
        prop_assert!(body.windows(reject.payload.len().max(1)).any(|window| window == reject.payload));
    }
    for json in kept_json(&rows) {
        prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&json.0).is_ok(), "{}", json.0);
        prop_assert!(!json.0.contains("\\u0000") || json.0.contains("\\\\u0000"), "{}", json.0);
        prop_assert!(!json.0.contains('\0'));
    }
    Ok(())
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(|text| Value::from(text.replace('\0', ""))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec(("[^\0]*", inner), 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_body_makes_the_reader_panic_or_lose_a_row(body in any_body()) {
        for stream in Stream::ALL {
            check(stream, &body)?;
        }
    }

    #[test]
    fn elements_joined_are_the_arrays_content(rows in vec(arbitrary_json(), 0..8)) {
        let compact = serde_json::to_vec(&rows).unwrap();
        let elements = split(&compact).unwrap();
        prop_assert_eq!(elements.len(), rows.len());
        prop_assert_eq!(&compact, &[b"[", &elements.join(&b","[..])[..], b"]"].concat());
        let spaced = serde_json::to_vec_pretty(&rows).unwrap();
        for (element, row) in split(&spaced).unwrap().into_iter().zip(&rows) {
            let parsed: Value = serde_json::from_slice(element).unwrap();
            prop_assert_eq!(parsed, serde_json::from_str::<Value>(&row.to_string()).unwrap());
        }
        for end in 0..compact.len() {
            prop_assert!(split(&compact[..end]).is_err());
        }
    }

    #[test]
    fn readable_json_is_kept_as_it_is(value in arbitrary_json()) {
        let body = format!(r#"[{{"id":1,"updated":"2024-01-01T00:00:00Z","x":{value}}}]"#);
        let rows = read_page(Stream::Contacts, TimeField::Updated, &body.into()).unwrap();
        let kept: Value = serde_json::from_str(&rows.contacts[0].extra.as_ref().unwrap().0).unwrap();
        prop_assert_eq!(&kept["x"], &serde_json::from_str::<Value>(&value.to_string()).unwrap());
    }
}
