//! A reader of what is new, as the README tells it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const ROWS: &str = "
    SELECT 'messages' AS stream, id, _synced_at FROM heymarket.messages
    UNION ALL SELECT 'conversations', id, _synced_at FROM heymarket.conversations
    UNION ALL SELECT 'contacts', id, _synced_at FROM heymarket.contacts";

const NEW: &str = "
    WITH read AS (
        SELECT 'messages' AS stream, id, _synced_at FROM heymarket.messages
        WHERE _synced_at >= $1 AND _synced_at < heymarket.settled_at()
        UNION ALL SELECT 'conversations', id, _synced_at FROM heymarket.conversations
        WHERE _synced_at >= $1 AND _synced_at < heymarket.settled_at()
        UNION ALL SELECT 'contacts', id, _synced_at FROM heymarket.contacts
        WHERE _synced_at >= $1 AND _synced_at < heymarket.settled_at()
    )
    SELECT m.mark, stream, id, _synced_at FROM (SELECT heymarket.settled_at() AS mark) m LEFT JOIN read ON true";

/// A row and the version of it that was read, by its stamp.
type Row = (String, i64);

/// The mark, and a row with its stamp where there was one.
type Read = (DateTime<Utc>, Option<String>, Option<i64>, Option<DateTime<Utc>>);

/// Reads with the mark; remembers what it has read.
pub struct Reader {
    session: PgConnection,
    begin: &'static str,
    last: DateTime<Utc>,
    rows: BTreeMap<Row, DateTime<Utc>>,
    /// Versions that it has read before.
    pub repeats: Vec<Row>,
    pub looks: usize,
}

impl Reader {
    /// Reads in transactions that `begin` begins.
    pub async fn of(url: &str, begin: &'static str) -> Self {
        let session = PgConnection::connect(url).await.unwrap();
        let (rows, repeats) = (BTreeMap::new(), Vec::new());
        Self { session, begin, last: DateTime::UNIX_EPOCH, rows, repeats, looks: 0 }
    }

    pub async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.session).await.unwrap();
    }

    /// Connects again, after the server has ended the session.
    pub async fn reconnect(&mut self, url: &str) {
        self.session = PgConnection::connect(url).await.unwrap();
    }

    /// Reads what is new, twice in one transaction; returns the mark. An error is one of the server's.
    pub async fn look(&mut self) -> Result<DateTime<Utc>, sqlx::Error> {
        let mut transaction = self.session.begin_with(self.begin).await?;
        for _ in 0..2 {
            let read: Vec<Read> = sqlx::query_as(NEW).bind(self.last).fetch_all(&mut *transaction).await?;
            let mark = read[0].0;
            assert!(mark >= self.last, "the mark fell from {} to {mark}", self.last);
            for (_, stream, id, stamp) in read {
                let (Some(stream), Some(id), Some(stamp)) = (stream, id, stamp) else { continue };
                if self.rows.insert((stream.clone(), id), stamp) == Some(stamp) {
                    self.repeats.push((stream, id));
                }
            }
            self.last = mark;
        }
        transaction.commit().await?;
        self.looks += 1;
        Ok(self.last)
    }

    /// How many rows it has read.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows of the mirror that it does not have in their last version.
    pub async fn missed(&mut self) -> Vec<Row> {
        let rows: Vec<(String, i64, DateTime<Utc>)> =
            sqlx::query_as(ROWS).fetch_all(&mut self.session).await.unwrap();
        rows.into_iter()
            .map(|(stream, id, stamp)| ((stream, id), stamp))
            .filter(|(row, stamp)| self.rows.get(row) != Some(stamp))
            .map(|(row, _)| row)
            .collect()
    }

    /// Sees that it has read the last version of every row, and each version once.
    pub async fn has_all(&mut self) {
        let missed = self.missed().await;
        let some = &missed[..missed.len().min(5)];
        assert!(missed.is_empty(), "missed {} of {}, such as {some:?}", missed.len(), self.len());
        assert_eq!(self.repeats, [], "in {} looks", self.looks);
    }
}
