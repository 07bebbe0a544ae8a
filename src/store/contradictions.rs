//! Rows that turn up where all rows were proved to be held, and that were not: each is proof that a proof was wrong.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::api::model::Stream;
use crate::interval::Interval;

use super::{Lease, LineKey, STANDING, Store, StoreError, lease};

/// Within this time so many contradictions on one line withdraw the coverage around them.
const WITHIN: TimeDelta = TimeDelta::hours(1);
const ENOUGH: usize = 3;
/// How far around a contradiction coverage is withdrawn at most, to each side.
const AROUND: TimeDelta = TimeDelta::days(1);
/// How long after a withdrawal the next may come: at first, and at most after doubling.
const PAUSE_FIRST: TimeDelta = TimeDelta::hours(1);
const PAUSE_MOST: TimeDelta = TimeDelta::days(1);
/// How many contradictions of one line are looked at.
const LOOKED_AT: i64 = 10_000;

/// Rows of a page, and the line that it was read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// The line's standing pass.
    pub key: LineKey,
    pub rows: Vec<Sighting>,
}

/// A row that the source shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub id: i64,
    /// Its time on the line.
    pub place: DateTime<Utc>,
    /// When the source may have stamped it first: it had no row to show before.
    pub stamped: DateTime<Utc>,
    /// The earliest time at which its place may have been proved: by a walk that was never interrupted.
    pub settled: DateTime<Utc>,
}

/// A contradiction that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    place: DateTime<Utc>,
    at: DateTime<Utc>,
}

