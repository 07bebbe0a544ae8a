//! JSON bytes written straight into a buffer: page bodies must cost the sandbox little.

use chrono::{DateTime, Datelike, Timelike, Utc};

/// An object being written; fields come out in call order.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    pub(super) fn close(self) {
        self.out.push(b'}');
    }

    /// Writes the field's name and gives the buffer for its value. `name` needs no escaping.
    pub(super) fn value(&mut self, name: &'static str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        text(self.value(name), value);
    }

    pub(super) fn integer(&mut self, name: &'static str, value: i64) {
        integer(self.value(name), value);
    }

    pub(super) fn flag(&mut self, name: &'static str, value: bool) {
        let literal: &[u8] = if value { b"true" } else { b"false" };
        self.value(name).extend_from_slice(literal);
    }

    pub(super) fn time(&mut self, name: &'static str, value: Option<DateTime<Utc>>) {
        time(self.value(name), value);
    }

    /// `json` as it is.
    pub(super) fn raw(&mut self, name: &'static str, json: &str) {
        self.value(name).extend_from_slice(json.as_bytes());
    }
}

/// Writes `items` as an array.
pub(super) fn array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut plain_from = 0;
    for (position, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..position]);
        plain_from = position + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0xf)]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

pub(super) fn integer(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    digits(out, value.unsigned_abs(), 1);
}

/// As Go prints times: RFC 3339 in UTC, microseconds with trailing zeros trimmed, the zero time for "not
/// set" \[C\].
pub(super) fn time(out: &mut Vec<u8>, value: Option<DateTime<Utc>>) {
    let Some(value) = value else {
        out.extend_from_slice(b"\"0001-01-01T00:00:00Z\"");
        return;
    };
    out.push(b'"');
    digits(out, u64::from(value.year().unsigned_abs()), 4);
    for (separator, part) in [
        (b'-', value.month()),
        (b'-', value.day()),
        (b'T', value.hour()),
        (b':', value.minute()),
        (b':', value.second()),
    ] {
        out.push(separator);
        digits(out, u64::from(part), 2);
    }
    let micros = value.timestamp_subsec_micros();
    if micros > 0 {
        out.push(b'.');
        digits(out, u64::from(micros), 6);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.extend_from_slice(b"Z\"");
}

fn digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut buffer = [b'0'; 20];
    let mut start = buffer.len();
    while value > 0 {
        start -= 1;
        buffer[start] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&buffer[start.min(buffer.len() - width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        for sample in ["", "plain", "a\"b\\c\nd\re\tf", "\u{0}\u{1}\u{1f}\u{7f}", "🙂 שלום 你好\u{2028}"]
        {
            let mut out = Vec::new();
            text(&mut out, sample);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), sample);
        }
    }

    #[test]
    fn integers_read_back() {
        for sample in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            integer(&mut out, sample);
            assert_eq!(String::from_utf8(out).unwrap(), sample.to_string());
        }
    }

    #[test]
    fn times_are_printed_as_go_does() {
        for (input, printed) in [
            ("2024-12-22T23:31:49.432030Z", "\"2024-12-22T23:31:49.43203Z\""),
            ("2024-01-02T03:04:05Z", "\"2024-01-02T03:04:05Z\""),
            ("2024-01-02T03:04:05.000001Z", "\"2024-01-02T03:04:05.000001Z\""),
            ("2024-01-02T03:04:05.5Z", "\"2024-01-02T03:04:05.5Z\""),
        ] {
            let mut out = Vec::new();
            time(&mut out, Some(input.parse().unwrap()));
            assert_eq!(String::from_utf8(out).unwrap(), printed);
        }
        let mut out = Vec::new();
        time(&mut out, None);
        assert_eq!(out, b"\"0001-01-01T00:00:00Z\"");
    }
}
