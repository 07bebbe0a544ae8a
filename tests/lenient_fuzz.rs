//! Mutations of real pages: whatever comes, the page reader does not panic, loses no row, and keeps bytes as they
//! came. A long run is started by hand (CONTRIBUTING.md); a short one is part of the tests.

use std::env;
use std::time::Instant;

use bytes::Bytes;
use heymarket_sync::api::{
    lenient::read_page,
    model::{Json, Rows, Stream, TimeField},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Inputs of a long run, unless `FUZZ_INPUTS` says otherwise.
const LONG: u64 = 10_000_000;
const SHORT: u64 = 20_000;
/// Kept JSON is parsed by another parser for one input in so many: that takes longer than reading it.
const PARSED: u64 = 16;
/// A longer input is cut.
const MAX_INPUT: usize = 16 * 1024;

const PAGES: [&str; 4] = [
    r#"[{"author":"a","broadcast_id":0,"conversation":{"assigned":5,"blocked":false,"channel":"sms","created":"2024-12-01T08:00:00.1Z","creator":5,"email_noti":true,"id":71,"inbox":3,"last_inbound":1734910309,"local_id":"","members":[{"id":5,"name":"Ann"},{"id":6,"name":"Bo \ud83d\udc4d"}],"muted":false,"name":"","noreply":"","op":"update","read":17,"replied":true,"snooze_till":"0001-01-01T00:00:00Z","status":"open","super":0,"support":false,"target":"15550100","type":"sms","updated":"2024-12-22T23:31:50Z"},"custom":{"data":[1,2.5e3,{"a":null}],"type":"x"},"date":"2024-12-22T23:31:49.43203Z","flagged":false,"id":9007199254740993,"link_url":"","local_id":"l-1","media":"","phone":"15550199","status":"delivered","super":0,"support":false,"target":"15550100","text":"Hi\n\"there\" é \u0000","type":"text","updated":"2024-12-22T23:31:50.5Z","user":5},{"id":"18","date":"2024-12-22 23:31:49+01:00","updated":null,"conversation":71,"flagged":1,"text":3}]"#,
    r#"[ {"id":3,"updated":"2024-12-22T23:31:49Z","members":[{"id":1,"name":"a"},{"id":1,"name":"b","x":1}],"read":"7","new":{"deep":[[[[{"k":[]}]]]]}},
 {"id":4,"updated":"2024-12-22T23:31:48Z","members":null,"muted":"true","snooze_till":""},
 {"updated":"2024-12-22T23:31:47Z"} ]"#,
    r#"[{"avatar":"","created":"2024-01-01T00:00:00Z","creator_id":5,"custom":{"12":"x","13":["a",1e400000]},"display_name":"Ada L","email":"ada@example.com","external_id":"","external_ref":"","first":"Ada","id":55,"inbox_id":0,"last":"L","note":[{"date":"2024-02-01T00:00:00Z","id":"n1","name":"Bo","text":"call","user_id":6},{"id":7},{"text":"none"}],"op":"","parent_id":0,"phone":"15550100","rev":3,"shared":true,"team_id":1,"type":"person","updated":"2024-12-22T23:31:49.999999999Z","assigned_user_id":5,"tags":[{"id":1},"t",null],"is_opted_out":false}]"#,
    "\u{feff}[]",
];

/// What is put in: pieces of JSON, and what JSON does not know.
const PIECES: [&[u8]; 44] = [
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
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"null",
    b"true",
    b"False",
    b"0",
    b"-0",
    b"-",
    b"01",
    b"1e400000",
    b"-1.5E-99999999999999999999",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"0.0000000000000000001",
    b"NaN",
    b"\"\"",
    b"\"\\u0000\"",
    b"\"\\ud83d\"",
    b"\\ud83d\\u",
    b"\\udc00",
    b"\\x",
    b"\"2024-12-22T23:31:60Z\"",
    b"\"9999-12-31T23:59:60.999999999-23:59\"",
    b"\"0000-01-01T00:00:00+23:59\"",
    b"\"id\":",
    b"\"updated\":",
    b"\"date\":\"",
    b"\"conversation\":{",
    b"\"members\":[",
    b"\"note\":[{\"id\":",
    b"{\"id\":1,\"updated\":\"2024-01-01T00:00:00Z\"}",
    b"\xef\xbb\xbf",
];

/// What is put in the place of a value.
const VALUES: [&[u8]; 16] = [
    b"null",
    b"true",
    b"False",
    b"0",
    b"\"1\"",
    b"{}",
    b"[]",
    b"\"\"",
    b"NaN",
    b"{\"id\":1}",
    b"[{\"id\":1},{\"id\":1}]",
    b"9223372036854775808",
    b"1e400000",
    b"\"0001-01-01T00:00:00Z\"",
    b"\"9999-12-31T23:59:60.5-23:59\"",
    b"\"2024-01-01T00:00:00.1234567+14:00\"",
];

/// The input with this number: the same at each run.
fn input(number: u64) -> (Stream, TimeField, Bytes) {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let page = rng.random_range(0..PAGES.len());
    let mut bytes = PAGES[page].as_bytes().to_vec();
    // Most keep the page's structure, so that what is inside is read.
    let gentle = rng.random_ratio(3, 4);
    for _ in 0..rng.random_range(1..7) {
        if gentle { replace_value(&mut bytes, &mut rng) } else { mutate(&mut bytes, &mut rng) }
    }
    bytes.truncate(MAX_INPUT);
    // Mostly read as what it was.
    let stream = if rng.random_ratio(7, 8) { page % 3 } else { rng.random_range(0..3) };
    let field = if rng.random() { TimeField::Date } else { TimeField::Updated };
    (Stream::ALL[stream], field, bytes.into())
}

