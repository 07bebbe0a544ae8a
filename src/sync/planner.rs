//! What to read next: pure policy.

use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::config::Recheck;
use crate::interval::Interval;

/// Pages that the lower part of a claim must be likely to hold before another walker takes it: each split costs
/// up to one request.
const SPLIT_PAGES: u64 = 8;

/// Claims are cut at multiples of this: a walk begins at a whole second, and a cut within one would have both
/// walkers read the rows of that second.
const CUT: TimeDelta = TimeDelta::seconds(1);

/// How many walkers keep the quota busy: as many requests as leave in the time that one takes.
pub fn walkers(latency: Duration, requests_per_minute: u32, ceiling: usize) -> usize {
    let in_flight = latency.as_secs_f64() * f64::from(requests_per_minute) / 60.0;
    (in_flight.ceil() as usize + 1).clamp(1, ceiling.max(1))
}

/// Where to cut what is left of a claim so that another walker can take the lower part; `None`: not worth it.
///
/// `rows` lie in the `walked` part; `oldest` is the time of the line's oldest row, where known.
pub fn split(
    left: Interval,
    rows: u64,
    walked: TimeDelta,
    page_rows: u32,
    oldest: Option<DateTime<Utc>>,
) -> Option<(DateTime<Utc>, f64)> {
    let start = left.start().max(oldest)?;
    let span = (left.end() - start).num_microseconds()?;
    // A run of equal times is no measure of what lies below it.
    let walked = walked.max(CUT).num_microseconds()?;
    let rows_left = rows as f64 / walked as f64 * span as f64;
    let enough = (SPLIT_PAGES * u64::from(page_rows)) as f64;
    let at = (left.end() - TimeDelta::microseconds(span / 2)).duration_trunc(CUT).ok()?;
    (span > 0 && at > start && rows_left >= enough).then_some((at, rows_left))
}

/// Whether a recheck is due that began last at `last` (or, before the first, when the fill began).
pub fn due(recheck: &Recheck, last: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    TimeDelta::from_std(recheck.every).is_ok_and(|every| now - last >= every)
}

/// The rechecks that a line needs. Where changes show on a line of their own, the longest window is control
/// enough.
pub fn rechecks(configured: &[Recheck], changes_are_seen: bool) -> Vec<Recheck> {
    let mut rechecks = configured.to_vec();
    rechecks.sort_by_key(|recheck| recheck.window);
    if changes_are_seen {
        rechecks.drain(..rechecks.len().saturating_sub(1));
    }
    rechecks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_walkers_as_the_latency_needs() {
        let cases = [
            ("no latency known", 0, 450, 16, 1),
            ("fast", 5, 450, 16, 2),
            ("a second at 450 a minute", 1_000, 450, 16, 9),
            ("ceiling", 1_000, 100_000, 16, 16),
            ("one at least", 1_000, 450, 0, 1),
        ];
        for (name, latency, rate, ceiling, expected) in cases {
            assert_eq!(walkers(Duration::from_millis(latency), rate, ceiling), expected, "{name}");
        }
    }

    #[test]
    fn a_claim_is_split_where_the_lower_half_is_worth_a_walker() {
        let at = |second: i64| DateTime::from_timestamp(second, 0).unwrap();
        let hour = TimeDelta::hours(1);
        let left = |start: Option<i64>, end| Interval::new(start.map(at), at(end)).unwrap();
        let cut = |left, rows, oldest| split(left, rows, hour, 200, oldest).map(|cut| cut.0);
        assert_eq!(cut(left(Some(0), 36_000), 1_000, None), Some(at(18_000)));
        assert_eq!(cut(left(None, 36_000), 1_000, Some(at(16_000))), Some(at(26_000)));
        assert_eq!(cut(left(None, 36_000), 1_000, None), None, "nobody knows where history begins");
        assert_eq!(cut(left(Some(0), 36_000), 100, None), None, "too few rows");
        assert_eq!(cut(left(None, 36_000), 1_000, Some(at(36_000))), None, "nothing left");
        assert_eq!(cut(left(Some(0), 36_001), 1_000, None), Some(at(18_000)), "at a whole second");
        assert_eq!(cut(left(Some(35_999), 36_000), 1_000_000_000, None), None, "within one second");
        let run = split(left(Some(0), 100), 1_000, TimeDelta::microseconds(1), 200, None);
        assert_eq!(run.map(|cut| cut.1), Some(100_000.0), "many rows of one time");
    }

    #[test]
    fn the_longest_recheck_is_control_enough_where_changes_are_seen() {
        let recheck = |window, every| Recheck {
            window: Duration::from_secs(window),
            every: Duration::from_secs(every),
        };
        let configured = [recheck(3_600, 60), recheck(2_592_000, 86_400), recheck(172_800, 3_600)];
        assert_eq!(rechecks(&configured, true), [recheck(2_592_000, 86_400)]);
        assert_eq!(rechecks(&configured, false).len(), 3);
        assert_eq!(rechecks(&[], true), []);
    }
}
