//! Times as the source writes them: RFC 3339, as Go prints it \[C\].

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

/// Go's zero time, `0001-01-01T00:00:00Z`, in Unix seconds: "not set" \[C\].
const GO_ZERO_TIME: i64 = -62_135_596_800;

/// Whether `time` is Go's zero time.
pub(super) fn is_go_zero(time: DateTime<Utc>) -> bool {
    time.timestamp_micros() == GO_ZERO_TIME * 1_000_000
}

/// Reads an RFC 3339 time, cut to whole microseconds.
///
/// Also read, since they can mean one thing only: a space instead of `T`, lower-case letters, offsets
/// as `+02` or `+0200`. A leap second is the first second of the next minute, as in PostgreSQL. A
/// time without an offset could be anywhere and is not read. Every time that can be written so lies
/// within the range of `timestamptz`.
pub(super) fn parse(text: &[u8]) -> Option<DateTime<Utc>> {
    let (stamp, rest) = text.split_first_chunk::<19>()?;
    let [_, _, _, _, b'-', _, _, b'-', _, _, b'T' | b't' | b' ', _, _, b':', _, _, b':', _, _] = stamp else {
        return None;
    };
    let date =
        NaiveDate::from_ymd_opt(number(&stamp[..4])? as i32, number(&stamp[5..7])?, number(&stamp[8..10])?)?;
    let second = number(&stamp[17..])?;
    let leap = second == 60;
    let (micros, zone) = fraction(rest)?;
    let local = date.and_hms_micro_opt(
        number(&stamp[11..13])?,
        number(&stamp[14..16])?,
        if leap { 59 } else { second },
        micros,
    )?;
    let shift = i64::from(leap) - offset(zone)?;
    if shift == 0 {
        Some(local.and_utc())
    } else {
        local.and_utc().checked_add_signed(TimeDelta::seconds(shift))
    }
}

/// The microseconds of the fraction, if there is one, and what follows it.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else { return Some((0, text)) };
    let length = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(length);
    if digits.is_empty() {
        return None;
    }
    let micros =
        (0..6).fold(0, |sum, index| sum * 10 + digits.get(index).map_or(0, |digit| u32::from(digit - b'0')));
    Some((micros, rest))
}

/// Seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match zone {
        b"Z" | b"z" => return Some(0),
        [sign, hours @ ..] if hours.len() == 2 => (sign, hours, &b"00"[..]),
        [sign, rest @ ..] if rest.len() == 4 => (sign, &rest[..2], &rest[2..]),
        [sign, rest @ ..] if rest.len() == 5 && rest[2] == b':' => (sign, &rest[..2], &rest[3..]),
        _ => return None,
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = i64::from(hours * 3600 + minutes * 60);
    match sign {
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// At most four digits and nothing else.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
}
