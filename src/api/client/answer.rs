//! Reading an answer: its size, its shape, and what a broken one means.

use std::{error::Error, io};

use bytes::{Bytes, BytesMut};

use super::room::{LARGE_BODY, Room, Turn};
use crate::api::{endpoints::Shape, error::ErrorKind};

/// The most bytes of an answer that lists no rows: it is read into a tree, which takes many times as much.
pub(super) const MAX_SMALL_BODY: u64 = 1024 * 1024;
/// How much room is made for a body before it arrives, whatever length it announces.
const MAX_RESERVED: u64 = 1024 * 1024;

/// Why there is no whole body.
pub(super) enum BodyFailure {
    TooLarge,
    Broken(reqwest::Error),
}

/// Reads the body, at most `max` bytes after decompression. With `turn`, a large one waits until no other is held.
pub(super) async fn read_body(
    response: &mut reqwest::Response,
    max: u64,
    mut turn: Option<(&Room, &mut Turn)>,
) -> Result<Bytes, BodyFailure> {
    let announced = response.content_length().unwrap_or(0);
    if announced > max {
        return Err(BodyFailure::TooLarge);
    }
    let mut body = BytesMut::with_capacity(announced.min(MAX_RESERVED) as usize);
    while let Some(chunk) = response.chunk().await.map_err(BodyFailure::Broken)? {
        if (body.len() + chunk.len()) as u64 > max {
            return Err(BodyFailure::TooLarge);
        }
        if let Some((room, turn)) = &mut turn
            && body.len() + chunk.len() > LARGE_BODY
        {
            room.enlarge(turn).await;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Whether a body begins and ends as `shape` does. One that begins right and ends wrong was cut off.
pub(super) fn check_shape(body: &[u8], shape: Shape) -> Result<(), ErrorKind> {
    let body = body.trim_ascii();
    let (Some(first), Some(last)) = (body.first(), body.last()) else { return Err(ErrorKind::NotJson) };
    let (begins, ends) = match shape {
        Shape::Array => (*first == b'[', *last == b']'),
        Shape::Object => (*first == b'{', *last == b'}'),
        Shape::Number if *first == b'"' => (true, *last == b'"' && body.len() > 1),
        Shape::Number => (first.is_ascii_digit(), last.is_ascii_digit()),
    };
    // Go prints a list that was never made as null; a walk never believes one empty page.
    if shape == Shape::Array && body == b"null" {
        return Ok(());
    }
    match (begins, ends && (body.len() > 1 || shape == Shape::Number)) {
        (true, true) => Ok(()),
        (true, false) => Err(ErrorKind::Body),
        (false, _) => Err(ErrorKind::NotJson),
    }
}

/// What an HTTP status other than 2xx means.
pub(super) fn status_kind(status: u16) -> ErrorKind {
    match status {
        300..=399 => ErrorKind::Redirect,
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        404 | 410 => ErrorKind::NotFound,
        408 => ErrorKind::Timeout,
        429 => ErrorKind::RateLimited,
        400..=499 => ErrorKind::BadRequest,
        _ => ErrorKind::Server,
    }
}

/// What a failure below HTTP means.
pub(super) fn transport_kind(error: &reqwest::Error) -> ErrorKind {
    if is_tls(error) {
        ErrorKind::Tls
    } else if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_connect() {
        ErrorKind::Connect
    } else if error.is_builder() {
        ErrorKind::Setup
    } else {
        ErrorKind::Body
    }
}

fn is_tls(error: &reqwest::Error) -> bool {
    std::iter::successors(error.source(), |&error| cause(error)).any(|error| error.is::<rustls::Error>())
}

/// As `source()`, but also what an I/O error wraps, which it leaves out of the chain of sources.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_begins_and_ends_as_its_shape() {
        use ErrorKind::{Body, NotJson};
        let cases: [(Shape, &str, Result<(), ErrorKind>); 19] = [
            (Shape::Array, "[]", Ok(())),
            (Shape::Array, " \n[{\"id\":1}]\n ", Ok(())),
            (Shape::Array, "[", Err(Body)),
            (Shape::Array, "[{\"id\":1},", Err(Body)),
            (Shape::Array, "", Err(NotJson)),
            (Shape::Array, "  ", Err(NotJson)),
            (Shape::Array, "<html></html>", Err(NotJson)),
            (Shape::Array, "{}", Err(NotJson)),
            (Shape::Array, "null", Ok(())),
            (Shape::Object, "{}", Ok(())),
            (Shape::Object, "{\"id\":1", Err(Body)),
            (Shape::Object, "{", Err(Body)),
            (Shape::Object, "[]", Err(NotJson)),
            (Shape::Number, "\"12\"", Ok(())),
            (Shape::Number, "12", Ok(())),
            (Shape::Number, "1", Ok(())),
            (Shape::Number, "\"12", Err(Body)),
            (Shape::Number, "\"", Err(Body)),
            (Shape::Number, "[1]", Err(NotJson)),
        ];
        for (shape, body, verdict) in cases {
            assert_eq!(check_shape(body.as_bytes(), shape), verdict, "{shape:?} {body:?}");
        }
    }

    #[test]
    fn what_a_status_means() {
        let cases = [
            (302, ErrorKind::Redirect),
            (400, ErrorKind::BadRequest),
            (401, ErrorKind::Unauthorized),
            (403, ErrorKind::Forbidden),
            (404, ErrorKind::NotFound),
            (408, ErrorKind::Timeout),
            (422, ErrorKind::BadRequest),
            (429, ErrorKind::RateLimited),
            (500, ErrorKind::Server),
            (599, ErrorKind::Server),
        ];
        for (status, kind) in cases {
            assert_eq!(status_kind(status), kind, "{status}");
        }
    }
}
