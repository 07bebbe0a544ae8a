//! What a cursor does to the rows: whether those of its own time come, and what is cut off it before it is compared.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::interval::TICK;
use crate::sync::walk::Place;

use super::{Answer, Finding, Question};

/// What is left of a cursor before it is compared with the rows' times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Exact,
    Milliseconds,
    Seconds,
}

impl Cut {
    pub(super) const ALL: [Self; 3] = [Self::Exact, Self::Milliseconds, Self::Seconds];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exact => "nothing",
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
        }
    }

    fn of(self, time: DateTime<Utc>) -> DateTime<Utc> {
        let step = match self {
            Self::Exact => return time,
            Self::Milliseconds => TimeDelta::milliseconds(1),
            Self::Seconds => TimeDelta::seconds(1),
        };
        // Fails only for years that no row has.
        time.duration_trunc(step).unwrap_or(time)
    }
}

/// One way to compare rows with a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Comparison {
    cut: Cut,
    inclusive: bool,
}

impl Comparison {
    /// The time of the newest of `times`, which are sorted downwards, that comes; none if all are above.
    fn newest(self, times: &[DateTime<Utc>], cursor: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let limit = self.cut.of(cursor);
        let above = times.partition_point(|time| *time > limit || !self.inclusive && *time == limit);
        times.get(above).copied()
    }
}

/// The ways that fit what came so far.
pub(super) struct Comparisons {
    /// Of the newest page, downwards, each once.
    times: Vec<DateTime<Utc>>,
    fitting: Vec<Comparison>,
    /// Pages that were looked at.
    pages: usize,
}

impl Comparisons {
    /// `top` is the newest page. One in disorder tells nothing.
    pub fn new(top: &[Place]) -> Self {
        let mut times: Vec<_> = top.iter().map(|place| place.0).collect();
        if !times.is_sorted_by(|above, below| above >= below) {
            times.clear();
        }
        times.dedup();
        let ways =
            Cut::ALL.into_iter().flat_map(|cut| [false, true].map(|inclusive| Comparison { cut, inclusive }));
        Self { times, fitting: ways.collect(), pages: 0 }
    }

    /// The cursor below which the newest row tells most ways apart; none if it tells none. A row newer than the
    /// cursor is known, so that it also tells whether the cursor is heeded at all.
    pub fn telling_cursor(&self) -> Option<DateTime<Utc>> {
        let newest = *self.times.first()?;
        let mut best = None;
        let mut least = (self.fitting.len(), false);
        for time in self.times.iter().rev() {
            for cursor in [*time + TICK, *time].into_iter().filter(|cursor| *cursor < newest) {
                let answers: Vec<_> =
                    self.fitting.iter().map(|way| way.newest(&self.times, cursor)).collect();
                let alike = |answer| answers.iter().filter(|other| *other == answer).count();
                let left = answers.iter().map(alike).max().unwrap_or_default();
                // Where nothing is known below, the page may be empty, which is no evidence.
                let score = (left, answers.contains(&None));
                if score < least {
                    (least, best) = (score, Some(cursor));
                }
            }
        }
        best
    }

    /// Keeps the ways that explain `page`, the rows that came below `cursor`. An empty one may be a slip.
    pub fn saw(&mut self, cursor: DateTime<Utc>, page: &[Place]) {
        let Some(came) = page.iter().map(|place| place.0).max() else { return };
        let Some(oldest) = self.times.last() else { return };
        let came = Some(came).filter(|came| came >= oldest);
        self.fitting.retain(|way| way.newest(&self.times, cursor) == came);
        self.pages += 1;
    }

    pub fn findings(&self) -> [Finding; 2] {
        let bound = |way: &Comparison| if way.inclusive { Answer::Inclusive } else { Answer::Exclusive };
        [
            self.finding(Question::CursorBound, bound),
            self.finding(Question::CursorCut, |way| Answer::Cut(way.cut)),
        ]
    }

