//! The server's clock, as far as its answers tell: no single answer moves what is built on it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// How far offsets may lie apart that are taken for one and the same.
const SAME: TimeDelta = TimeDelta::seconds(2);
/// How long an offset must have stood before it is trusted.
const STANDS: Duration = Duration::from_secs(600);

/// What the server's clock is ahead of ours by.
#[derive(Debug, Default)]
pub struct ServerClock {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// By the last answers; `None` before the first.
    offset: Option<TimeDelta>,
    /// The offset that all answers agree on, within [`SAME`], and since when.
    standing: Option<(TimeDelta, Instant)>,
}

impl ServerClock {
    /// Learns from the `Date` (whole seconds, rounded down) of an answer to a request that left at `sent` and was
    /// answered at `received`, both by our clock.
    pub fn observe(&self, date: DateTime<Utc>, sent: DateTime<Utc>, received: DateTime<Utc>) {
        let (least, most) = (date - received, date + TimeDelta::seconds(1) - sent);
        let mut state = self.locked();
        let believed = state.offset.unwrap_or_default();
        // The least keeps what we take for the server's time out of its future.
        state.offset = Some(if (least..=most).contains(&believed) { believed } else { least });
        state.stand(least, most, Instant::now());
    }

    /// As [`Self::observe`], from an answer that refuses the credentials: what was believed before may be the reason.
    pub fn relearn(&self, date: DateTime<Utc>, sent: DateTime<Utc>, received: DateTime<Utc>) {
        let (least, most) = (date - received, date + TimeDelta::seconds(1) - sent);
        let mut state = self.locked();
        state.offset = Some(least);
        state.stand(least, most, Instant::now());
    }

    /// What the server's clock is ahead of ours by, to about a second, by the last answers; `None` before the first.
    /// Fit for tokens, which the server judges by the same clock; for nothing that lasts.
    pub fn offset(&self) -> Option<TimeDelta> {
        self.locked().offset
    }

    /// The time up to which an answer that arrives at `now` (our clock) may prove anything: the server's, once its
    /// offset has stood for ten minutes; before that the earlier of its clock and ours.
    pub fn bound(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.locked().bound(now, Instant::now())
    }

    /// The same, of an answer with this `Date`.
    pub fn bound_of(&self, date: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
        let state = self.locked();
        match state.trusted(Instant::now()) {
            Some(offset) => date.min(now + offset + SAME),
            None => date.min(now),
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Plain values, whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stand(&mut self, least: TimeDelta, most: TimeDelta, at: Instant) {
        let stands = self.standing.is_some_and(|(offset, _)| least - SAME <= offset && offset <= most + SAME);
        if !stands {
            self.standing = Some((least, at));
        }
    }

    fn trusted(&self, at: Instant) -> Option<TimeDelta> {
        let (offset, since) = self.standing?;
        (at.saturating_duration_since(since) >= STANDS).then_some(offset)
    }

    fn bound(&self, now: DateTime<Utc>, at: Instant) -> DateTime<Utc> {
        match self.trusted(at) {
            Some(offset) => now + offset,
            None => now + self.offset.unwrap_or_default().min(TimeDelta::zero()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn the_offset_follows_the_servers_clock_and_leads_it_by_no_more_than_a_second() {
        // (server ahead by, round trip) in milliseconds; the request leaves at 1,000,000.400 by our clock.
        for (ahead, round_trip) in
            [(0, 0), (3_600_000, 0), (-3_600_000, 0), (-7_250, 900), (7_250, 5_000), (-300, 50)]
        {
            let clock = ServerClock::default();
            let sent = at(1_000_000) + TimeDelta::milliseconds(400);
            let received = sent + TimeDelta::milliseconds(round_trip);
            let server = sent + TimeDelta::milliseconds(ahead + round_trip / 2);
            clock.observe(at(server.timestamp()), sent, received);
            let offset = clock.offset().unwrap().num_milliseconds();
            assert!((ahead - 7_000..=ahead + 1_000).contains(&offset), "{ahead} {round_trip}: {offset}");
        }
    }

    #[test]
    fn an_offset_that_fits_is_not_moved_by_the_dates_coarseness() {
        let clock = ServerClock::default();
        for second in 0..10 {
            let now = at(second) + TimeDelta::milliseconds(100 * second);
            clock.observe(at(now.timestamp()), now, now + TimeDelta::milliseconds(30));
            assert_eq!(clock.offset(), Some(TimeDelta::zero()));
        }
        let received = at(1) + TimeDelta::milliseconds(700);
        clock.relearn(at(1), received, received);
        assert_eq!(clock.offset(), Some(TimeDelta::milliseconds(-700)));
    }

    #[test]
    fn no_single_answer_moves_the_bound() {
        let begin = Instant::now();
        let minutes = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        let day = 86_400;
        // Minutes since the first answer, what the server's clock is ahead by, and the bound against our clock then.
        let cases = [
            ("ahead: ours", 0, 60, 0),
            ("still", 9, 61, 0),
            ("it has stood", 10, 60, 60),
            ("a lie", 11, day, 0),
            ("right again", 12, 60, 0),
            ("for ten minutes", 22, 60, 60),
            ("a lie backwards", 23, -day, -day),
            ("right again", 24, 60, 0),
            ("the server's clock was set", 25, -30, -30),
            ("and stands", 35, -29, -30),
        ];
        let mut state = State::default();
        for (name, minute, ahead, expected) in cases {
            let ahead = TimeDelta::seconds(ahead);
            state.offset = Some(ahead);
            state.stand(ahead, ahead, minutes(minute));
            let bound = state.bound(at(0), minutes(minute));
            assert_eq!(bound, at(expected), "{name}");
        }
    }
}