impl Store {
    /// How many contradictions of each line are open; lines without any are left out.
    pub async fn open_contradictions(&self) -> Result<Vec<(Stream, String, u64)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT stream, line, count(*) AS "open!" FROM heymarket_sync.contradictions
               WHERE resolved_at IS NULL GROUP BY stream, line ORDER BY stream, line"#
        )
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::query("counting contradictions"))?;
        rows.into_iter()
            .map(|row| {
                let stream =
                    row.stream.parse().map_err(|_| StoreError::UnknownStream { name: row.stream })?;
                Ok((stream, row.line, row.open.unsigned_abs()))
            })
            .collect()
    }

    /// Withdraws what the line's open contradictions call for, if they are enough and the pause since the last
    /// withdrawal is over; returns what that was. In the log, with the reason.
    ///
    /// # Errors
    /// [`StoreError::LeadLost`], and [`StoreError::ServerRestarted`].
    pub async fn heal(&self, lease: &Lease, key: &LineKey) -> Result<Vec<Interval>, StoreError> {
        let failed = || StoreError::query("withdrawing contradicted coverage");
        let found = sqlx::query_as!(
            Found,
            "SELECT place, found_at AS at FROM heymarket_sync.contradictions
             WHERE stream = $1 AND line = $2 AND resolved_at IS NULL AND withdrawn_at IS NULL
             ORDER BY found_at DESC LIMIT $3",
            key.stream.name(),
            key.line,
            LOOKED_AT,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed())?;
        let mut withdrawn = Vec::new();
        if found.is_empty() {
            return Ok(withdrawn);
        }
        // Where the line was only believed to end, one is enough.
        for believed in self.pass(key).await?.into_iter().flat_map(|state| state.believed) {
            if found.iter().any(|found| believed.contains(found.place)) {
                withdrawn.extend(
                    self.withdraw(lease, key, believed, "a row turned up where the line was believed to end")
                        .await?,
                );
                // Else they would withdraw it again once it is believed again.
                sqlx::query!(
                    "UPDATE heymarket_sync.contradictions SET withdrawn_at = now()
                     WHERE stream = $1 AND line = $2 AND resolved_at IS NULL AND withdrawn_at IS NULL
                       AND found_at <= $3 AND tstzrange($4, $5) @> place",
                    key.stream.name(),
                    key.line,
                    found[0].at,
                    believed.start(),
                    believed.end(),
                )
                .execute(&self.pool)
                .await
                .map_err(failed())?;
            }
        }
        let Some(line) = sqlx::query!(
            r#"SELECT now() AS "now!", withdrawn_at, withdrawals FROM heymarket_sync.coverage
               WHERE stream = $1 AND line = $2 AND pass = $3"#,
            key.stream.name(),
            key.line,
            STANDING,
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(failed())?
        else {
            return Ok(withdrawn);
        };
        let Some(withdrawals) = due(&found, line.withdrawn_at, line.withdrawals, line.now) else {
            return Ok(withdrawn);
        };
        for around in around(&found) {
            withdrawn.extend(self.withdraw(lease, key, around, "rows turned up that were not held").await?);
        }
        let mut transaction = self.pool.begin().await.map_err(failed())?;
        sqlx::query!(
            "UPDATE heymarket_sync.coverage SET withdrawn_at = now(), withdrawals = $4
             WHERE stream = $1 AND line = $2 AND pass = $3",
            key.stream.name(),
            key.line,
            STANDING,
            withdrawals,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        sqlx::query!(
            "UPDATE heymarket_sync.contradictions SET withdrawn_at = now()
             WHERE stream = $1 AND line = $2 AND resolved_at IS NULL AND withdrawn_at IS NULL AND found_at <= $3",
            key.stream.name(),
            key.line,
            line.now,
        )
        .execute(&mut *transaction)
        .await
        .map_err(failed())?;
        lease::check(&mut *transaction, lease).await?;
        transaction.commit().await.map_err(failed())?;
        Ok(withdrawn)
    }

    /// Resolves the line's contradictions whose place was withdrawn and is covered again: read again without another. And
    /// those after which none was found for a day.
    pub async fn settle_contradictions(&self, key: &LineKey) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE heymarket_sync.contradictions c SET resolved_at = now()
             FROM heymarket_sync.coverage h
             WHERE h.stream = $1 AND h.line = $2 AND h.pass = $3 AND c.stream = h.stream AND c.line = h.line
               AND c.resolved_at IS NULL
               AND (c.withdrawn_at IS NOT NULL AND h.covered @> c.place
                    OR c.withdrawn_at IS NULL AND NOT EXISTS (
                        SELECT FROM heymarket_sync.contradictions other
                        WHERE other.stream = c.stream AND other.line = c.line
                          AND other.found_at > now() - interval '1 day'))",
            key.stream.name(),
            key.line,
            STANDING,
        )
        .execute(&self.pool)
        .await
        .map_err(StoreError::query("resolving contradictions"))?;
        Ok(())
    }

    /// Resolves the line's contradictions in `window` that were found before `since`, when a walk over it that found no
    /// other began; and deletes those of more than 30 days ago.
    pub async fn resolve_contradictions(
        &self,
        key: &LineKey,
        window: Interval,
        since: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let failed = || StoreError::query("resolving contradictions");
        sqlx::query!(
            "UPDATE heymarket_sync.contradictions c SET resolved_at = now()
             WHERE stream = $1 AND line = $2 AND resolved_at IS NULL AND found_at < $5
               AND tstzrange($3, $4) @> place
               AND NOT EXISTS (
                   SELECT FROM heymarket_sync.contradictions other
                   WHERE other.stream = $1 AND other.line = $2 AND other.found_at >= $5
                     AND tstzrange($3, $4) @> other.place)",
            key.stream.name(),
            key.line,
            window.start(),
            window.end(),
            since,
        )
        .execute(&self.pool)
        .await
        .map_err(failed())?;
        sqlx::query!("DELETE FROM heymarket_sync.contradictions WHERE found_at < now() - interval '30 days'")
            .execute(&self.pool)
            .await
            .map_err(failed())?;
        Ok(())
    }

    /// The database's clock.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::query("asking for the time"))
    }
}

/// Records the rows among `sighted` whose place is covered and that are neither held nor in the rejects, and returns how
/// many those are. Comes before the rows are written, and before the proofs of their own pages.
///
/// A row that the source stamped first only after its place was proved is none of them.
pub(super) async fn note(connection: &mut PgConnection, sighted: &[Sighted]) -> Result<u64, StoreError> {
    let mut noted = 0;
    for Sighted { key, rows } in sighted.iter().filter(|sighted| !sighted.rows.is_empty()) {
        let column = |time: fn(&Sighting) -> DateTime<Utc>| rows.iter().map(time).collect::<Vec<_>>();
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let done = sqlx::query!(
            "INSERT INTO heymarket_sync.contradictions (stream, line, source_id, place)
             SELECT DISTINCT ON (i.id) c.stream, c.line, i.id, i.place
             FROM heymarket_sync.coverage c,
                  unnest($4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[])
                      AS i (id, place, stamped, settled)
             WHERE c.stream = $1 AND c.line = $2 AND c.pass = $3 AND c.covered @> i.place
               AND i.stamped <= greatest(i.settled, c.started_at)
               AND CASE $1
                   WHEN 'messages' THEN NOT EXISTS (SELECT FROM heymarket.messages h WHERE h.id = i.id)
                   WHEN 'conversations' THEN NOT EXISTS (SELECT FROM heymarket.conversations h WHERE h.id = i.id)
                   ELSE NOT EXISTS (SELECT FROM heymarket.contacts h WHERE h.id = i.id) END
               AND NOT EXISTS (
                   SELECT FROM heymarket_sync.rejects r WHERE r.stream = $1 AND r.identity = 'id ' || i.id)",
            key.stream.name(),
            key.line,
            key.pass,
            &ids,
            &column(|row| row.place),
            &column(|row| row.stamped),
            &column(|row| row.settled),
        )
        .execute(&mut *connection)
        .await
        .map_err(StoreError::query("looking for contradictions"))?;
        noted += done.rows_affected();
    }
    Ok(noted)
}

