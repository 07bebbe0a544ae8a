//! Page bytes in, rows out, whatever the page holds.
//!
//! A page is split into its elements first and each element is read on its own, so that a bad row
//! costs neither its neighbours nor its own other fields. What has one sensible meaning is read so
//! (`"5"` where an integer belongs); the rest stays visible: a field that cannot be read becomes
//! `None`, its raw value stays in `_extra`, and the row is listed as a partial reject. A row whose
//! id cannot be read is set aside whole, byte for byte.
//!
//! Reading is linear in the input, does not recurse, and never panics.

mod contact;
mod conversation;
mod entries;
mod extra;
mod json;
mod memory;
mod message;
mod number;
mod row;
mod scalar;
mod scan;
mod split;
mod text;
mod time;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::model::{Rows, Stream, TimeField};

use memory::Mark;

pub use json::MAX_JSON_DEPTH;
pub use memory::MAX_GROWTH;
pub use scan::MAX_DEPTH;
pub use split::{MAX_ROWS_PER_PAGE, NotAnArray, split};

pub use entries::MAX_ENTRIES;

/// Rows for which room is made beforehand.
const LIKELY_ROWS: usize = 1_000;

/// Reads one page of `stream`, whose rows are placed on their time line by `placed_by`.
///
/// Rows and rejects hold slices of `body` and keep it alive. `null`, as which Go prints a list that was
/// never made, is a page without rows.
///
/// Conversations and contacts have one time line, by `updated`; for them `placed_by` is not looked at.
///
/// # Errors
///
/// [`NotAnArray`] if the body is not one whole JSON array, or `null`, within the bounds of [`split`], or if what is
/// read of it takes more than [`MAX_GROWTH`] bytes more than the body.
pub fn read_page(stream: Stream, placed_by: TimeField, body: &Bytes) -> Result<Rows, NotAnArray> {
    read_page_beyond(&|_, _| false, stream, placed_by, body)
}

/// Tells by id and `updated` that a conversation is held at that version or a newer one.
pub type IsHeld<'a> = &'a dyn Fn(i64, Option<DateTime<Utc>>) -> bool;

/// Like [`read_page`], but passes over conversations embedded in messages that `is_held` tells are held: most
/// messages bring one along that another message brought before.
pub fn read_page_beyond(
    is_held: IsHeld<'_>,
    stream: Stream,
    placed_by: TimeField,
    body: &Bytes,
) -> Result<Rows, NotAnArray> {
    let elements = split(body)?;
    let most = memory::most(body.len());
    let bare = elements.len() * memory::of_empty_row(stream);
    if bare.max(memory::growth_of_text(body)) > most - body.len() {
        return Err(NotAnArray::too_much(body.len()));
    }
    let mut rows = Rows { elements: elements.len(), ..Rows::default() };
    let likely = elements.len().min(LIKELY_ROWS);
    rows.listed.reserve(likely);
    match stream {
        Stream::Messages => {
            rows.messages.reserve(likely);
        }
        Stream::Conversations => rows.conversations.reserve(likely),
        Stream::Contacts => rows.contacts.reserve(likely),
    }
    let mut taken = 0;
    for element in elements {
        let before = Mark::of(&rows);
        let raw = body.slice_ref(element);
        let listed = rows.listed.len();
        match stream {
            Stream::Messages => message::read(is_held, Some(placed_by), &raw, &mut rows),
            Stream::Conversations => conversation::read(Some(placed_by), &raw, &mut rows),
            Stream::Contacts => contact::read(Some(placed_by), &raw, &mut rows),
        }
        if rows.listed.len() == listed {
            rows.listed.push((None, number_of(&raw)));
        }
        taken += before.since(&rows);
        if taken > most {
            let offset = raw.as_ptr() as usize - body.as_ptr() as usize;
            return Err(NotAnArray::too_much(offset));
        }
    }
    Ok(rows)
}

/// Reads one row that is no part of a page (a conversation asked for by its id, another try at a reject), and adds
/// what it holds to `rows`. Bytes that are not one whole JSON object are set aside like any other row that cannot be
/// read.
pub fn read_row(stream: Stream, raw: &Bytes, rows: &mut Rows) {
    match stream {
        Stream::Messages => message::read(&|_, _| false, None, raw, rows),
        Stream::Conversations => conversation::read(None, raw, rows),
        Stream::Contacts => contact::read(None, raw, rows),
    }
}

/// A number for a row whose id cannot be read.
fn number_of(raw: &[u8]) -> i64 {
    let mut hasher = DefaultHasher::new();
    raw.hash(&mut hasher);
    hasher.finish().cast_signed()
}
