//! JSON strings → text that PostgreSQL can hold.

use std::borrow::Cow;

use super::scan::{Kind, Value};

/// Stands for what text cannot hold: U+0000, an unpaired surrogate, bytes that are not UTF-8.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A decoded string.
pub(super) struct Text<'a> {
    pub text: Cow<'a, str>,
    /// It has an escape that JSON does not know, which `text` keeps as it came.
    pub malformed: bool,
}

/// What is between a string's quotes.
#[inline]
pub(super) fn content(raw: &[u8]) -> &[u8] {
    raw.get(1..raw.len() - 1).unwrap_or_default()
}

/// Decodes a string value, mending what text cannot hold.
#[inline]
pub(super) fn decode<'a>(string: Value<'a>) -> Text<'a> {
    let content = content(string.raw);
    match str::from_utf8(content) {
        Ok(text) if string.kind == (Kind::Text { plain: true }) => {
            Text { text: Cow::Borrowed(text), malformed: false }
        }
        _ => decode_escaped(content),
    }
}

/// Bytes as text, with what is not UTF-8, and U+0000, replaced.
pub(super) fn mend(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{FFFD}")) } else { text }
}

fn decode_escaped(content: &[u8]) -> Text<'static> {
    let mut text = String::with_capacity(content.len());
    let mut malformed = false;
    let mut rest = content;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        text.push_str(&mend(&rest[..at]));
        rest = &rest[at..];
        match escape(rest) {
            Some((char, length)) => {
                text.push(char);
                rest = &rest[length..];
            }
            None => {
                malformed = true;
                text.push('\\');
                rest = &rest[1..];
            }
        }
    }
    text.push_str(&mend(rest));
    Text { text: Cow::Owned(text), malformed }
}

/// The character that the escape at the beginning of `bytes` stands for, and the escape's length.
fn escape(bytes: &[u8]) -> Option<(char, usize)> {
    let char = match bytes.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{C}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = code_unit(bytes)?;
            if let (0xD800..0xDC00, Some(low @ 0xDC00..0xE000)) = (unit, code_unit(&bytes[6..])) {
                let scalar = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return Some((char::from_u32(scalar).unwrap_or(REPLACEMENT), 12));
            }
            let char = char::from_u32(unit).filter(|char| *char != '\0').unwrap_or(REPLACEMENT);
            return Some((char, 6));
        }
        _ => return None,
    };
    Some((char, 2))
}

/// The UTF-16 code unit of the `\uXXXX` at the beginning of `bytes`.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | (*digit as char).to_digit(16)?))
}
