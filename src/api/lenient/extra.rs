//! What of an object has no column of its own: `_extra`, and the list of what could not be read.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use compact_str::CompactString;

use super::{json, number::PrintRoom, row::Row, scalar, scan::Value};
use crate::api::model::{Json, Reject};

/// Why a row with a number that became a string is partial.
const NO_NUMBER: &str = "a number that jsonb cannot hold or print, kept as a string";
/// Stands for the names of unknown fields in reasons.
const UNKNOWN: &str = "a field without a column";

/// Gathers the unknown fields of one object, and the known ones that could not be read.
///
/// Of a field that comes twice the later one counts, here as in the columns.
#[derive(Debug, Default)]
pub(super) struct Extra<'a> {
    /// Unknown fields as JSON text, each followed by a comma.
    unknown: String,
    /// Known fields whose raw value is kept.
    kept: Vec<Kept<'a>>,
    /// Fields in which a number became a string.
    strings: Vec<&'static str>,
    room: PrintRoom,
}

#[derive(Debug)]
struct Kept<'a> {
    name: &'static str,
    value: Value<'a>,
    /// Why it could not be read; none if it was, but not all of it has a column.
    reason: Option<Cow<'static, str>>,
}

impl<'a> Extra<'a> {
    #[inline]
    pub fn text(&mut self, name: &'static str, value: Value<'a>) -> Option<CompactString> {
        self.settle(name, value, scalar::text(value))
    }

    #[inline]
    pub fn integer(&mut self, name: &'static str, value: Value<'a>) -> Option<i64> {
        self.settle(name, value, scalar::integer(value))
    }

    #[inline]
    pub fn flag(&mut self, name: &'static str, value: Value<'a>) -> Option<bool> {
        self.settle(name, value, scalar::flag(value))
    }

    #[inline]
    pub fn time(&mut self, name: &'static str, value: Value<'a>) -> Option<DateTime<Utc>> {
        self.settle(name, value, scalar::time(value))
    }

    #[inline]
    pub fn any(&mut self, name: &'static str, value: Value<'a>) -> Option<Json> {
        let reading = scalar::any(value, &mut self.room);
        let (json, whole) = self.settle(name, value, reading)?;
        if !whole {
            self.strings.push(name);
        }
        Some(json)
    }

    #[inline]
    fn settle<T>(&mut self, name: &'static str, value: Value<'a>, reading: scalar::Reading<T>) -> Option<T> {
        self.forget(name);
        reading.unwrap_or_else(|reason| {
            self.keep(name, value, Some(reason.into()));
            None
        })
    }

    /// Keeps the raw value of a known field, with the reason if it could not be read.
    pub fn keep(&mut self, name: &'static str, value: Value<'a>, reason: Option<Cow<'static, str>>) {
        self.forget(name);
        self.kept.push(Kept { name, value, reason });
    }

    /// Drops what was kept of an earlier field of this name.
    #[inline]
    pub fn forget(&mut self, name: &'static str) {
        if !self.kept.is_empty() {
            self.kept.retain(|kept| kept.name != name);
        }
        if !self.strings.is_empty() {
            self.strings.retain(|field| *field != name);
        }
    }

    /// Keeps a field that has no column.
    pub fn unknown(&mut self, name: &[u8], value: Value<'a>) {
        json::write_string(&String::from_utf8_lossy(name), &mut self.unknown);
        self.unknown.push(':');
        if !json::write(value, &mut self.room, &mut self.unknown) && !self.strings.contains(&UNKNOWN) {
            self.strings.push(UNKNOWN);
        }
        self.unknown.push(',');
    }

    /// Whether everything was read as it is, and has a column.
    pub fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.kept.is_empty() && self.strings.is_empty()
    }

    /// Why the field `name` could not be read, if that is so.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.kept.iter().find(|kept| kept.name == name)?.reason.as_deref()
    }

    /// The fields that could not be read as they are, each with the reason; none if there are none.
    pub fn reasons(&self) -> Option<String> {
        let unread =
            self.kept.iter().filter_map(|kept| Some(format!("{}: {}", kept.name, kept.reason.as_ref()?)));
        let strings = self.strings.iter().map(|name| format!("{name}: {NO_NUMBER}"));
        let reasons: Vec<String> = unread.chain(strings).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The `_extra` column of a row that lands, whose unread fields are listed in `rejects`.
    #[inline]
    pub fn finish(mut self, row: Row<'_>, id: i64, rejects: &mut Vec<Reject>) -> Option<Json> {
        if self.is_empty() {
            return None;
        }
        let mut fields = std::mem::take(&mut self.unknown);
        for Kept { name, value, reason } in &self.kept {
            json::write_string(name, &mut fields);
            fields.push(':');
            if !json::write(*value, &mut self.room, &mut fields) && reason.is_none() {
                self.strings.push(name);
            }
            fields.push(',');
        }
        if let Some(reason) = self.reasons() {
            let Row { stream, raw, version, embedded } = row;
            rejects.push(Reject {
                stream,
                source_id: Some(id.to_string()),
                version,
                partial: true,
                embedded,
                reason,
                payload: raw.clone(),
            });
        }
        // The last comma becomes the end; none are there if all has a column.
        fields.pop()?;
        fields.push('}');
        // In place: it may be as long as the page.
        fields.insert(0, '{');
        Some(Json(fields))
    }
}
