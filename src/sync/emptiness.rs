//! What empty answers are worth: the weakest evidence there is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::interval::TICK;

use super::walk::Emptiness;

/// Answers that claimed the end of a line, in one pass.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The first that counts, and the last one.
    first: Option<Claim>,
    last: Option<Claim>,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// Nothing is left below.
    end: DateTime<Utc>,
    at: Instant,
}

impl Claims {
    /// Takes another claim; returns below what both it and one at least `apart` ago claim that nothing is left. Weak
    /// ones don't count.
    pub fn add(&mut self, emptiness: Emptiness, at: Instant, apart: Duration) -> Option<DateTime<Utc>> {
        if emptiness.weak {
            return None;
        }
        let claim = Claim { end: emptiness.interval.end(), at };
        let Some(first) = self.first else {
            (self.first, self.last) = (Some(claim), Some(claim));
            return None;
        };
        if at.saturating_duration_since(first.at) < apart {
            self.last = Some(claim);
            return None;
        }
        // The one before may confirm what lies between, with the next.
        self.first = self.last.filter(|last| last.end > first.end).or(Some(claim));
        self.last = Some(claim);
        Some(first.end.min(claim.end))
    }

    /// A row was seen at this time: claims from above it were wrong.
    pub fn saw(&mut self, lowest: DateTime<Utc>) {
        let wrong = |claim: &Claim| claim.end > lowest + TICK;
        if self.first.as_ref().is_some_and(wrong) {
            self.first = self.last.filter(|last| !wrong(last));
        }
        if self.last.as_ref().is_some_and(wrong) {
            *self = Self::default();
        }
    }

    /// When another claim would count.
    pub fn due(&self, apart: Duration) -> Option<Instant> {
        self.first.map(|first| first.at + apart)
    }

    /// Forgets all claims: the end is known by other means.
    pub fn settle(&mut self) {
        *self = Self::default();
    }
}

/// Whether the API's count of rows confirms that nothing is left: it is not zero, and within 1 % of the rows held. A weak
/// claim needs all of them.
pub(super) fn confirms(count: u64, held: u64, weak: bool) -> bool {
    let near = count.abs_diff(held).saturating_mul(100) <= count;
    count > 0 && if weak { held >= count && near } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interval::Interval;

    const APART: Duration = Duration::from_secs(15);

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn two_claims_apart_in_time_are_believed_as_far_as_both_go() {
        // Seconds since the first claim, what it claims, and what is believed then.
        type Case<'a> = (&'a str, &'a [(u64, i64, Option<i64>)]);
        let cases: [Case<'_>; 6] = [
            ("one", &[(0, 9, None)]),
            ("too close", &[(0, 9, None), (14, 9, None)]),
            ("apart", &[(0, 9, None), (15, 9, Some(9))]),
            ("a list that stays empty", &[(0, 30, None), (30, 60, Some(30)), (60, 90, Some(60))]),
            ("asked each second", &[(0, 30, None), (8, 38, None), (15, 45, Some(30)), (23, 53, Some(38))]),
            ("lower", &[(0, 9, None), (20, 5, Some(5)), (40, 5, Some(5))]),
        ];
        for (name, claims_made) in cases {
            let begin = Instant::now();
            let mut claims = Claims::default();
            for (second, end, expected) in claims_made {
                let interval = Interval::new(None, at(*end)).unwrap();
                let emptiness = Emptiness { interval, weak: false };
                let believed = claims.add(emptiness, begin + Duration::from_secs(*second), APART);
                assert_eq!(believed, expected.map(at), "{name} at {second} s");
            }
        }
    }

    #[test]
    fn a_row_that_turns_up_refutes_what_was_claimed_above_it() {
        let begin = Instant::now();
        let claim = |end| Emptiness { interval: Interval::new(None, end).unwrap(), weak: false };
        let mut claims = Claims::default();
        claims.add(claim(at(9) + TICK), begin, APART);
        claims.saw(at(9));
        assert!(claims.due(APART).is_some(), "the row right at the edge is known");
        claims.saw(at(8));
        assert!(claims.due(APART).is_none());
        assert_eq!(claims.add(claim(at(8) + TICK), begin + APART, APART), None);
        let weak = Emptiness { weak: true, ..claim(at(8)) };
        assert_eq!(claims.add(weak, begin + APART * 3, APART), None);
    }

    #[test]
    fn a_count_confirms_within_one_percent() {
        let cases = [
            (0, 0, false, false),
            (100, 100, true, true),
            (100, 99, true, false),
            (100, 98, false, false),
            (100, 101, true, true),
            (100, 102, false, false),
            (1_000_000, 990_001, true, false),
            (1, 0, false, false),
        ];
        for (count, held, plain, weak) in cases {
            assert_eq!(confirms(count, held, false), plain, "{count} {held}");
            assert_eq!(confirms(count, held, true), weak, "{count} {held}, weak");
        }
    }
}
