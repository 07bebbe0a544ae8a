//! How many requests may leave, and when: a leaky bucket that never lets a minute hold more than N.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

/// The span in which at most N requests leave. A little more than the minute that the source counts by,
/// since requests reach it with different delays.
const WINDOW: Duration = Duration::from_millis(60_250);

/// One request in so many may leave in a burst. A burst takes from the steady rate what it gives, and has
/// to bridge the timer's resolution (1 ms) and late wake-ups at high rates: 0.5 % of a minute is 0.3 s.
const BURST_SHARE: u32 = 200;

/// A leaky bucket that begins empty.
pub(super) struct Bucket<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
}

impl<C: Clock> Bucket<C> {
    pub(super) fn new(per_minute: u32, clock: C) -> Self {
        let Rate { burst, period } = Rate::of(per_minute);
        let quota = Quota::with_period(period).expect("invariant: a period is never zero").allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock);
        limiter
            .check_n(burst)
            .expect("invariant: a bucket holds its burst")
            .expect("invariant: a new bucket is full");
        Self { limiter }
    }

    /// Takes one request out, or tells how long to wait for it.
    pub(super) fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    burst: NonZeroU32,
    pub(super) period: Duration,
}

impl Rate {
    /// A bucket of `burst`, refilled by one each `period`, lets `burst + WINDOW / period` leave within a
    /// window at most: the period is chosen so that this is no more than `per_minute`.
    pub(super) fn of(per_minute: u32) -> Self {
        let per_minute = per_minute.max(1);
        let burst = NonZeroU32::MIN.saturating_add(per_minute / BURST_SHARE);
        let steady = u64::from(per_minute - burst.get() + 1);
        let window = WINDOW.as_millis() as u64 * 1_000_000;
        Self { burst, period: Duration::from_nanos(window.div_ceil(steady)) }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn rates() {
        let cases = [
            (0, 1, 60_250_000_000),
            (1, 1, 60_250_000_000),
            (2, 1, 30_125_000_000),
            (60, 1, 1_004_166_667),
            (199, 1, 302_763_820),
            (450, 3, 134_486_608),
            (6_000, 31, 10_092_128),
            (600_000, 3_001, 100_922),
            (10_000_000, 50_001, 6_056),
        ];
        for (per_minute, burst, period) in cases {
            let rate = Rate { burst: NonZeroU32::new(burst).unwrap(), period: Duration::from_nanos(period) };
            assert_eq!(Rate::of(per_minute), rate, "{per_minute}");
        }
    }

    #[test]
    fn a_high_rate_is_reached_by_a_clumsy_timer() {
        let late = Duration::from_millis(100);
        for per_minute in [6_000, 600_000, 10_000_000] {
            let clock = FakeRelativeClock::default();
            let bucket = Bucket::new(per_minute, clock.clone());
            let mut sent = 0;
            for _ in 0..MINUTE.as_millis() / late.as_millis() {
                clock.advance(late);
                sent += std::iter::from_fn(|| bucket.take().ok()).count() as u32;
            }
            assert!(sent <= per_minute && sent >= per_minute / 100 * 98, "{sent} of {per_minute}");
        }
    }

    proptest! {
        /// Requests are tried after any idle times, and the daemon is started anew at any time.
        #[test]
        fn no_minute_holds_more_than_the_limit(
            per_minute in 1u32..1_500,
            steps in proptest::collection::vec((0u64..90_000, 0usize..400, prop::bool::weighted(0.2)), 1..40),
        ) {
            let clock = FakeRelativeClock::default();
            let mut bucket = Bucket::new(per_minute, clock.clone());
            let mut now = Duration::ZERO;
            let mut sent: Vec<Duration> = Vec::new();
            let pass = |now: &mut Duration, time| {
                clock.advance(time);
                *now += time;
            };
            for (idle, tries, restart) in steps {
                if restart {
                    bucket = Bucket::new(per_minute, clock.clone());
                }
                pass(&mut now, Duration::from_millis(idle));
                for _ in 0..tries {
                    match bucket.take() {
                        Ok(()) => sent.push(now),
                        Err(wait) => pass(&mut now, wait),
                    }
                }
            }
            for (first, over) in sent.iter().zip(sent.iter().skip(per_minute as usize)) {
                prop_assert!(*over - *first > MINUTE, "{per_minute}: {first:?} to {over:?}");
            }
        }
    }
}
