//! How far the proof of a time line reaches.

use chrono::{DateTime, Utc};

use crate::api::model::Stream;
use crate::interval::Interval;

use super::{PassState, STANDING, Store, StoreError};

/// How far what is held reaches without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Everything from the beginning of what is wanted up to here is held; `None`: not even the beginning.
    pub covered_to: Option<DateTime<Utc>>,
    /// Stretches below the newest held time that are still to be read; 1 where nothing is held.
    pub gaps: usize,
    /// All that is wanted up to the newest held time is held.
    pub complete: bool,
}

impl PassState {
    /// How far this pass reaches.
    pub fn reach(&self) -> Reach {
        let wanted = self.wanted_from;
        // A line that has only begun may want nothing yet below what is held.
        let wants_later = |newest: &Interval| wanted.is_some_and(|wanted| newest.end() <= wanted);
        let base = match self.covered.first() {
            Some(newest) if wants_later(newest) => Some(0),
            _ => self.covered.iter().position(|held| {
                held.start().is_none()
                    || wanted.is_some_and(|wanted| held.start() <= Some(wanted) && held.end() > wanted)
            }),
        };
        Reach {
            covered_to: base.and_then(|base| self.covered.get(base)).map(|held| held.end()),
            gaps: base.unwrap_or(self.covered.len().max(1)),
            complete: base == Some(0),
        }
    }
}

impl Store {
    /// The reach of each line of the mirror itself, by stream and line.
    pub async fn reaches(&self) -> Result<Vec<(Stream, String, Reach)>, StoreError> {
        let lines = self.coverage().await?.into_iter().filter(|(key, _)| key.pass == STANDING);
        Ok(lines.map(|(key, state)| (key.stream, key.line, state.reach())).collect())
    }
}

/// Up to when all `lines` of a stream are held without a gap; `None` where one is not, or there is none.
pub fn covered_to<'a>(lines: impl IntoIterator<Item = &'a Reach>) -> Option<DateTime<Utc>> {
    // None, the least, wins.
    lines.into_iter().map(|reach| reach.covered_to).min().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn a_line_reaches_as_far_as_it_is_held_without_a_gap() {
        type Case = (&'static [(Option<i64>, i64)], Option<i64>, Option<i64>, usize);
        // Held intervals, newest first; what is wanted from; how far that reaches; how many gaps there are.
        let cases: [Case; 12] = [
            (&[], None, None, 1),
            (&[(None, 10)], None, Some(10), 0),
            (&[(None, 10)], Some(5), Some(10), 0),
            (&[(Some(5), 10)], Some(5), Some(10), 0),
            (&[(Some(4), 10)], Some(5), Some(10), 0),
            (&[(Some(6), 10)], Some(5), None, 1),
            (&[(Some(6), 10)], Some(10), Some(10), 0),
            (&[(Some(6), 10)], Some(11), Some(10), 0),
            (&[(Some(6), 10)], None, None, 1),
            (&[(Some(8), 10), (None, 6)], None, Some(6), 1),
            (&[(Some(9), 10), (Some(7), 8), (Some(1), 6)], Some(5), Some(6), 2),
            (&[(Some(9), 10), (Some(1), 4)], Some(5), None, 2),
        ];
        for (held, wanted, reached, gaps) in cases {
            let covered = held.iter().map(|(from, to)| Interval::new(from.map(at), at(*to)).unwrap());
            let pass = PassState {
                started_at: at(0),
                wanted_from: wanted.map(at),
                wanted_to: None,
                covered: covered.collect(),
                believed: Vec::new(),
            };
            let expected = Reach { covered_to: reached.map(at), gaps, complete: gaps == 0 };
            assert_eq!(pass.reach(), expected, "{held:?} {wanted:?}");
        }
    }

    #[test]
    fn a_stream_is_held_as_far_as_its_least_line() {
        let line = |second: Option<i64>| Reach { covered_to: second.map(at), gaps: 0, complete: true };
        assert_eq!(covered_to(&[line(Some(5)), line(Some(3))]), Some(at(3)));
        assert_eq!(covered_to(&[line(Some(5)), line(None)]), None);
        assert_eq!(covered_to(&[]), None);
    }
}
