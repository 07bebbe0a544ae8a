//! Whether a row lands.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::extra::Extra;
use crate::api::model::{Reject, Rows, Stream, Version};

/// A row of a stream, as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub stream: Stream,
    pub raw: &'a Bytes,
    /// As far as it could be read.
    pub version: Version,
    /// It came embedded in a message.
    pub embedded: bool,
}

impl Row<'_> {
    /// The id under which the row lands, and its place noted; none if the row is set aside whole.
    ///
    /// `place` is the field that places the row on its time line, and what was read of it.
    #[inline]
    pub fn admit(
        self,
        id: Option<i64>,
        place: Option<(&'static str, Option<DateTime<Utc>>)>,
        extra: &Extra<'_>,
        rows: &mut Rows,
    ) -> Option<i64> {
        let Some(id) = id else {
            self.set_aside(None, unset("id", extra), rows);
            return None;
        };
        match place {
            None => {}
            Some((_, Some(time))) => rows.placed.push((time, id)),
            Some((field, None)) => {
                self.set_aside(Some(id), unset(field, extra), rows);
                return None;
            }
        }
        Some(id)
    }

    /// Keeps the row, byte for byte, as a reject.
    pub fn set_aside(self, id: Option<i64>, reason: String, rows: &mut Rows) {
        rows.rejects.push(Reject {
            stream: self.stream,
            source_id: id.map(|id| id.to_string()),
            version: self.version,
            partial: false,
            embedded: self.embedded,
            reason,
            payload: self.raw.clone(),
        });
    }
}

fn unset(field: &str, extra: &Extra<'_>) -> String {
    format!("{field}: {}", extra.reason(field).unwrap_or("not set"))
}
