//! JSON as it came → JSON that PostgreSQL's `jsonb` accepts.

use super::{
    number::PrintRoom,
    scan::{Kind, Scanner, Value},
    text,
};

/// The deepest nesting that is kept as structure; what lies deeper is kept as a string of its text.
/// Well within what PostgreSQL's own stack limit allows.
pub const MAX_JSON_DEPTH: usize = 128;

/// Appends `value`, without insignificant whitespace; returns whether all numbers stayed numbers.
///
/// Text is mended as in text columns. What JSON does not know, numbers that `jsonb` cannot hold or that do not fit into
/// `room`, and what is nested deeper than [`MAX_JSON_DEPTH`] become strings of their text. Of a field name
/// that comes twice both are kept; `jsonb` takes the later one.
pub(super) fn write(value: Value<'_>, room: &mut PrintRoom, out: &mut String) -> bool {
    if !matches!(value.kind, Kind::Array | Kind::Object) {
        return write_scalar(value, room, out);
    }
    let mut whole = true;
    let mut scanner = Scanner::new(value.raw);
    let mut depth = 0;
    loop {
        scanner.whitespace();
        let Some(byte) = scanner.peek() else { break };
        match byte {
            b'{' | b'[' if depth < MAX_JSON_DEPTH => {
                depth += 1;
                out.push(char::from(byte));
                scanner.advance();
            }
            b'}' | b']' => {
                depth -= 1;
                out.push(char::from(byte));
                scanner.advance();
            }
            b',' | b':' => {
                out.push(char::from(byte));
                scanner.advance();
            }
            _ => {
                let inner =
                    scanner.value().expect("invariant: a value was scanned whole before it is written");
                whole &= write_scalar(inner, room, out);
            }
        }
    }
    whole
}

/// Appends `text` as a JSON string.
pub(super) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|char: char| char < ' ' || char == '"' || char == '\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                out.push_str(if control < 0x10 { "\\u000" } else { "\\u001" });
                out.extend(char::from_digit(u32::from(control & 0xF), 16));
            }
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// Appends a value that has no structure, or whose structure is not kept; returns whether a number stayed one.
fn write_scalar(value: Value<'_>, room: &mut PrintRoom, out: &mut String) -> bool {
    match value.kind {
        Kind::Null => out.push_str("null"),
        Kind::True => out.push_str("true"),
        Kind::False => out.push_str("false"),
        Kind::Number if room.admits(value.raw) => out.push_str(&text::mend(value.raw)),
        Kind::Number => {
            write_string(&text::mend(value.raw), out);
            return false;
        }
        Kind::Text { .. } => write_string(&text::decode(value).text, out),
        Kind::Malformed | Kind::Array | Kind::Object => write_string(&text::mend(value.raw), out),
    }
    true
}
