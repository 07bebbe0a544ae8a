//! The only place that reads the system clock.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// Now, by this machine's clock, cut to whole microseconds: the resolution of PostgreSQL's `timestamptz`.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
pub fn now() -> DateTime<Utc> {
    floor_to_micros(Utc::now()) + moved::ahead()
}

/// `time` without what is below a microsecond.
pub fn floor_to_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(time)
}

#[cfg(feature = "crash-points")]
pub use moved::set_ahead;

#[cfg(not(feature = "crash-points"))]
mod moved {
    use chrono::TimeDelta;

    #[inline(always)]
    pub(super) fn ahead() -> TimeDelta {
        TimeDelta::zero()
    }
}

/// A clock that a test moves, to let hours pass.
#[cfg(feature = "crash-points")]
mod moved {
    use std::cell::Cell;

    use chrono::TimeDelta;

    thread_local! {
        static AHEAD: Cell<TimeDelta> = const { Cell::new(TimeDelta::zero()) };
    }

    pub(super) fn ahead() -> TimeDelta {
        AHEAD.get()
    }

    /// From now on the clock of this thread is so much ahead of the machine's.
    pub fn set_ahead(ahead: TimeDelta) {
        AHEAD.set(ahead);
    }
}
