//! Whole pages that were no list of rows: set aside until what they stood for is held.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::UnreadableBody;
use crate::interval::{Interval, TICK};

use super::{LineKey, StoreError};

/// A page that was asked for again and again and never was a list of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadablePage {
    pub key: LineKey,
    /// Rows below this time were asked for.
    pub below: DateTime<Utc>,
    /// What is wrong with it, and the request's id; never holds a value of the page.
    pub reason: String,
    pub body: UnreadableBody,
}

/// Sets `pages` aside: one row per line and pass, with the latest payload and its reason. A page that is set aside
/// already, with the same bytes, is not written. Returns how many rows that wrote.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    pages: &[UnreadablePage],
) -> Result<u64, StoreError> {
    let mut written = 0;
    for page in pages {
        let UnreadableBody { kept, length } = &page.body;
        let cut = match kept.len() {
            all if all == *length => String::new(),
            first => format!("; the first {first} of {length} bytes are kept"),
        };
        let done = sqlx::query!(
            r#"
            INSERT INTO heymarket_sync.rejects AS held (
                stream, source_id, partial, reason, payload, line, pass, below)
            SELECT $1::text, $2::text, false, $3, $4::bytea, $5, $6, $7::timestamptz
            WHERE NOT EXISTS (
                SELECT FROM heymarket_sync.rejects r
                WHERE r.stream = $1 AND r.identity = 'id ' || $2 AND r.resolved_at IS NULL
                  AND r.below = $7 AND r.payload = $4)
            ON CONFLICT (stream, identity) DO UPDATE
            SET reason = excluded.reason, payload = excluded.payload, below = excluded.below,
                last_seen = excluded.last_seen, times = held.times + 1, resolved_at = NULL
            "#,
            page.key.stream.name(),
            format!("page of line {}, pass {}", page.key.line, page.key.pass),
            format!("{}{cut}", page.reason),
            &kept[..],
            page.key.line,
            page.key.pass,
            page.below,
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::query("setting a page aside"))?;
        written += done.rows_affected();
    }
    Ok(written)
}

/// Resolves the pages right below whose upper end everything is held, with `proofs`, which are to be added
/// to the coverage in the same transaction, or whose pass has ended.
pub(super) async fn resolve(
    connection: &mut PgConnection,
    proofs: &[(LineKey, Interval)],
) -> Result<(), StoreError> {
    let open = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM heymarket_sync.rejects WHERE resolved_at IS NULL AND line IS NOT NULL) AS "open!""#
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(StoreError::query("looking for pages set aside"))?;
    if !open {
        return Ok(());
    }
    let streams: Vec<_> = proofs.iter().map(|(key, _)| key.stream.name()).collect();
    let lines: Vec<_> = proofs.iter().map(|(key, _)| key.line.as_str()).collect();
    let passes: Vec<_> = proofs.iter().map(|(key, _)| key.pass.as_str()).collect();
    let starts: Vec<_> = proofs.iter().map(|(_, proof)| proof.start()).collect();
    let ends: Vec<_> = proofs.iter().map(|(_, proof)| proof.end()).collect();
    let tick = TICK.num_microseconds().unwrap_or(1) as f64 / 1e6;
    sqlx::query!(
        r#"
        UPDATE heymarket_sync.rejects r SET resolved_at = now()
        WHERE r.resolved_at IS NULL AND r.line IS NOT NULL
          AND NOT EXISTS (
              SELECT FROM heymarket_sync.coverage c
              WHERE c.stream = r.stream AND c.line = r.line AND c.pass = r.pass
                AND NOT c.covered @> r.below - make_interval(secs => $6)
                AND NOT EXISTS (
                    SELECT FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
                             AS p (stream, line, pass, lower_end, upper_end)
                    WHERE p.stream = r.stream AND p.line = r.line AND p.pass = r.pass
                      AND tstzrange(p.lower_end, p.upper_end) @> r.below - make_interval(secs => $6)))
        "#,
        streams as _,
        lines as _,
        passes as _,
        starts as _,
        &ends,
        tick,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("resolving pages set aside"))?;
    Ok(())
}
