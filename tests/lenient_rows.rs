//! Which rows of a page land, which are set aside whole, and what is no page at all.

use chrono::{DateTime, Utc};
use heymarket_sync::api::{
    lenient::{MAX_DEPTH, MAX_ENTRIES, MAX_GROWTH, MAX_ROWS_PER_PAGE, read_page, read_row, split},
    model::{Conversation, Reject, Rows, Stream, TimeField},
};

const AT: &str = "2024-12-22T23:31:49.43203Z";

fn page(stream: Stream, rows: &[&str]) -> Rows {
    read_page(stream, TimeField::Updated, &format!("[{}]", rows.join(",")).into()).unwrap()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn rows_are_set_aside_whole_byte_for_byte_while_their_neighbours_land() {
    let cases = [
        (r#"{"updated":"2024-01-01T00:00:00Z"}"#, "id: not set"),
        (r#"{"id":null,"updated":"2024-01-01T00:00:00Z"}"#, "id: not set"),
        (r#"{"id": {} , "updated":"2024-01-01T00:00:00Z"}"#, "id: an object"),
        (r#"{"id":1.5,"updated":"2024-01-01T00:00:00Z"}"#, "id: not a whole number"),
        (r#"{"id":99999999999999999999}"#, "id: a number beyond 64 bits"),
        ("\"a string\"", "not an object"),
        ("null", "not an object"),
        ("[]", "not an object"),
        ("bare", "not an object"),
    ];
    for stream in Stream::ALL {
        for (row, reason) in cases {
            let good = |id| format!(r#"{{"id":{id},"updated":"{AT}"}}"#);
            let rows = page(stream, &[&good(8), &format!(" {row}\n"), &good(9)]);
            assert_eq!(rows.elements, 3);
            assert_eq!(rows.placed().collect::<Vec<_>>(), [(time(AT), 8), (time(AT), 9)]);
            assert_eq!(rows.listed.len(), 3, "none is left out of the page's order");
            assert_eq!(rows.messages.len() + rows.conversations.len() + rows.contacts.len(), 2);
            let (source_id, version) = (None, rows.rejects[0].version);
            let payload = row.into();
            let reason = reason.to_owned();
            assert_eq!(
                rows.rejects,
                [Reject { stream, source_id, version, partial: false, embedded: false, reason, payload }]
            );
        }
    }
}

#[test]
fn a_row_without_a_time_lands_and_has_no_place() {
    let cases = [
        ("", None),
        (r#","updated":null"#, None),
        (r#","updated":"""#, None),
        (r#","updated":"0001-01-01T00:00:00Z""#, None),
        (r#","updated":"soon\u0000\ud800""#, Some("updated: not an RFC 3339 time")),
        (r#","updated":1734910309"#, Some("updated: a number")),
    ];
    for stream in Stream::ALL {
        for (updated, reason) in cases {
            let rows = page(stream, &[&format!(r#"{{"id":1{updated}}}"#)]);
            assert_eq!(rows.messages.len() + rows.conversations.len() + rows.contacts.len(), 1);
            assert_eq!(rows.listed, [(None, 1)]);
            let partial: Vec<_> =
                rows.rejects.iter().map(|reject| (reject.partial, reject.reason.as_str())).collect();
            assert_eq!(partial, reason.map(|reason| (true, reason)).into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn messages_are_placed_by_the_time_that_is_asked_for() {
    let body = r#"[{"id":"5","date":"2024-01-01T00:00:00Z","updated":"soon"},{"id":5,"updated":"2024-01-01T00:00:00Z"}]"#;
    let rows = read_page(Stream::Messages, TimeField::Date, &body.into()).unwrap();
    assert_eq!(rows.listed, [(Some(time("2024-01-01T00:00:00Z")), 5), (None, 5)]);
    assert_eq!(rows.messages[0].updated, None);
    let verdicts: Vec<_> =
        rows.rejects.iter().map(|reject| (reject.partial, reject.reason.as_str())).collect();
    assert_eq!(verdicts, [(true, "updated: not an RFC 3339 time")]);
}

#[test]
fn a_row_repeated_on_a_page_comes_twice() {
    let row = format!(r#"{{"id":3,"updated":"{AT}"}}"#);
    let rows = page(Stream::Contacts, &[&row, &row]);
    assert_eq!((rows.contacts.len(), rows.listed.len(), rows.elements), (2, 2, 2));
}

#[test]
fn a_row_alone_needs_only_its_id() {
    let mut rows = Rows::default();
    read_row(Stream::Conversations, &" {\"id\":4}\n".into(), &mut rows);
    read_row(Stream::Conversations, &"{\"id\":4} {}".into(), &mut rows);
    read_row(Stream::Conversations, &"{\"id\":4,".into(), &mut rows);
    read_row(Stream::Conversations, &"".into(), &mut rows);
    let raw = " {\"id\":4}\n".into();
    assert_eq!(rows.conversations, [Conversation { id: 4, raw, ..Conversation::default() }]);
    assert_eq!((rows.elements, rows.listed.len()), (0, 0));
    let payloads: Vec<_> = rows.rejects.iter().map(|reject| &reject.payload[..]).collect();
    assert_eq!(payloads, [&b"{\"id\":4} {}"[..], b"{\"id\":4,", b""]);
}

#[test]
fn bodies_that_are_no_array_of_rows() {
    let deep = format!("[{}{}]", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    let many = format!("[{}1]", "1,".repeat(MAX_ROWS_PER_PAGE));
    let cases: [(&str, usize, &str); 19] = [
        ("", 0, "it does not begin with a bracket"),
        ("<html>", 0, "it does not begin with a bracket"),
        (" {\"error\":\"bad_data\"}", 1, "it does not begin with a bracket"),
        ("[", 1, "it ends inside a value"),
        ("[{}", 3, "it ends inside a value"),
        ("[{},", 4, "it ends inside a value"),
        ("[{\"a\":\"b\\", 8, "it ends inside a value"),
        ("[{\"a\":\"b", 8, "it ends inside a value"),
        ("[{\"a\":tr", 8, "it ends inside a value"),
        ("[{}] x", 5, "something follows the end"),
        ("[{}]]", 4, "something follows the end"),
        ("[{},]", 4, "a value is missing"),
        ("[,{}]", 1, "a value is missing"),
        ("[{\"a\":}]", 6, "a value is missing"),
        ("[{\"a\":1,}]", 8, "a field name is missing"),
        ("[{\"a\" 1}]", 6, "a colon is missing after a field name"),
        ("[{\"a\":1]}", 7, "a comma or a closing bracket is missing"),
        (&deep, MAX_DEPTH + 1, "it is nested too deeply"),
        (&many, 100_002, "it has too many rows"),
    ];
    for (body, offset, reason) in cases {
        let error = split(body.as_bytes()).expect_err(reason);
        assert_eq!((error.offset, error.reason), (offset, reason), "{body:.20}");
        assert!(read_page(Stream::Messages, TimeField::Date, &body.to_owned().into()).is_err());
    }
}

#[test]
fn elements_are_split_as_they_came() {
    let body = b"\xEF\xBB\xBF [ {\"a\" : \"\xFF]\\\"\\ud800\"} , 1e999,NaN,[ ],{ } ,\"\"]\n";
    let elements: [&[u8]; 6] = [b"{\"a\" : \"\xFF]\\\"\\ud800\"}", b"1e999", b"NaN", b"[ ]", b"{ }", b"\"\""];
    assert_eq!(split(body).unwrap(), elements);
    assert_eq!(split(b"[]").unwrap(), [b""; 0]);
    assert_eq!(split(b" null\n").unwrap(), [b""; 0]);
    let deep = format!("[{}{}]", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert_eq!(split(deep.as_bytes()).unwrap().len(), 1);
}

#[test]
fn what_is_read_of_a_page_is_bounded_by_its_length() {
    let row = |rest: &str| format!(r#"{{"id":1,"date":"{AT}","updated":"{AT}"{rest}}}"#);
    let times =
        |row: &str, times: usize| format!("[{}{row}]", format!("{row},").repeat(times - 1)).into_bytes();
    let notes = (0..MAX_ENTRIES).map(|id| format!(r#"{{"id":"{id}"}}"#)).collect::<Vec<_>>().join(",");
    let notes = row(&format!(r#","note":[{notes}]"#));
    let text = |byte: u8| {
        let mut body = times(&row(r#","text":"~","first":"~""#), 1);
        let at = body.iter().position(|byte| *byte == b'~').unwrap();
        body.splice(at..=at, std::iter::repeat_n(byte, MAX_GROWTH));
        body
    };
    let cases: [(&str, Stream, Vec<u8>, bool); 10] = [
        ("a row of nothing", Stream::Messages, times("{}", 1), true),
        ("as many as a page has", Stream::Messages, times("{}", 200), true),
        ("the shortest rows", Stream::Messages, times(&row(""), 10_000), true),
        ("too many of them", Stream::Messages, times(&row(""), 40_000), false),
        ("rejects", Stream::Contacts, times("{}", 40_000), false),
        ("a long list", Stream::Contacts, times(&notes, 1), true),
        ("long lists", Stream::Contacts, times(&notes, 40), false),
        ("a long text", Stream::Messages, text(b'x'), true),
        ("a long text that is not UTF-8", Stream::Messages, text(0xFF), false),
        ("a long text of control characters", Stream::Messages, text(1), false),
    ];
    for (name, stream, body, is_read) in cases {
        let rows = read_page(stream, TimeField::Updated, &body.into());
        assert_eq!(rows.as_ref().map_or_else(|error| !error.is_too_much(), |_| true), is_read, "{name}");
        assert_eq!(rows.is_ok(), is_read, "{name}");
    }
}
