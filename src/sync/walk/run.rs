//! A run of rows with one time that is longer than a page: asked for with a larger `limit`, then listed by page
//! number. It is proved when two readings in a row gave the same rows; else it is left open and passed over.
//!
//! Where pages repeat rows, one that is repeated may push another out of the page (`walk/room.rs`). Then each reading has
//! pages of another size, and what all of them brought counts once the last brought nothing new and it is most unlikely
//! that a row was pushed out of every one.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::page::Page;
use super::room::{self, Listing};
use super::{Ask, DISORDER_RETRIES, Finding, Next, Obstacle, Phase, Place, Walk, finding, floor};
use crate::interval::TICK;

/// What is asked for at once where a run of equal times fills a page.
pub(super) const RUN_LIMIT: u32 = 1_000;
/// Pages of one reading of a run of equal times.
pub(super) const RUN_PAGES: u32 = 1_000;
/// Readings of a run of equal times, of which two in a row must agree.
const RUN_READINGS: u32 = 4;
/// The same where rows may have been pushed out of pages.
const SPOILT_READINGS: u32 = 16;
/// Sizes of pages before they are tried a little smaller again.
const SIZES: u32 = 5;
/// How many rows may be expected to have been pushed out of every page.
const EXPECTED_LOST: f64 = 1e-4;

#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    cursor: Option<DateTime<Utc>>,
    limit: u32,
    /// Rows of a page in the first reading.
    most: u32,
    /// Pages asked so far in this reading; `None`: still asking for more at once.
    page: Option<u32>,
    /// Elements of the largest page, and the most rows of any.
    size: usize,
    rows: usize,
    /// What was asked for in the first reading, and the elements of its largest page.
    first: Option<(u32, usize)>,
    reading: BTreeSet<Place>,
    pages: Vec<Listing>,
    previous: Option<Reading>,
    /// What all readings brought.
    all: BTreeSet<Place>,
    readings: u32,
    /// Where the pages of each reading ended. Readings whose pages end alike lose the same rows.
    layouts: HashSet<Vec<Option<Place>>>,
    /// Elements of all pages, and how many rows they may have pushed out.
    elements: usize,
    lost: usize,
    /// Rows without a time.
    blanks: HashSet<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    rows: BTreeSet<Place>,
    bottom: Bottom,
    /// How many rows its pages may have pushed out.
    lost: usize,
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

    /// Rows to ask for in the next reading: as many as before, or, where pages repeat rows, another number each time.
    fn next_limit(&self) -> u32 {
        if self.lost == 0 {
            return self.limit;
        }
        // Sizes far enough apart that a row at the end of a page is in the midst of another.
        let size = u32::try_from(self.size).unwrap_or(u32::MAX).clamp(1, self.most);
        let (round, step) = (self.readings / SIZES, self.readings % SIZES);
        size.saturating_sub(step * (size / 7).max(1) + round * (size / 14).max(1)).max(1)
    }

    /// What was asked for on each of these pages, unless other readings show that the server does not heed that.
    fn heeded_limit(&mut self, pages: &[Listing]) -> Option<usize> {
        let largest = pages.iter().map(|page| page.elements).max().unwrap_or(0);
        let (limit, size) = *self.first.get_or_insert((self.limit, largest));
        (limit == self.limit || size != largest).then_some(self.limit as usize)
    }

    /// Whether no row is likely to have been pushed out of every reading: each loses a row as often as any other.
    fn is_whole(&self) -> bool {
        let share = self.lost as f64 / self.elements.max(1) as f64;
        self.all.len() as f64 * share.powi(self.layouts.len().try_into().unwrap_or(i32::MAX)) <= EXPECTED_LOST
    }
}

impl Walk {
    pub(super) fn begin_run(&mut self) -> Finding {
        let cursor = self.met.or_else(|| self.seam_cursor(self.resolution));
        let limit = if self.halved { self.limit } else { RUN_LIMIT.max(self.limit) };
        let run = Run { cursor, limit, most: limit, ..Run::default() };
        // As many were just asked for: there is no larger page.
        let page = (limit <= self.asked.limit).then_some(0);
        self.ask_run(Box::new(Run { page, ..run }))
    }

