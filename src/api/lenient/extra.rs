//! What of an object has no column of its own: `_extra`, and the list of what could not be read.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use compact_str::CompactString;

use super::{json, row::Row, scalar, scan::Value};
use crate::api::model::{Json, Reject};

/// Gathers the unknown fields of one object, and the known ones that could not be read.
///
/// Of a field that comes twice the later one counts, here as in the columns.
#[derive(Debug, Default)]
pub(super) struct Extra<'a> {
    /// Unknown fields as JSON text, each followed by a comma.
    unknown: String,
    /// Known fields whose raw value is kept.
    kept: Vec<Kept<'a>>,
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
        self.settle(name, value, scalar::any(value))
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
    }

    /// Keeps a field that has no column.
    pub fn unknown(&mut self, name: &[u8], value: Value<'a>) {
        json::write_string(&String::from_utf8_lossy(name), &mut self.unknown);
        self.unknown.push(':');
        json::write(value, &mut self.unknown);
        self.unknown.push(',');
    }

    /// Whether everything was read and has a column.
    pub fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.kept.is_empty()
    }

    /// Why the field `name` could not be read, if that is so.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.kept.iter().find(|kept| kept.name == name)?.reason.as_deref()
    }

    /// The fields that could not be read, each with the reason; none if there are none.
    pub fn reasons(&self) -> Option<String> {
        let unread =
            self.kept.iter().filter_map(|kept| Some(format!("{}: {}", kept.name, kept.reason.as_ref()?)));
        let reasons: Vec<String> = unread.collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The `_extra` column of a row that lands, whose unread fields are listed in `rejects`.
    #[inline]
    pub fn finish(self, row: Row<'_>, id: i64, rejects: &mut Vec<Reject>) -> Option<Json> {
        if self.is_empty() {
            return None;
        }
        if let Some(reason) = self.reasons() {
            let Row { stream, raw, version } = row;
            let source_id = Some(id.to_string());
            rejects.push(Reject { stream, source_id, version, partial: true, reason, payload: raw.clone() });
        }
        let mut fields = self.unknown;
        for Kept { name, value, .. } in &self.kept {
            json::write_string(name, &mut fields);
            fields.push(':');
            json::write(*value, &mut fields);
            fields.push(',');
        }
        fields.pop();
        fields.push('}');
        // In place: it may be as long as the page.
        fields.insert(0, '{');
        Some(Json(fields))
    }
}