    fn finding(&self, question: Question, answer: impl Fn(&Comparison) -> Answer) -> Finding {
        let pages = self.pages;
        match self.fitting.split_first() {
            None => Finding::new(question, Answer::Undecided, "the rows that came fit no reading"),
            Some((first, others)) if others.iter().all(|way| answer(way) == answer(first)) => {
                let evidence = format!("the newest row below each of {pages} cursors fits no other reading");
                Finding::new(question, answer(first), evidence)
            }
            Some(_) => Finding::new(question, Answer::Undecided, "the rows at hand fit several readings"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the bound, and whether the cut is told.
    type Told = (bool, bool);

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(1_700_000_000_000_000 + micros).unwrap()
    }

    /// What two pages of a server tell that compares so, of rows at `micros`; the rows below them are older.
    fn told(way: Comparison, micros: &[i64]) -> (Answer, Answer) {
        let top: Vec<Place> = micros.iter().map(|micros| (at(*micros), *micros)).collect();
        let mut comparisons = Comparisons::new(&top);
        let below = (at(-3_600_000_000), 0);
        for _ in 0..2 {
            let Some(cursor) = comparisons.telling_cursor() else { break };
            let limit = way.cut.of(cursor);
            let comes = |row: &&Place| row.0 < limit || way.inclusive && row.0 == limit;
            let page: Vec<Place> = top.iter().chain([&below]).filter(comes).take(2).copied().collect();
            comparisons.saw(cursor, &page);
        }
        let [bound, cut] = comparisons.findings();
        (bound.answer, cut.answer)
    }

    #[test]
    fn each_way_is_told_where_the_rows_can_tell_it_and_none_is_told_wrongly() {
        // What is told of an exact cursor, exclusive and inclusive; one cut to milliseconds; one cut to seconds.
        let (both, bound, neither) = ((true, true), (true, false), (false, false));
        let second = 1_000_000;
        let histories: [(&str, Vec<i64>, [Told; 6]); 6] = [
            ("at the cuts", vec![9 * second + 17, 5_654_321, 5_123_456, second], [both; 6]),
            (
                "many ways",
                vec![9 * second, 5_000_503, 5_000_502, 5_000_000, 4_500_001, 4_000_000, second],
                [both, both, both, bound, both, bound],
            ),
            (
                "apart",
                vec![9 * second + 17, 7 * second + 123_456, 5 * second + 654_321, 3 * second + 7],
                [both, both, neither, neither, neither, neither],
            ),
            (
                "whole seconds",
                vec![9 * second, 7 * second, 6 * second, 2 * second],
                [both, bound, bound, bound, bound, bound],
            ),
            ("equal", vec![second + 5; 7], [neither; 6]),
            ("one", vec![second + 5], [neither; 6]),
        ];
        for (name, micros, expected) in &histories {
            let ways = Cut::ALL.into_iter().flat_map(|cut| [(cut, false), (cut, true)]);
            for ((cut, inclusive), expected) in ways.zip(expected) {
                let way = Comparison { cut, inclusive };
                let (bound, told_cut) = told(way, micros);
                let right = if inclusive { Answer::Inclusive } else { Answer::Exclusive };
                assert!([right, Answer::Undecided].contains(&bound), "{name}, {way:?}: {bound}");
                let right = Answer::Cut(cut);
                assert!([right, Answer::Undecided].contains(&told_cut), "{name}, {way:?}: {told_cut}");
                let decided = (bound != Answer::Undecided, told_cut != Answer::Undecided);
                assert_eq!(decided, *expected, "{name}, {way:?}");
            }
        }
    }

    #[test]
    fn pages_that_fit_nothing_decide_nothing() {
        let top: Vec<Place> = [9_000_017, 5_654_321, 5_123_456].map(|micros| (at(micros), micros)).into();
        let mut comparisons = Comparisons::new(&top);
        let cursor = comparisons.telling_cursor().unwrap();
        comparisons.saw(cursor, &[]);
        assert_eq!(comparisons.fitting.len(), 6, "an empty page is no evidence");
        comparisons.saw(cursor, &[(cursor + TimeDelta::seconds(1), 1)]);
        assert!(comparisons.findings().iter().all(|finding| finding.answer == Answer::Undecided));
        let disorder: Vec<Place> = top.iter().rev().copied().collect();
        assert_eq!(Comparisons::new(&disorder).telling_cursor(), None);
    }
}