    pub(super) fn read_run(&mut self, mut run: Box<Run>, page: &Page) -> Finding {
        let Some((last, _)) = self.seam.back().copied() else {
            return finding(Next::GiveUp(Obstacle::Run));
        };
        if !page.is_sorted() {
            self.disorders += 1;
            if self.disorders <= DISORDER_RETRIES {
                self.phase = Phase::Run(run);
                return finding(Next::Ask(self.asked.clone()));
            }
            return self.leave_run(last);
        }
        self.disorders = 0;
        run.size = run.size.max(page.elements());
        run.rows = run.rows.max(page.rows());
        let lowest = page.lowest();
        let Some(number) = run.page else {
            // More at once: a larger page may reach past the run.
            if lowest.is_some_and(|lowest| lowest < last) && self.meets_seam(&page.places) {
                self.phase = Phase::Down;
                return self.advance(page);
            }
            if page.elements() <= self.limit as usize {
                run.limit = self.limit;
            }
            run.most = run.limit;
            run.page = Some(0);
            return self.ask_run(run);
        };
        let blanks = page.blanks.iter().map(|id| (last, *id));
        let new = page.places.iter().copied().chain(blanks).filter(|row| run.reading.insert(*row)).count();
        run.blanks.extend(&page.blanks);
        run.pages.push(Listing::of(page));
        let bottom = match lowest {
            Some(lowest) if lowest < last => Some(Bottom::At(lowest)),
            None if page.blanks.is_empty() => {
                // Rows above the cursor alone are no empty page.
                self.weak |= page.dropped > 0;
                Some(Bottom::Empty)
            }
            _ if number >= 2 && new == 0 => Some(Bottom::Repeats),
            _ => None,
        };
        let Some(bottom) = bottom else {
            if number >= RUN_PAGES {
                return self.leave_run(last);
            }
            run.page = Some(number + 1);
            return self.ask_run(run);
        };
        let pages = std::mem::take(&mut run.pages);
        let lost = room::pushed_out(&pages, run.heeded_limit(&pages), self.room, self.largest_page);
        run.elements += pages.iter().map(|page| page.elements).sum::<usize>();
        run.lost += lost;
        run.layouts.insert(pages.iter().map(|page| page.last).collect());
        let reading = Reading { rows: std::mem::take(&mut run.reading), bottom, lost };
        self.end_reading(last, run, reading)
    }

    fn end_reading(&mut self, last: DateTime<Utc>, mut run: Box<Run>, reading: Reading) -> Finding {
        run.readings += 1;
        let known = run.all.len();
        run.all.extend(&reading.rows);
        if run.all.len() == known
            && let Some(previous) = &run.previous
            && let Some(rows) = self.agree(&run, previous, &reading)
        {
            return self.prove_run(last, &run, &reading, rows);
        }
        if run.readings >= if run.lost > 0 { SPOILT_READINGS } else { RUN_READINGS } {
            return self.leave_run(last);
        }
        run.limit = run.next_limit();
        run.previous = Some(reading);
        run.page = Some(0);
        self.ask_run(run)
    }

    /// Begins the listing again with half as many rows a page: page numbers count pages of one size.
    pub(super) fn halve_run(&mut self, mut run: Box<Run>) -> Finding {
        run.limit = (self.asked.limit / 2).max(1);
        run.most = run.limit;
        run.page = Some(0);
        run.reading.clear();
        run.pages.clear();
        run.previous = None;
        self.ask_run(run)
    }

    fn ask_run(&mut self, run: Box<Run>) -> Finding {
        self.asked = Ask { cursor: run.cursor, limit: run.limit, page: run.page.filter(|page| *page > 0) };
        self.phase = Phase::Run(run);
        finding(Next::Ask(self.asked.clone()))
    }

    /// The rows of the run, where the readings agree: newest first, one row below it included, if there is one.
    fn agree(&self, run: &Run, one: &Reading, two: &Reading) -> Option<Vec<Place>> {
        let bottom = match (one.bottom, two.bottom) {
            (Bottom::At(a), Bottom::At(b)) => Some(a.max(b)),
            (a, b) if a == b => None,
            _ => return None,
        };
        let above = |rows: &BTreeSet<Place>| -> BTreeSet<Place> {
            rows.iter().filter(|row| bottom.is_none_or(|bottom| row.0 > bottom)).copied().collect()
        };
        let rows = match one.lost + two.lost {
            0 if above(&one.rows) == above(&two.rows) => &two.rows,
            0 => return None,
            _ if run.is_whole() => &run.all,
            _ => return None,
        };
        if !self.seam.iter().any(|place| rows.contains(place)) {
            return None;
        }
        let within =
            |row: &&Place| bottom.is_none_or(|bottom| row.0 >= bottom) && !run.blanks.contains(&row.1);
        let mut rows: Vec<Place> = rows.iter().filter(within).copied().collect();
        rows.sort_by(|a, b| b.cmp(a));
        Some(rows)
    }

    fn prove_run(&mut self, last: DateTime<Utc>, run: &Run, reading: &Reading, rows: Vec<Place>) -> Finding {
        self.passed.extend(&run.blanks);
        match reading.bottom {
            Bottom::At(_) => {
                self.phase = Phase::Run(Box::default());
                self.descend(&rows)
            }
            Bottom::Empty => self.check_end(true),
            // A server that does not heed `page` repeats the run: it is whole if larger pages were seen. Larger both with
            // and without what is left out of pages: whether that takes room on them is not known.
            Bottom::Repeats => {
                let limit = run.limit as usize;
                let whole = run.size < self.largest_page.min(limit) && run.rows < self.most_rows.min(limit);
                // A list of one row, maybe: pages of more were never seen.
                let alone = run.size <= 1 && limit > 1 && !self.pages_have_more();
                self.weak |= alone && !whole;
                if whole || alone { self.check_end(true) } else { self.leave_run(last) }
            }
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
