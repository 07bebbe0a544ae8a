//! Binary COPY: the fastest way into a table, for rows that are not there yet.

use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, PgConnection, Postgres};

use crate::api::model::Json;

/// Fewer rows are not worth the round trips that COPY takes.
pub(super) const MIN_ROWS: usize = 50;
/// Bytes of rows that are sent at once, unless one row is larger.
const SEND_BYTES: usize = 32 * 1024;

/// How COPY's binary format begins: signature, flags, and the length of an extension (PostgreSQL's documentation of
/// COPY, "Binary Format"; the values are in the format that parameters have).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The number of columns that ends it.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// The length of NULL.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
/// The version that comes before the text of a jsonb.
const JSONB_VERSION: u8 = 1;

/// Rows on their way into a table.
#[derive(Default)]
pub(super) struct Tuples {
    buffer: PgArgumentBuffer,
}

impl Tuples {
    /// Begins a row.
    fn begin(&mut self, columns: i16) {
        self.buffer.extend_from_slice(&columns.to_be_bytes());
    }

    /// Adds the next column of the row.
    pub fn add<'q, T: Encode<'q, Postgres>>(&mut self, value: Option<T>) -> sqlx::Result<&mut Self> {
        let Some(value) = value else {
            self.buffer.extend_from_slice(&NULL);
            return Ok(self);
        };
        self.sized(|buffer| value.encode_by_ref(buffer).map(|_| ()).map_err(sqlx::Error::Encode))
    }

    /// Adds the next column, one of type jsonb.
    pub fn add_json(&mut self, value: Option<&Json>) -> sqlx::Result<&mut Self> {
        let Some(Json(text)) = value else {
            self.buffer.extend_from_slice(&NULL);
            return Ok(self);
        };
        self.sized(|buffer| {
            buffer.push(JSONB_VERSION);
            buffer.extend_from_slice(text.as_bytes());
            Ok(())
        })
    }

    /// A value behind its length.
    fn sized(
        &mut self,
        value: impl FnOnce(&mut PgArgumentBuffer) -> sqlx::Result<()>,
    ) -> sqlx::Result<&mut Self> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&NULL);
        let value_start = self.buffer.len();
        value(&mut self.buffer)?;
        let length = i32::try_from(self.buffer.len() - value_start)
            .map_err(|_| sqlx::Error::Encode("a value is longer than 2 GiB".into()))?;
        self.buffer[start..value_start].copy_from_slice(&length.to_be_bytes());
        Ok(self)
    }
}

/// Carries out `statement`, a `COPY ... FROM STDIN (FORMAT binary)` of so many columns, with `rows`, each of which
/// `add` adds to the tuples; returns how many rows that wrote. An error ends the transaction.
pub(super) async fn copy<R: Copy>(
    connection: &mut PgConnection,
    statement: &'static str,
    columns: i16,
    rows: &[R],
    add: impl Fn(R, &mut Tuples) -> sqlx::Result<()>,
) -> sqlx::Result<u64> {
    let mut sink = connection.copy_in_raw(statement).await?;
    let mut tuples = Tuples::default();
    tuples.buffer.extend_from_slice(HEADER);
    for row in rows {
        tuples.begin(columns);
        add(*row, &mut tuples)?;
        if tuples.buffer.len() >= SEND_BYTES {
            sink.send(tuples.buffer.as_slice()).await?;
            tuples.buffer.clear();
        }
    }
    tuples.buffer.extend_from_slice(&TRAILER);
    sink.send(tuples.buffer.as_slice()).await?;
    sink.finish().await
}
