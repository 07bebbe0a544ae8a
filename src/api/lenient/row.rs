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
    /// The id under which the row lands; none if the row is set aside whole. `place` is the row's time on the page's
    /// time line, if it is one of a page.
    #[inline]
    pub fn admit(
        self,
        id: Option<i64>,
        place: Option<Option<DateTime<Utc>>>,
        extra: &Extra<'_>,
        rows: &mut Rows,
    ) -> Option<i64> {
        match id {
            Some(id) => rows.listed.extend(place.map(|time| (time, id))),
            None => self.set_aside(format!("id: {}", extra.reason("id").unwrap_or("not set")), rows),
        }
        id
    }

    /// Keeps the row, byte for byte, as a reject.
    pub fn set_aside(self, reason: String, rows: &mut Rows) {
        rows.rejects.push(Reject {
            stream: self.stream,
            source_id: None,
            version: self.version,
            partial: false,
            embedded: self.embedded,
            reason,
            payload: self.raw.clone(),
        });
    }
}