/// Whether to withdraw now; then how many withdrawals in a row that makes.
fn due(
    found: &[Found],
    withdrawn_at: Option<DateTime<Utc>>,
    withdrawals: i32,
    now: DateTime<Utc>,
) -> Option<i32> {
    let mut times: Vec<_> = found.iter().map(|found| found.at).collect();
    times.sort();
    if !times.windows(ENOUGH).any(|times| times[ENOUGH - 1] - times[0] <= WITHIN) {
        return None;
    }
    let Some(withdrawn_at) = withdrawn_at else { return Some(1) };
    let doublings = u32::try_from(withdrawals - 1).unwrap_or_default().min(16);
    let pause = (PAUSE_FIRST * 2_i32.pow(doublings)).min(PAUSE_MOST);
    match now - withdrawn_at {
        since if since < pause => None,
        // As long again without a withdrawal: the pause begins anew.
        since if since > pause * 2 => Some(1),
        _ => Some(withdrawals + 1),
    }
}

/// What lies around the contradictions, apart from each other, newest first.
fn around(found: &[Found]) -> Vec<Interval> {
    let mut places: Vec<_> = found.iter().map(|found| found.place).collect();
    places.sort();
    let mut around: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
    for place in places {
        let (start, end) = (place - AROUND, place + AROUND);
        match around.last_mut() {
            Some(last) if last.1 >= start => last.1 = end,
            _ => around.push((start, end)),
        }
    }
    around.into_iter().rev().filter_map(|(start, end)| Interval::new(Some(start), end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(hour * 3_600, 0).unwrap()
    }

    fn found(hours: &[i64]) -> Vec<Found> {
        hours.iter().map(|hour| Found { place: at(*hour), at: at(*hour) }).collect()
    }

    #[test]
    fn three_within_an_hour_withdraw_and_the_pause_doubles_to_a_day() {
        let (three, apart) = (found(&[9, 10, 10]), found(&[5, 7, 9]));
        type Case<'a> = (&'a str, &'a [Found], Option<i64>, i32, Option<i32>);
        let cases: [Case<'_>; 11] = [
            ("none", &[], None, 0, None),
            ("two", &three[..2], None, 0, None),
            ("three", &three, None, 0, Some(1)),
            ("not within an hour", &apart, None, 0, None),
            ("the last was half an hour ago", &three, Some(100), 1, None),
            ("an hour ago", &three, Some(99), 1, Some(2)),
            ("an hour ago, after two", &three, Some(99), 2, None),
            ("two hours ago, after two", &three, Some(98), 2, Some(3)),
            ("long ago", &three, Some(90), 2, Some(1)),
            ("a day ago, after many", &three, Some(76), 30, Some(31)),
            ("less than a day ago, after many", &three, Some(77), 30, None),
        ];
        for (name, found, withdrawn_at, withdrawals, expected) in cases {
            assert_eq!(due(found, withdrawn_at.map(at), withdrawals, at(100)), expected, "{name}");
        }
    }

    #[test]
    fn a_day_to_each_side_is_withdrawn() {
        let interval = |start, end| Interval::new(Some(at(start)), at(end)).unwrap();
        let cases = [
            (vec![], vec![]),
            (vec![100], vec![interval(76, 124)]),
            (vec![130, 100], vec![interval(76, 154)]),
            (vec![100, 200], vec![interval(176, 224), interval(76, 124)]),
        ];
        for (hours, expected) in cases {
            assert_eq!(around(&found(&hours)), expected, "{hours:?}");
        }
    }
}
