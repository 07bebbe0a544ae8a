//! Rows that PostgreSQL itself refuses: found one by one, so that their neighbours land.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

use crate::api::model::{Contact, Conversation, Message, Reject, Stream};

use super::{StoreError, commit::statements, contacts, conversations, messages};

/// Rows of one table, one per id, by ascending id.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// With the flag of those that came embedded in a message.
    Conversations(&'a [(&'a Conversation, bool)]),
    Messages(&'a [&'a Message]),
    Contacts(&'a [&'a Contact]),
}

/// Rows that PostgreSQL refused, to be set aside.
#[derive(Default)]
pub(super) struct Refused {
    pub rejects: Vec<Reject>,
    /// Where in `rejects` each row is.
    places: HashMap<(Stream, i64), usize>,
}

impl Refused {
    /// Why the row was refused, if it was.
    pub fn reason(&self, stream: Stream, id: i64) -> Option<&str> {
        let place = self.places.get(&(stream, id))?;
        self.rejects.get(*place).map(|reject| reject.reason.as_str())
    }

    pub fn count(&self, stream: Stream) -> i64 {
        self.rejects.iter().filter(|reject| reject.stream == stream).count() as i64
    }
}

impl Part<'_> {
    /// Writes all of it, new messages by COPY, or fails; returns how many rows that wrote. Adds the ids of conversations
    /// that were written to `landed`.
    pub async fn copy(
        self,
        connection: &mut PgConnection,
        stamp: DateTime<Utc>,
        landed: &mut HashSet<i64>,
    ) -> Result<u64, StoreError> {
        match self {
            Self::Messages(rows) => {
                let (inserted, held) = messages::insert_new(connection, stamp, rows).await?;
                Ok(inserted + Part::Messages(&held).upsert(connection, stamp, landed).await?)
            }
            part => part.upsert(connection, stamp, landed).await,
        }
    }

    /// Writes all of it, or fails; returns as [`Part::copy`].
    pub async fn upsert(
        self,
        connection: &mut PgConnection,
        stamp: DateTime<Utc>,
        landed: &mut HashSet<i64>,
    ) -> Result<u64, StoreError> {
        let mut written = 0;
        match self {
            Self::Conversations(rows) => {
                for rows in statements(rows, |(row, _)| row.memory()) {
                    let ids = conversations::upsert(connection, stamp, rows).await?;
                    written += ids.len() as u64;
                    landed.extend(ids);
                }
            }
            Self::Messages(rows) => {
                for rows in statements(rows, |row| row.memory()) {
                    written += messages::upsert(connection, stamp, rows).await?;
                }
            }
            Self::Contacts(rows) => {
                for rows in statements(rows, |row| row.memory()) {
                    written += contacts::upsert(connection, stamp, rows).await?;
                }
            }
        }
        Ok(written)
    }

    /// Writes what PostgreSQL takes and adds the rest to `refused`: what is refused together is halved down
    /// to single rows, each try in a savepoint. At most two tries for each row.
    pub async fn sift(
        self,
        connection: &mut PgConnection,
        stamp: DateTime<Utc>,
        refused: &mut Refused,
        landed: &mut HashSet<i64>,
    ) -> Result<u64, StoreError> {
        let failed = || StoreError::query("setting a savepoint");
        let mut written = 0;
        let mut parts = vec![self];
        while let Some(part) = parts.pop() {
            let mut savepoint = connection.begin().await.map_err(failed())?;
            match part.upsert(&mut savepoint, stamp, landed).await {
                Ok(rows) => {
                    savepoint.commit().await.map_err(failed())?;
                    written += rows;
                }
                Err(error) if error.is_data() => {
                    savepoint.rollback().await.map_err(failed())?;
                    match part.halves() {
                        Some((lower, upper)) => parts.extend([upper, lower]),
                        None => part.set_aside(&error, refused),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn halves(self) -> Option<(Self, Self)> {
        fn cut<R>(rows: &[R]) -> Option<(&[R], &[R])> {
            (rows.len() > 1).then(|| rows.split_at(rows.len() / 2))
        }
        match self {
            Self::Conversations(rows) => {
                cut(rows).map(|(lower, upper)| (Self::Conversations(lower), Self::Conversations(upper)))
            }
            Self::Messages(rows) => {
                cut(rows).map(|(lower, upper)| (Self::Messages(lower), Self::Messages(upper)))
            }
            Self::Contacts(rows) => {
                cut(rows).map(|(lower, upper)| (Self::Contacts(lower), Self::Contacts(upper)))
            }
        }
    }

    fn set_aside(self, error: &StoreError, refused: &mut Refused) {
        let row = match self {
            Self::Conversations(rows) => rows
                .first()
                .map(|(row, embedded)| (Stream::Conversations, row.id, row.version(), &row.raw, *embedded)),
            Self::Messages(rows) => {
                rows.first().map(|row| (Stream::Messages, row.id, row.version(), &row.raw, false))
            }
            Self::Contacts(rows) => {
                rows.first().map(|row| (Stream::Contacts, row.id, row.version(), &row.raw, false))
            }
        };
        let Some((stream, id, version, raw, embedded)) = row else { return };
        refused.places.insert((stream, id), refused.rejects.len());
        refused.rejects.push(Reject {
            stream,
            source_id: Some(id.to_string()),
            version,
            partial: false,
            embedded,
            reason: format!("PostgreSQL refused it (SQLSTATE {})", error.sqlstate().unwrap_or_default()),
            payload: raw.clone(),
        });
    }
}
