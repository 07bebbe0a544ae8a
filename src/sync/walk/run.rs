//! A run of rows with one time that is longer than a page: asked for with a larger `limit`, then listed by page
//! number. It is proved when two readings in a row gave the same rows; else it is left open and passed over.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Ask, DISORDER_RETRIES, Finding, Next, Obstacle, Phase, Place, Walk, finding, floor};
use crate::interval::TICK;

/// What is asked for at once where a run of equal times fills a page.
const RUN_LIMIT: u32 = 1_000;
/// Pages of one reading of a run of equal times.
const RUN_PAGES: u32 = 1_000;
/// Readings of a run of equal times, of which two in a row must agree.
const RUN_READINGS: usize = 4;

#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    cursor: Option<DateTime<Utc>>,
    limit: u32,
    /// Pages asked so far in this reading; `None`: still asking for more at once.
    page: Option<u32>,
    reading: BTreeSet<Place>,
    previous: Option<Reading>,
    readings: usize,
}

#[derive(Clone, Debug)]
struct Reading {
    rows: BTreeSet<Place>,
    bottom: Bottom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bottom {
    /// A row below the run was seen at this time.
    At(DateTime<Utc>),
    /// A page beyond the run was empty.
    Empty,
    /// Pages repeat themselves: `page` is not heeded.
    Repeats,
}

impl Run {
    /// Whether page numbers are in use, not a mere larger `limit`.
    pub(super) fn counts_pages(&self) -> bool {
        self.page.is_some()
    }
}

impl Walk {
    pub(super) fn begin_run(&mut self) -> Finding {
        let cursor = self.met.or_else(|| self.seam_cursor(self.resolution));
        let limit = if self.halved { self.limit } else { RUN_LIMIT.max(self.limit) };
        self.phase = Phase::Run(Run { cursor, limit, ..Run::default() });
        self.asked = Ask { cursor, limit, page: None };
        finding(Next::Ask(self.asked.clone()))
    }

    pub(super) fn read_run(&mut self, mut run: Run, rows: &[Place]) -> Finding {
        let Some((last, _)) = self.seam.back().copied() else {
            return finding(Next::GiveUp(Obstacle::Run));
        };
        if self.is_spoilt(rows) {
            self.disorders += 1;
            if self.disorders <= DISORDER_RETRIES {
                self.phase = Phase::Run(run);
                return finding(Next::Ask(self.asked.clone()));
            }
            return self.leave_run(last);
        }
        self.disorders = 0;
        let lowest = rows.last().map(|row| row.0);
        let Some(page) = run.page else {
            // More at once: a larger page may reach past the run.
            if lowest.is_some_and(|lowest| lowest < last) && self.meets_seam(rows) {
                self.phase = Phase::Down;
                return self.advance(rows);
            }
            if rows.len() <= self.limit as usize {
                run.limit = self.limit;
            }
            run.page = Some(0);
            return self.ask_run(run);
        };
        let new = rows.iter().filter(|row| run.reading.insert(**row)).count();
        let bottom = match lowest {
            Some(lowest) if lowest < last => Some(Bottom::At(lowest)),
            None => Some(Bottom::Empty),
            _ if page >= 2 && new == 0 => Some(Bottom::Repeats),
            _ => None,
        };
        let Some(bottom) = bottom else {
            if page >= RUN_PAGES {
                return self.leave_run(last);
            }
            run.page = Some(page + 1);
            return self.ask_run(run);
        };
        let reading = Reading { rows: std::mem::take(&mut run.reading), bottom };
        run.readings += 1;
        if let Some(previous) = &run.previous
            && let Some(finding) = self.agree(last, run.limit, previous, &reading)
        {
            return finding;
        }
        if run.readings >= RUN_READINGS {
            return self.leave_run(last);
        }
        run.previous = Some(reading);
        run.page = Some(0);
        self.ask_run(run)
    }

    /// Begins the listing again with half as many rows a page: page numbers count pages of one size.
    pub(super) fn halve_run(&mut self, mut run: Run) -> Finding {
        run.limit = (self.asked.limit / 2).max(1);
        run.page = Some(0);
        run.reading.clear();
        run.previous = None;
        self.ask_run(run)
    }

    /// A page by number counts rows that other pages begin after: one too many in it pushes another out of sight.
    fn is_spoilt(&self, rows: &[Place]) -> bool {
        let above = |row: &Place| self.asked.cursor.is_some_and(|cursor| row.0 > cursor);
        !rows.is_sorted_by(|above, below| above.0 >= below.0)
            || rows.iter().any(above)
            || rows.iter().collect::<BTreeSet<_>>().len() < rows.len()
    }

    fn ask_run(&mut self, run: Run) -> Finding {
        self.asked = Ask { cursor: run.cursor, limit: run.limit, page: run.page.filter(|page| *page > 0) };
        self.phase = Phase::Run(run);
        finding(Next::Ask(self.asked.clone()))
    }

    /// Two readings of a run with the same rows prove it.
    fn agree(&mut self, last: DateTime<Utc>, limit: u32, one: &Reading, two: &Reading) -> Option<Finding> {
        if !self.seam.iter().any(|place| one.rows.contains(place)) {
            return None;
        }
        match (one.bottom, two.bottom) {
            (Bottom::At(a), Bottom::At(b)) => {
                let bottom = a.max(b);
                let above = |reading: &Reading| {
                    reading.rows.iter().filter(|row| row.0 > bottom).copied().collect::<BTreeSet<_>>()
                };
                if above(one) != above(two) {
                    return None;
                }
                let mut rows: Vec<Place> = two.rows.iter().filter(|row| row.0 >= bottom).copied().collect();
                rows.sort_by(|a, b| b.cmp(a));
                self.phase = Phase::Run(Run::default());
                Some(self.advance(&rows))
            }
            (Bottom::Empty, Bottom::Empty) if one.rows == two.rows => Some(self.check_end(true)),
            // A server that does not heed `page` repeats the run: it is whole if larger pages were seen.
            (Bottom::Repeats, Bottom::Repeats) if one.rows == two.rows => {
                let whole = two.rows.len() < self.largest_page.min(limit as usize);
                Some(if whole { self.check_end(true) } else { self.leave_run(last) })
            }
            _ => None,
        }
    }

    /// Gives the run up and goes on below it; where times may be cut, below its second.
    pub(super) fn leave_run(&mut self, last: DateTime<Utc>) -> Finding {
        let bottom = if self.exact { last } else { floor(last, TimeDelta::seconds(1)) };
        self.leave_open(Obstacle::Run, bottom, last + TICK, bottom, 0)
    }

    /// Leaves open what lies from `bottom` to `top` and goes on at `cursor`.
    pub(super) fn leave_open(
        &mut self,
        obstacle: Obstacle,
        bottom: DateTime<Utc>,
        top: DateTime<Utc>,
        cursor: DateTime<Utc>,
        below: u8,
    ) -> Finding {
        let hole = self.skip(bottom, top).map(|hole| (hole, obstacle));
        if self.start.is_some_and(|start| self.reached <= start) {
            return Finding { proven: None, hole, next: Next::Done };
        }
        self.phase = Phase::Below(below);
        let next = self.ask_for(Some(cursor));
        Finding { proven: None, hole, next }
    }
}
