//! What lands and what is kept in `_extra`, for every kind of field.

use chrono::{DateTime, Utc};
use heymarket_sync::api::{
    lenient::{MAX_ENTRIES, MAX_JSON_DEPTH, read_page},
    model::{Contact, Conversation, Json, Member, Message, Reject, Rows, Stream, TimeField},
};
use serde_json::{Value, json};

const AT: &str = "2024-12-22T23:31:49.43203Z";

fn page(stream: Stream, rows: &[&str]) -> Rows {
    read_page(stream, TimeField::Updated, &format!("[{}]", rows.join(",")).into()).unwrap()
}

/// The only message of a page whose row has `fields` beside what it needs to land.
fn message(fields: &str) -> (Message, Vec<Reject>) {
    let row = format!(r#"{{"id":7,"updated":"{AT}",{fields}}}"#);
    let mut rows = page(Stream::Messages, &[&row]);
    assert_eq!(rows.messages.len(), 1, "{fields} must land: {:?}", rows.rejects);
    for reject in &rows.rejects {
        assert!(reject.partial && reject.source_id.as_deref() == Some("7"), "{fields}");
        assert_eq!(reject.payload, row.as_bytes());
    }
    (rows.messages.remove(0), rows.rejects)
}

fn conversation(fields: &str) -> (Conversation, Vec<Reject>) {
    let mut rows = page(Stream::Conversations, &[&format!(r#"{{"id":7,"updated":"{AT}",{fields}}}"#)]);
    (rows.conversations.remove(0), rows.rejects)
}

fn contact(fields: &str) -> (Contact, Vec<Reject>) {
    let mut rows = page(Stream::Contacts, &[&format!(r#"{{"id":7,"updated":"{AT}",{fields}}}"#)]);
    (rows.contacts.remove(0), rows.rejects)
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn parsed(json: &Option<Json>) -> Option<Value> {
    json.as_ref()
        .map(|json| serde_json::from_str(&json.0).unwrap_or_else(|error| panic!("{error}: {}", json.0)))
}

/// Reads `field` with each value: what lands, or why it does not while its raw value is kept.
fn assert_cases<T: PartialEq + std::fmt::Debug>(
    field: &str,
    get: impl Fn(&Message) -> Option<T>,
    cases: &[(&str, Result<Option<T>, &str>)],
) {
    for (value, expected) in cases {
        let (message, rejects) = message(&format!(r#""{field}":{value}"#));
        match expected {
            Ok(landed) => {
                assert_eq!(&get(&message), landed, "{value}");
                assert_eq!((message.extra, rejects.len()), (None, 0), "{value}");
            }
            Err(reason) => {
                assert_eq!(get(&message), None, "{value}");
                let kept = serde_json::from_str::<Value>(value).unwrap_or_else(|_| json!(value));
                assert_eq!(parsed(&message.extra).unwrap()[field], kept, "{value}");
                assert_eq!(rejects.len(), 1, "{value}");
                assert_eq!(rejects[0].reason, format!("{field}: {reason}"), "{value}");
            }
        }
    }
}

#[test]
fn integers() {
    assert_cases(
        "broadcast_id",
        |message| message.broadcast_id,
        &[
            ("null", Ok(None)),
            (r#""""#, Ok(None)),
            ("0", Ok(Some(0))),
            ("-0", Ok(Some(0))),
            ("-12", Ok(Some(-12))),
            ("5.0", Ok(Some(5))),
            ("1e3", Ok(Some(1000))),
            ("120E-1", Ok(Some(12))),
            ("0.5e1", Ok(Some(5))),
            ("0.0e-99999999999999999999", Ok(Some(0))),
            ("9223372036854775807", Ok(Some(i64::MAX))),
            ("-9223372036854775808", Ok(Some(i64::MIN))),
            (r#""123""#, Ok(Some(123))),
            (r#"" -123 ""#, Ok(Some(-123))),
            (r#""+00120""#, Ok(Some(120))),
            (r#""-007""#, Ok(Some(-7))),
            (r#""00""#, Ok(Some(0))),
            (r#""\u0031""#, Ok(Some(1))),
            ("5.5", Err("not a whole number")),
            ("1e-1", Err("not a whole number")),
            ("9223372036854775808", Err("a number beyond 64 bits")),
            (r#""-9223372036854775809""#, Err("a number beyond 64 bits")),
            (r#""1e99999999999999999999""#, Err("a number beyond 64 bits")),
            (r#""twelve""#, Err("not a number")),
            (r#""+-5""#, Err("not a number")),
            (r#""-""#, Err("not a number")),
            (r#""12 3""#, Err("not a number")),
            ("true", Err("a boolean")),
            ("{}", Err("an object")),
            ("[1]", Err("an array")),
            ("NaN", Err("not JSON")),
            ("012", Err("not JSON")),
        ],
    );
}

#[test]
fn flags() {
    assert_cases(
        "flagged",
        |message| message.flagged,
        &[
            ("null", Ok(None)),
            (r#""""#, Ok(None)),
            ("true", Ok(Some(true))),
            ("false", Ok(Some(false))),
            ("1", Ok(Some(true))),
            ("0", Ok(Some(false))),
            (r#""TRUE""#, Ok(Some(true))),
            (r#""false""#, Ok(Some(false))),
            (r#""1""#, Ok(Some(true))),
            (r#""0""#, Ok(Some(false))),
            ("2", Err("neither true nor false")),
            (r#""yes""#, Err("neither true nor false")),
            ("{}", Err("an object")),
            ("[]", Err("an array")),
            ("True", Err("not JSON")),
        ],
    );
}

#[test]
fn times() {
    let at = |text: &str| Ok(Some(time(text)));
    let unread = Err("not an RFC 3339 time");
    assert_cases(
        "date",
        |message| message.date,
        &[
            ("null", Ok(None)),
            (r#""""#, Ok(None)),
            (r#""0001-01-01T00:00:00Z""#, Ok(None)),
            (r#""0001-01-01T02:00:00.000+02:00""#, Ok(None)),
            (r#""0001-01-01T00:00:00.000001Z""#, at("0001-01-01T00:00:00.000001Z")),
            (r#""2024-12-22T23:31:49.43203Z""#, at("2024-12-22T23:31:49.432030Z")),
            (r#""2024-12-22T23:31:49Z""#, at("2024-12-22T23:31:49Z")),
            (r#""2024-12-22T23:31:49.123456999Z""#, at("2024-12-22T23:31:49.123456Z")),
            (r#""1969-12-31T23:59:59.9999999Z""#, at("1969-12-31T23:59:59.999999Z")),
            (r#""2024-12-22t23:31:49z""#, at("2024-12-22T23:31:49Z")),
            (r#""2024-12-22 23:31:49-05:30""#, at("2024-12-23T05:01:49Z")),
            (r#""2024-12-22T23:31:49+0200""#, at("2024-12-22T21:31:49Z")),
            (r#""2024-12-22T23:31:49+02""#, at("2024-12-22T21:31:49Z")),
            (r#""2024-12-22T23:31:49\u005a""#, at("2024-12-22T23:31:49Z")),
            (r#""2016-12-31T23:59:60.5Z""#, at("2017-01-01T00:00:00.5Z")),
            (r#""2024-02-29T00:00:00Z""#, at("2024-02-29T00:00:00Z")),
            (r#""0000-01-01T00:00:00+23:59""#, at("-0001-12-31T00:01:00Z")),
            (r#""9999-12-31T23:59:60-23:59""#, at("+10000-01-01T23:59:00Z")),
            (r#""2024-12-22T23:31:49""#, unread),
            (r#""2024-12-22T23:31:49.Z""#, unread),
            (r#""2024-12-22""#, unread),
            (r#""2023-02-29T00:00:00Z""#, unread),
            (r#""2024-13-01T00:00:00Z""#, unread),
            (r#""2024-01-01T24:00:00Z""#, unread),
            (r#""2024-01-01T00:00:61Z""#, unread),
            (r#""2024-01-01T00:00:00+24:00""#, unread),
            (r#""2024-01-01T00:00:00Zulu""#, unread),
            (r#""12024-01-01T00:00:00Z""#, unread),
            (r#""yesterday, about noon""#, unread),
            ("1734910309", Err("a number")),
            ("false", Err("a boolean")),
            ("{}", Err("an object")),
        ],
    );
}

#[test]
fn text() {
    let text = |text: &str| Ok(Some(text.to_owned()));
    assert_cases(
        "text",
        |message| message.text.as_deref().map(str::to_owned),
        &[
            ("null", Ok(None)),
            (r#""""#, text("")),
            (r#"" as is ""#, text(" as is ")),
            (r#""\"\\\/\b\f\n\r\té\u00e9""#, text("\"\\/\u{8}\u{c}\n\r\téé")),
            (r#""👍\ud83d\udc4d""#, text("👍👍")),
            ("\"two\nlines\"", text("two\nlines")),
            (r#""a\u0000b""#, text("a\u{FFFD}b")),
            ("\"a\0b\"", text("a\u{FFFD}b")),
            (r#""a\ud800b\udc00""#, text("a\u{FFFD}b\u{FFFD}")),
            (r#""\ud800\ud83d\udc4d\ud83d""#, text("\u{FFFD}👍\u{FFFD}")),
            (r#""\ud800\u0041""#, text("\u{FFFD}A")),
            ("12.50", text("12.50")),
            ("true", text("true")),
            ("{\"a\":1}", Err("an object")),
            ("[\"a\"]", Err("an array")),
            ("None", Err("not JSON")),
        ],
    );
    let (read, rejects) = message(r#""text":"C:\x\u12""#);
    assert_eq!(read.text, None);
    assert_eq!(parsed(&read.extra), Some(json!({"text": r"C:\x\u12"})));
    assert_eq!(rejects[0].reason, "text: an escape that JSON does not know");
}

#[test]
fn text_that_is_not_utf8_is_mended() {
    let body = [
        br#"[{"id":1,"updated":"2024-12-22T23:31:49Z","text":"a"#,
        &b"\xFF\xC3"[..],
        br#"b","x":{"#,
        b"\"\xFE\":\"\xFE\"}}]",
    ]
    .concat();
    let rows = read_page(Stream::Messages, TimeField::Updated, &body.into()).unwrap();
    assert_eq!(rows.messages[0].text.as_deref(), Some("a\u{FFFD}\u{FFFD}b"));
    assert_eq!(parsed(&rows.messages[0].extra), Some(json!({"x": {"\u{FFFD}": "\u{FFFD}"}})));
    assert_eq!(rows.rejects, []);
}

#[test]
fn a_megabyte_of_text_lands_whole() {
    let long = "é\\n\u{1F44D} ".repeat(100_000);
    let (read, rejects) = message(&format!(r#""text":"{long}""#));
    assert_eq!(read.text.unwrap(), long.replace("\\n", "\n"));
    assert_eq!(rejects, []);
}

#[test]
fn any_json_is_kept_fit_for_jsonb() {
    let deepest = format!("{}{}", "[".repeat(MAX_JSON_DEPTH), "]".repeat(MAX_JSON_DEPTH));
    let deeper = format!("[{deepest}]");
    let cut = format!("{0}\"[]\"{1}", "[".repeat(MAX_JSON_DEPTH), "]".repeat(MAX_JSON_DEPTH));
    let long = "1".repeat(131_073);
    let long_as_text = format!(r#"{{"n":"{long}"}}"#);
    let long = format!(r#"{{"n":{long}}}"#);
    let tiny = format!("0.{}1", "0".repeat(16_383));
    let tiny_as_text = format!("\"{tiny}\"");
    let cases = [
        (r#"{ "data" : [ 1 , 2 ] , "type" : "x" }"#, r#"{"data":[1,2],"type":"x"}"#, 0),
        (r#""text""#, r#""text""#, 0),
        ("[]", "[]", 0),
        ("-1.50e3", "-1.50e3", 0),
        (
            r#"{"a\u0000b":"\ud800 \u0001\u001f\"\\/\n"}"#,
            "{\"a\u{FFFD}b\":\"\u{FFFD} \\u0001\\u001f\\\"\\\\/\\n\"}",
            0,
        ),
        ("1e131000", "\"1e131000\"", 1),
        ("1e1000", "1e1000", 0),
        ("1e-16000", "1e-16000", 0),
        ("0e-20000", "\"0e-20000\"", 1),
        ("1e99999999999999999999", "\"1e99999999999999999999\"", 1),
        ("[NaN,Infinity]", r#"["NaN","Infinity"]"#, 0),
        (r#"["\x\u00"]"#, r#"["\\x\\u00"]"#, 0),
        (&deepest, &deepest, 0),
        (&deeper, &cut, 0),
        (&long, &long_as_text, 1),
        (&tiny, &tiny_as_text, 1),
    ];
    // JSON, what is kept of it, and how many rejects that makes.
    for (value, expected, partial) in cases {
        let (read, rejects) = message(&format!(r#""custom":{value}"#));
        assert_eq!(read.custom, Some(Json(expected.to_owned())));
        assert_eq!((read.extra, rejects.len()), (None, partial), "{value}");
        let (read, _) = contact(&format!(r#""tags":{value},"custom":null"#));
        assert_eq!((read.tags, read.custom), (Some(Json(expected.to_owned())), None));
    }
}

#[test]
fn unknown_fields_are_kept() {
    let (read, rejects) = message(r#""new":{"a":[null]},"n\u00e9w\u0000":1e400,"bad":NaN,"support":2"#);
    assert_eq!(
        read.extra.unwrap().0,
        "{\"new\":{\"a\":[null]},\"néw\u{FFFD}\":1e400,\"bad\":\"NaN\",\"support\":2}"
    );
    assert_eq!(rejects.len(), 1);
    assert_eq!(message(r#""text":"x""#).0.extra, None);
}

#[test]
fn of_a_field_that_comes_twice_the_later_one_counts() {
    let (read, rejects) =
        message(r#""text":{},"text":"ok","flagged":true,"flagged":null,"user":1,"user":[]"#);
    assert_eq!((read.text.as_deref(), read.flagged, read.user_id), (Some("ok"), None, None));
    assert_eq!(parsed(&read.extra), Some(json!({"user": []})));
    assert_eq!(rejects[0].reason, "user: an array");
    let (read, _) = message(r#""\u0074ext":"escaped name""#);
    assert_eq!(read.text.as_deref(), Some("escaped name"));
}

#[test]
fn a_reason_names_every_field_and_holds_no_value() {
    let (_, rejects) = message(r#""text":["secret"],"date":"secret","super":"secret","flagged":"secret""#);
    let [Reject { reason, .. }] = &rejects[..] else { panic!("one reject per row") };
    assert_eq!(
        reason,
        "text: an array; date: not an RFC 3339 time; super: not a number; flagged: neither true nor false"
    );
}

#[test]
fn conversations_embedded_in_messages() {
    let row = format!(
        r#"{{"id":1,"updated":"{AT}","conversation":{{"id":"12","name":["x"],"read":3,"members":[{{"id":2,"name":"n"}}]}}}}"#
    );
    let rows = page(Stream::Messages, &[&row]);
    assert_eq!((rows.messages[0].conversation_id, &rows.messages[0].extra), (Some(12), &None));
    let [embedded] = &rows.embedded[..] else { panic!("one conversation is embedded") };
    assert_eq!((embedded.id, embedded.read, embedded.name.as_deref()), (12, Some(3), None));
    assert_eq!(embedded.members, [Member { id: 2, name: Some("n".into()) }]);
    assert_eq!(parsed(&embedded.extra), Some(json!({"name": ["x"]})));
    let [Reject { stream, source_id, partial, reason, payload, .. }] = &rows.rejects[..] else {
        panic!("one reject")
    };
    assert_eq!((stream, source_id.as_deref(), partial), (&Stream::Conversations, Some("12"), &true));
    assert_eq!(reason, "name: an array");
    assert_eq!(&payload[..], br#"{"id":"12","name":["x"],"read":3,"members":[{"id":2,"name":"n"}]}"#);
    assert_eq!(rows.conversations, []);
}

#[test]
fn messages_without_a_readable_conversation() {
    for (value, id) in [("null", None), ("{ }", None), ("\"\"", None), ("12", Some(12)), ("\"12\"", Some(12))]
    {
        let (read, rejects) = message(&format!(r#""conversation":{value}"#));
        assert_eq!((read.conversation_id, read.extra, rejects.len()), (id, None, 0), "{value}");
    }
    let cases = [
        (r#"{"id":[]}"#, "conversation: its id: an array"),
        (r#"{"name":"x"}"#, "conversation: its id: not set"),
        ("[]", "conversation: neither an object nor an id, but an array"),
    ];
    for (value, reason) in cases {
        let (read, rejects) = message(&format!(r#""conversation":{value}"#));
        assert_eq!(read.conversation_id, None);
        let kept: Value = serde_json::from_str(value).unwrap();
        assert_eq!(parsed(&read.extra), Some(json!({"conversation": kept})));
        assert_eq!((rejects[0].stream, rejects[0].reason.as_str()), (Stream::Messages, reason));
    }
    let rows = page(Stream::Messages, &[r#"{"conversation":{"id":5}}"#]);
    assert_eq!((rows.embedded.len(), rows.rejects.len()), (1, 1), "shown by a message that is set aside");
}

#[test]
fn members() {
    for empty in ["null", "[]", "\"\""] {
        let (read, rejects) = conversation(&format!(r#""members":{empty}"#));
        assert_eq!((read.members, read.extra, rejects.len()), (vec![], None, 0));
    }
    let member = |id, name: Option<&str>| Member { id, name: name.map(Into::into) };
    let (read, rejects) = conversation(
        r#""members":[{"id":9,"name":"a"},{"id":2},{"id":9,"name":"b"},{"id":"2","name":null},{"id":9,"name":"c"}]"#,
    );
    assert_eq!(read.members, [member(2, None), member(9, Some("c"))]);
    assert_eq!((read.extra, rejects.len()), (None, 0));

    let cases = [
        (r#"[{"id":1,"role":"x"}]"#, vec![member(1, None)], None),
        (r#"[{"id":1,"name":[]}]"#, vec![member(1, None)], Some("members: in an entry, name: an array")),
        (
            r#"[{"name":"x"},{"id":3}]"#,
            vec![member(3, None)],
            Some("members: an entry without a readable id"),
        ),
        ("[5,null]", vec![], Some("members: an entry that is not an object")),
        (r#"{"1":"x"}"#, vec![], Some("members: not an array")),
    ];
    for (value, expected, reason) in cases {
        let (read, rejects) = conversation(&format!(r#""members":{value}"#));
        assert_eq!(read.members, expected);
        assert_eq!(parsed(&read.extra).unwrap()["members"], serde_json::from_str::<Value>(value).unwrap());
        assert_eq!(rejects.first().map(|reject| reject.reason.as_str()), reason);
    }

    let many = vec![r#"{"id":1}"#; MAX_ENTRIES + 1].join(",");
    let (read, rejects) = conversation(&format!(r#""members":[{many}]"#));
    assert_eq!((read.members, rejects[0].reason.as_str()), (vec![], "members: too many entries"));
}

#[test]
fn notes() {
    let (read, rejects) = contact(&format!(
        r#""note":[{{"id":"b","text":"1"}},{{"id":7,"date":"{AT}","name":"n","text":"t","user_id":"3"}},{{"id":"b","text":"2"}}]"#
    ));
    let [seven, b] = &read.notes[..] else { panic!("one note per id") };
    assert_eq!((seven.id.as_str(), seven.date, seven.user_id), ("7", Some(time(AT)), Some(3)));
    assert_eq!((b.id.as_str(), b.text.as_deref()), ("b", Some("2")));
    assert_eq!((read.extra, rejects.len()), (None, 0));

    let (read, rejects) = contact(r#""note":[{"id":""},{"id":"x","date":"soon"}]"#);
    assert_eq!(read.notes.len(), 1);
    assert_eq!(parsed(&read.extra), Some(json!({"note": [{"id": ""}, {"id": "x", "date": "soon"}]})));
    assert_eq!(rejects[0].reason, "note: an entry without a readable id");
}