/// Puts another value where one begins.
fn replace_value(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    let from = rng.random_range(0..=bytes.len());
    let Some(at) = bytes[from..].iter().position(|byte| *byte == b':').map(|place| from + place + 1) else {
        return;
    };
    let length = bytes[at..].iter().position(|byte| matches!(byte, b',' | b'}' | b']'));
    let end = at + length.unwrap_or_default();
    let value = match rng.random_range(0..6) {
        0 => {
            let levels = rng.random_range(1..300);
            let (open, close): (&[u8], &[u8]) = if rng.random() { (b"[", b"]") } else { (b"{\"a\":", b"}") };
            [&open.repeat(levels)[..], b"1", &close.repeat(levels)].concat()
        }
        1 => (0..rng.random_range(1..40)).map(|_| b"0123456789+-.eE"[rng.random_range(0..15)]).collect(),
        2 => {
            let content: Vec<u8> =
                (0..rng.random_range(0..20)).map(|_| rng.random_range(b'#'..=255)).collect();
            [b"\"", &content[..], b"\""].concat()
        }
        3 => {
            let escapes = ["\\u0000", "\\ud83d", "\\udc4d", "\\q", "\\u12", "\\\\", "\\\"", "\\n", "x"];
            let content: String =
                (0..rng.random_range(1..8)).map(|_| escapes[rng.random_range(0..9)]).collect();
            format!("\"{content}\"").into_bytes()
        }
        4 => PAGES[rng.random_range(0..3)].as_bytes().to_vec(),
        _ => VALUES[rng.random_range(0..VALUES.len())].to_vec(),
    };
    bytes.splice(at..end, value);
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..64)).min(bytes.len());
    match rng.random_range(0..10) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.random();
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let copy = bytes[at..end].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, copy);
        }
        5 => {
            let other = PAGES[rng.random_range(0..PAGES.len())].as_bytes();
            let from = rng.random_range(0..other.len());
            let until = (from + rng.random_range(1..400)).min(other.len());
            bytes.splice(at..end, other[from..until].iter().copied());
        }
        6 => {
            let open: &[u8] = if rng.random() { b"[" } else { b"{\"a\":" };
            let deep = open.repeat(rng.random_range(1..1_200));
            let close: &[u8] = if open == b"[" { b"]" } else { b"}" };
            let closed = rng.random_range(0..1_200).min(deep.len() / open.len());
            let nested = [&deep[..], b"0", &close.repeat(closed)].concat();
            bytes.splice(at..at, nested);
        }
        _ => {
            let piece = PIECES[rng.random_range(0..PIECES.len())];
            let replaced = if rng.random() { at } else { end };
            bytes.splice(at..replaced, piece.iter().copied());
        }
    }
}

/// Reads the input and checks what must hold; whether it was an array.
fn check(number: u64) -> bool {
    let (stream, field, body) = input(number);
    let Ok(rows) = read_page(stream, field, &body) else { return false };
    let landed = rows.messages.len() + rows.conversations.len() + rows.contacts.len();
    let set_aside = rows.rejects.iter().filter(|reject| !reject.partial).count();
    assert_eq!(landed + set_aside, rows.elements, "input {number}: a row is lost");
    assert_eq!(rows.listed.len(), rows.elements, "input {number}");
    let range = body.as_ptr_range();
    let within = |part: &Bytes| {
        let part = part.as_ptr_range();
        range.start <= part.start && part.end <= range.end
    };
    assert!(kept_bytes(&rows).all(within), "input {number}: bytes that did not come");
    if number.is_multiple_of(PARSED) {
        for json in kept_json(&rows) {
            let parsed = serde_json::from_str::<&serde_json::value::RawValue>(&json.0);
            assert!(parsed.is_ok(), "input {number}: {}", json.0);
            assert!(!json.0.contains('\0'), "input {number}");
        }
    }
    true
}

fn kept_bytes(rows: &Rows) -> impl Iterator<Item = &Bytes> {
    let rejects = rows.rejects.iter().map(|reject| &reject.payload);
    let messages = rows.messages.iter().map(|row| &row.raw);
    let conversations = rows.conversations.iter().chain(&rows.embedded).map(|row| &row.raw);
    rejects.chain(messages).chain(conversations).chain(rows.contacts.iter().map(|row| &row.raw))
}

fn kept_json(rows: &Rows) -> impl Iterator<Item = &Json> {
    let messages = rows.messages.iter().flat_map(|row| [&row.custom, &row.extra]);
    let conversations = rows.conversations.iter().chain(&rows.embedded).map(|row| &row.extra);
    let contacts = rows.contacts.iter().flat_map(|row| [&row.custom, &row.tags, &row.extra]);
    messages.chain(conversations).chain(contacts).flatten()
}

fn run(inputs: std::ops::Range<u64>) -> u64 {
    inputs.filter(|number| check(*number)).count() as u64
}

#[test]
fn mutated_pages_neither_panic_nor_lose_rows() {
    let arrays = run(0..SHORT);
    assert!(arrays > SHORT / 10, "only {arrays} inputs were arrays: nothing much was read");
    assert!(arrays < SHORT, "none was broken");
}

#[test]
#[ignore = "takes minutes; see CONTRIBUTING.md"]
fn millions_of_mutated_pages_neither_panic_nor_lose_rows() {
    let inputs = env::var("FUZZ_INPUTS").map_or(LONG, |inputs| inputs.parse().expect("a number"));
    let started = Instant::now();
    let arrays = run(SHORT..SHORT + inputs);
    println!("{inputs} inputs in {:.0?}, {arrays} of them arrays; no panic, no row lost", started.elapsed());
}
