//! New rows by `COPY ... (FORMAT binary)`: more than twice as fast as an INSERT from arrays.
//!
//! The format is that of PostgreSQL's documentation of COPY: a header, per row the number of fields, per field its
//! length (-1: NULL) and its binary value, and a trailer.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::PgCopyIn};

use crate::api::model::Json;

use super::StoreError;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Bytes after which what has been encoded is sent.
const SEND_BYTES: usize = 64 * 1024;
/// 2000-01-01, from which PostgreSQL counts, in Unix microseconds.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// The version of jsonb's binary format, before the text.
const JSONB_VERSION: u8 = 1;

/// Rows on their way into a table.
pub(super) struct Copy<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    row: Row,
    doing: &'static str,
}

impl<'c> Copy<'c> {
    /// `statement` is a `COPY ... FROM STDIN (FORMAT binary)`; `doing` names it in errors.
    pub async fn begin(
        connection: &'c mut PgConnection,
        statement: &'static str,
        doing: &'static str,
    ) -> Result<Self, StoreError> {
        let copy = connection.copy_in_raw(statement).await.map_err(StoreError::query(doing))?;
        Ok(Self { copy, row: Row(HEADER.to_vec()), doing })
    }

    /// Sends a row of `fields` fields, which `write` writes in the statement's order.
    pub async fn row(&mut self, fields: i16, write: impl FnOnce(&mut Row)) -> Result<(), StoreError> {
        self.row.0.extend_from_slice(&fields.to_be_bytes());
        write(&mut self.row);
        if self.row.0.len() >= SEND_BYTES { self.send().await } else { Ok(()) }
    }

    /// Returns how many rows there were, once all are in the table.
    pub async fn finish(mut self) -> Result<u64, StoreError> {
        self.row.0.extend_from_slice(&TRAILER);
        self.send().await?;
        self.copy.finish().await.map_err(StoreError::query(self.doing))
    }

    async fn send(&mut self) -> Result<(), StoreError> {
        self.copy.send(self.row.0.as_slice()).await.map_err(StoreError::query(self.doing))?;
        self.row.0.clear();
        Ok(())
    }
}

/// The fields of a row; each method writes one.
pub(super) struct Row(Vec<u8>);

impl Row {
    pub fn bigint(&mut self, value: impl Into<Option<i64>>) {
        self.field(value.into().map(i64::to_be_bytes));
    }

    pub fn boolean(&mut self, value: Option<bool>) {
        self.field(value.map(|value| [u8::from(value)]));
    }

    pub fn text(&mut self, value: &Option<String>) {
        self.field(value.as_ref());
    }

    pub fn timestamptz(&mut self, value: Option<DateTime<Utc>>) {
        self.bigint(value.map(|time| time.timestamp_micros() - POSTGRES_EPOCH));
    }

    pub fn jsonb(&mut self, value: &Option<Json>) {
        match value {
            None => self.field(None::<&[u8]>),
            Some(Json(text)) => {
                self.length(text.len() + 1);
                self.0.push(JSONB_VERSION);
                self.0.extend_from_slice(text.as_bytes());
            }
        }
    }

    fn field(&mut self, value: Option<impl AsRef<[u8]>>) {
        match value {
            None => self.0.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                self.length(value.as_ref().len());
                self.0.extend_from_slice(value.as_ref());
            }
        }
    }

    fn length(&mut self, length: usize) {
        // A body is far smaller than 2 GiB; a longer field would be refused by the server.
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
    }
}
