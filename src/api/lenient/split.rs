//! A page's body → its rows as they came.

use super::scan::{Elements, Fault};

/// The most elements one page may have: five times the most that `api.page_size` can ask for, and about as
/// many real rows as the default of `api.max_body` holds.
pub const MAX_ROWS_PER_PAGE: usize = 50_000;

/// The byte order mark that a JSON text may begin with.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

const TOO_MANY_ROWS: &str = "it has too many rows";
const TOO_MUCH: &str = "what is read of it takes too much memory";

/// The body is not one whole JSON array of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a JSON array of rows: {reason}, at byte {offset}")]
pub struct NotAnArray {
    /// Bytes from the beginning of the body.
    pub offset: usize,
    pub reason: &'static str,
}

impl NotAnArray {
    /// What is read of the body up to `offset` takes too much memory.
    pub(super) fn too_much(offset: usize) -> Self {
        Self { offset, reason: TOO_MUCH }
    }

    /// Whether it may be an array, but of too much to be read at once: a page of fewer rows may be read.
    pub fn is_too_much(&self) -> bool {
        matches!(self.reason, TOO_MANY_ROWS | TOO_MUCH)
    }
}

/// The elements of the body's array (none of `null`), each as it came, without the whitespace around it.
///
/// Nothing inside a string or a bare word is judged here; brackets, commas, colons and field names
/// must be in their places.
///
/// # Errors
///
/// [`NotAnArray`] if the body is no array, ends early, goes on after the array's end, is nested
/// deeper than [`super::MAX_DEPTH`], or has more than [`MAX_ROWS_PER_PAGE`] elements.
pub fn split(body: &[u8]) -> Result<Vec<&[u8]>, NotAnArray> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let skipped = body.len() - text.len();
    split_text(text).map_err(|Fault { offset, reason }| NotAnArray { offset: offset + skipped, reason })
}

fn split_text(text: &[u8]) -> Result<Vec<&[u8]>, Fault> {
    if text.trim_ascii() == b"null" {
        return Ok(Vec::new());
    }
    let mut elements = Elements::of(text)?;
    let mut rows = Vec::new();
    while let Some(value) = elements.next()? {
        if rows.len() == MAX_ROWS_PER_PAGE {
            return Err(Fault { offset: elements.offset(), reason: TOO_MANY_ROWS });
        }
        rows.push(value.raw);
    }
    Ok(rows)
}
