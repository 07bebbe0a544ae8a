//! One field's value → a column's value, where it has one sensible meaning.
//!
//! `Ok(None)` is "not set"; `Err` says what is there instead, and never holds the value.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use compact_str::CompactString;

use super::{
    json,
    number::{Decimal, NoInteger, PrintRoom},
    scan::{Kind, Value},
    text, time,
};
use crate::api::model::Json;

pub(super) type Reading<T> = Result<Option<T>, &'static str>;

/// Text as it is; of a number or a flag, its JSON text.
#[inline]
pub(super) fn text(value: Value<'_>) -> Reading<CompactString> {
    match value.kind {
        Kind::Null => Ok(None),
        Kind::Text { .. } => string(value).map(|text| Some(text.into())),
        Kind::Number | Kind::True | Kind::False => Ok(Some(text::mend(value.raw).into())),
        Kind::Array | Kind::Object | Kind::Malformed => Err(unexpected(value.kind)),
    }
}

/// An integral number, bare or in a string; "" is not set.
#[inline]
pub(super) fn integer(value: Value<'_>) -> Reading<i64> {
    match value.kind {
        Kind::Null => Ok(None),
        Kind::Number => number(value.raw).map(Some),
        Kind::Text { .. } => match string(value)?.trim() {
            "" => Ok(None),
            digits => number(digits.as_bytes()).map(Some),
        },
        _ => Err(unexpected(value.kind)),
    }
}

/// `true` and `false`, or 1 and 0, bare or in a string; "" is not set.
#[inline]
pub(super) fn flag(value: Value<'_>) -> Reading<bool> {
    const NO_FLAG: &str = "neither true nor false";
    match value.kind {
        Kind::Null => Ok(None),
        Kind::True => Ok(Some(true)),
        Kind::False => Ok(Some(false)),
        Kind::Number => match number(value.raw) {
            Ok(0) => Ok(Some(false)),
            Ok(1) => Ok(Some(true)),
            _ => Err(NO_FLAG),
        },
        Kind::Text { .. } => match string(value)?.trim() {
            "" => Ok(None),
            "0" => Ok(Some(false)),
            "1" => Ok(Some(true)),
            word if word.eq_ignore_ascii_case("true") => Ok(Some(true)),
            word if word.eq_ignore_ascii_case("false") => Ok(Some(false)),
            _ => Err(NO_FLAG),
        },
        _ => Err(unexpected(value.kind)),
    }
}

/// A time in a string; "" and Go's zero time are not set. A bare number could count seconds or
/// milliseconds and is not read.
#[inline]
pub(super) fn time(value: Value<'_>) -> Reading<DateTime<Utc>> {
    match value.kind {
        Kind::Null => Ok(None),
        Kind::Text { .. } => match string(value)?.trim() {
            "" => Ok(None),
            stamp => match time::parse(stamp.as_bytes()) {
                Some(time) => Ok(Some(time).filter(|time| !time::is_go_zero(*time))),
                None => Err("not an RFC 3339 time"),
            },
        },
        _ => Err(unexpected(value.kind)),
    }
}

/// Any JSON, made fit for `jsonb`, and whether all numbers stayed numbers.
#[inline]
pub(super) fn any(value: Value<'_>, room: &mut PrintRoom) -> Reading<(Json, bool)> {
    match value.kind {
        Kind::Null => Ok(None),
        Kind::Malformed => Err(unexpected(value.kind)),
        _ => {
            let mut text = String::with_capacity(value.raw.len());
            let whole = json::write(value, room, &mut text);
            Ok(Some((Json(text), whole)))
        }
    }
}

fn string<'a>(value: Value<'a>) -> Result<Cow<'a, str>, &'static str> {
    let decoded = text::decode(value);
    if decoded.malformed { Err("an escape that JSON does not know") } else { Ok(decoded.text) }
}

/// The integer written in `digits`: as JSON writes numbers, or with a plus sign or leading zeros.
#[inline]
fn number(digits: &[u8]) -> Result<i64, &'static str> {
    if let Some(value) = short_integer(digits) {
        return Ok(value);
    }
    let unsigned = digits.strip_prefix(b"+").or(digits.strip_prefix(b"-")).unwrap_or(digits);
    if !unsigned.first().is_some_and(u8::is_ascii_digit) {
        return Err("not a number");
    }
    let zeros = unsigned.iter().take_while(|digit| **digit == b'0').count();
    let is_padding = unsigned.get(zeros).is_some_and(u8::is_ascii_digit);
    let padding = if is_padding { zeros } else { zeros.saturating_sub(1) };
    let written = match digits[0] {
        b'-' if padding > 0 => Cow::Owned([b"-", &unsigned[padding..]].concat()),
        b'-' => Cow::Borrowed(digits),
        _ => Cow::Borrowed(&unsigned[padding..]),
    };
    match Decimal::parse(&written).map(Decimal::to_i64) {
        Some(Ok(value)) => Ok(value),
        Some(Err(NoInteger::Fraction)) => Err("not a whole number"),
        Some(Err(NoInteger::OutOfRange)) => Err("a number beyond 64 bits"),
        None => Err("not a number"),
    }
}

/// The usual case: few enough digits that nothing can overflow.
#[inline]
fn short_integer(digits: &[u8]) -> Option<i64> {
    const NEVER_OVERFLOWS: usize = 18;
    if digits.is_empty() || digits.len() > NEVER_OVERFLOWS {
        return None;
    }
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

fn unexpected(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::True | Kind::False => "a boolean",
        Kind::Number => "a number",
        Kind::Text { .. } => "text",
        Kind::Array => "an array",
        Kind::Object => "an object",
        Kind::Malformed => "not JSON",
    }
}
