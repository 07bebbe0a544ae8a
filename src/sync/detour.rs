//! A way around what cannot be read: the highest cursor below it from which the line can be read again.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};

use crate::api::error::ErrorKind;
use crate::api::lenient;

use super::walk::Ask;
use super::walker::{Errand, Reader, WalkError};

/// Cursors are whole seconds: right however the server cuts times.
const STEP: TimeDelta = TimeDelta::seconds(1);
/// What is more than this below is not looked for: longer than any history.
const FARTHEST: TimeDelta = TimeDelta::days(50 * 366);

/// The search, as a pure state machine: steps down that double until an answer can be read, then halves.
#[derive(Clone, Copy, Debug)]
struct Search {
    lowest: DateTime<Utc>,
    /// The answer to this cursor cannot be read.
    blocked: DateTime<Utc>,
    /// The answer to this one can.
    open: Option<DateTime<Utc>>,
    step: TimeDelta,
}

impl Search {
    fn new(start: Option<DateTime<Utc>>, blocked: DateTime<Utc>) -> Self {
        let blocked = floor(blocked + STEP);
        let farthest = floor(blocked - FARTHEST);
        let lowest = start.map_or(farthest, |start| (floor(start) + STEP).max(farthest));
        Self { lowest, blocked, open: None, step: STEP }
    }

    /// The cursor to try next; none when the search has ended.
    fn ask(&self) -> Option<DateTime<Utc>> {
        let cursor = match self.open {
            None => (self.blocked - self.step).max(self.lowest),
            Some(open) => open + floor_step((self.blocked - open) / 2),
        };
        (cursor < self.blocked && Some(cursor) != self.open).then_some(cursor)
    }

    fn answered(&mut self, cursor: DateTime<Utc>, readable: bool) {
        if readable {
            self.open = Some(cursor);
        } else {
            self.blocked = cursor;
            self.step = self.step * 2;
        }
    }
}

fn floor(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(STEP).unwrap_or(time)
}

fn floor_step(delta: TimeDelta) -> TimeDelta {
    TimeDelta::seconds(delta.num_seconds())
}

impl Reader {
    /// The highest whole second below `blocked`, and above `start`, from which one row can be read; none if there
    /// is none. Costs a request for each doubling of the distance and each halving: at most about 60.
    pub(super) async fn detour(
        &self,
        errand: &Errand,
        start: Option<DateTime<Utc>>,
        blocked: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, WalkError> {
        let mut search = Search::new(start, blocked);
        while let Some(cursor) = search.ask() {
            let ask = Ask { cursor: Some(cursor), limit: 1, page: None };
            let answer = self.ask(errand, &ask).await;
            let readable = match answer {
                Ok(response) => {
                    lenient::read_page(errand.line.stream, errand.line.field, &response.body).is_ok()
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(WalkError::Stopped),
                Err(error) if error.is_outage() => return Err(WalkError::Api(error)),
                Err(_) => false,
            };
            search.answered(cursor, readable);
        }
        Ok(search.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    /// Rows at seconds, some unreadable; a cursor brings the newest row below it.
    fn search(rows: &[(i64, bool)], start: Option<i64>, blocked: DateTime<Utc>) -> (Option<i64>, usize) {
        let mut search = Search::new(start.map(at), blocked);
        let mut asked = 0;
        while let Some(cursor) = search.ask() {
            asked += 1;
            let row = rows.iter().filter(|row| at(row.0) < cursor).max_by_key(|row| row.0);
            search.answered(cursor, row.is_none_or(|row| row.1));
        }
        (search.open.map(|open| (open - at(0)).num_seconds()), asked)
    }

    #[test]
    fn the_search_ends_right_below_what_cannot_be_read() {
        let half = at(500) + TimeDelta::milliseconds(300);
        type Case = (&'static str, &'static [(i64, bool)], Option<i64>, DateTime<Utc>, Option<i64>);
        let cases: [Case; 8] = [
            ("right below", &[(499, false), (400, true)], None, at(500), Some(499)),
            ("far below", &[(-90_000, false), (-90_100, true)], None, at(500), Some(-90_000)),
            ("within a second", &[(500, false), (400, true)], None, half, Some(500)),
            ("several", &[(499, false), (498, false), (497, false), (9, true)], None, at(500), Some(497)),
            ("nothing below", &[(499, false)], None, at(500), Some(499)),
            ("start far below", &[(499, false), (400, true)], Some(100), at(500), Some(499)),
            ("none above the start", &[(499, false), (400, true)], Some(499), at(500), None),
            ("it has gone meanwhile", &[(400, true)], None, at(500), Some(500)),
        ];
        for (name, rows, start, blocked, open) in cases {
            let (found, asked) = search(rows, start, blocked);
            assert_eq!(found, open, "{name}");
            assert!(asked <= 64, "{name}: {asked} requests");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_at_all_is_given_up() {
        for start in [None, Some(-1_000_000)] {
            let mut search = Search::new(start.map(at), at(500));
            let mut asked = 0;
            while let Some(cursor) = search.ask() {
                search.answered(cursor, false);
                asked += 1;
            }
            assert_eq!(search.open, None);
            assert!(asked <= 64, "{asked} requests");
        }
    }
}
