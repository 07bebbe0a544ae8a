//! A page's body → its rows as they came.

use super::scan::{Elements, Fault};

/// The most elements one page may have: far above any page size the API was seen to honour.
pub const MAX_ROWS_PER_PAGE: usize = 100_000;

/// The byte order mark that a JSON text may begin with.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The body is not one whole JSON array of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a JSON array of rows: {reason}, at byte {offset}")]
pub struct NotAnArray {
    /// Bytes from the beginning of the body.
    pub offset: usize,
    pub reason: &'static str,
}

/// The elements of the body's array, each as it came, without the whitespace around it.
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
    let mut elements = Elements::of(text)?;
    let mut rows = Vec::new();
    while let Some(value) = elements.next()? {
        if rows.len() == MAX_ROWS_PER_PAGE {
            return Err(Fault { offset: elements.offset(), reason: "it has too many rows" });
        }
        rows.push(value.raw);
    }
    Ok(rows)
}
