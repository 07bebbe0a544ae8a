//! Half-open intervals of UTC time at microsecond resolution.

use std::fmt;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// The smallest step of a time line: one microsecond, PostgreSQL's resolution.
pub const TICK: TimeDelta = TimeDelta::microseconds(1);

/// `[start, end)` on a time line; a `start` of `None` reaches back for ever (the beginning of history).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    start: Option<DateTime<Utc>>,
    end: DateTime<Utc>,
}

impl Interval {
    /// `[start, end)`, or `None` where that would be empty.
    pub fn new(start: Option<DateTime<Utc>>, end: DateTime<Utc>) -> Option<Self> {
        match start {
            Some(start) if start >= end => None,
            _ => Some(Self { start, end }),
        }
    }

    /// The inclusive lower end; `None` is the beginning of history.
    pub fn start(&self) -> Option<DateTime<Utc>> {
        self.start
    }

    /// The exclusive upper end.
    pub fn end(&self) -> DateTime<Utc> {
        self.end
    }

    /// Whether `time` lies in `[start, end)`.
    pub fn contains(&self, time: DateTime<Utc>) -> bool {
        time < self.end && !self.is_above(time)
    }

    /// Whether `time` lies below the interval's lower end.
    pub fn is_above(&self, time: DateTime<Utc>) -> bool {
        self.start.is_some_and(|start| time < start)
    }

    /// What both intervals share, or `None`.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// What lies in none of `others`, newest first.
    pub fn minus(self, others: &[Self]) -> Vec<Self> {
        let mut left = vec![self];
        for other in others {
            left = left
                .into_iter()
                .flat_map(|part| {
                    let Some(shared) = part.intersection(other) else { return [Some(part), None] };
                    let above = Self::new(Some(shared.end), part.end);
                    [above, shared.start.and_then(|end| Self::new(part.start, end))]
                })
                .flatten()
                .collect();
        }
        left
    }

    /// Length in time; `None` where the interval has no lower end.
    pub fn span(&self) -> Option<TimeDelta> {
        self.start.map(|start| self.end - start)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start {
            Some(start) => write!(f, "[{}, ", start.to_rfc3339_opts(SecondsFormat::AutoSi, true))?,
            None => f.write_str("(beginning, ")?,
        }
        write!(f, "{})", self.end.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn an_interval_is_half_open_and_never_empty() {
        assert_eq!(Interval::new(Some(at(2)), at(2)), None);
        assert_eq!(Interval::new(Some(at(3)), at(2)), None);
        let interval = Interval::new(Some(at(2)), at(4)).unwrap();
        assert!(!interval.contains(at(1)));
        assert!(interval.contains(at(2)));
        assert!(interval.contains(at(4) - TICK));
        assert!(!interval.contains(at(4)));
    }

    #[test]
    fn an_interval_without_start_holds_all_of_the_past() {
        let interval = Interval::new(None, at(4)).unwrap();
        assert!(interval.contains(DateTime::<Utc>::MIN_UTC));
        assert!(!interval.is_above(DateTime::<Utc>::MIN_UTC));
        assert_eq!(interval.span(), None);
    }

    #[test]
    fn what_is_in_work_is_left_out() {
        let interval = |start: Option<i64>, end| Interval::new(start.map(at), at(end)).unwrap();
        let cases = [
            (interval(None, 9), vec![], vec![interval(None, 9)]),
            (interval(None, 9), vec![interval(None, 9)], vec![]),
            (interval(None, 9), vec![interval(Some(3), 5)], vec![interval(Some(5), 9), interval(None, 3)]),
            (
                interval(Some(1), 9),
                vec![interval(None, 3), interval(Some(8), 20)],
                vec![interval(Some(3), 8)],
            ),
            (interval(Some(1), 9), vec![interval(Some(9), 12)], vec![interval(Some(1), 9)]),
        ];
        for (whole, others, left) in cases {
            assert_eq!(whole.minus(&others), left, "{whole}");
        }
    }

    #[test]
    fn an_intersection_is_what_both_hold() {
        let all = Interval::new(None, at(4)).unwrap();
        let late = Interval::new(Some(at(3)), at(9)).unwrap();
        assert_eq!(all.intersection(&late), Interval::new(Some(at(3)), at(4)));
        let later = Interval::new(Some(at(4)), at(9)).unwrap();
        assert_eq!(all.intersection(&later), None);
    }
}
