//! The only place that reads the system clock.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// Now, by this machine's clock, cut to whole microseconds: the resolution of PostgreSQL's `timestamptz`.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
pub fn now() -> DateTime<Utc> {
    floor_to_micros(Utc::now())
}

/// `time` without what is below a microsecond.
pub fn floor_to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}
