//! One walk down a time line, as a pure state machine: what to ask next, and which interval each page proves.
//!
//! The rules hold under every reading of the documentation that `[S]`, `[V]` and `[C]` leave open: the cursor
//! may be exclusive or inclusive, or cut to milliseconds or seconds; a page may be shorter than asked; an empty
//! page may be a fault; many rows may share one time. Before a page is judged it is reduced: rows above the cursor, copies
//! and older versions are left out (`walk/page.rs`).

mod blank;
mod detour;
mod end;
mod obstacle;
mod page;
mod room;
mod run;
mod seam;

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::api::model::Listed;
use crate::interval::{Interval, TICK};

use self::blank::Blank;
use self::detour::Detour;
pub use self::obstacle::Obstacle;
use self::page::Page;
use self::run::Run;
use self::seam::SEAM_ATTEMPTS;

/// How often a page that is out of order is asked again.
const DISORDER_RETRIES: u32 = 2;

/// A row's place: its time on the line and its id.
pub type Place = (DateTime<Utc>, i64);

/// One request of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Rows before this time; `None` asks for the newest.
    pub cursor: Option<DateTime<Utc>>,
    pub limit: u32,
    pub page: Option<u32>,
}

/// What follows from a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Every row that the source had in this interval has now been seen by the walk.
    pub proven: Option<Interval>,
    /// Passed over without proof: stays open.
    pub hole: Option<(Interval, Obstacle)>,
    pub next: Next,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Ask(Ask),
    /// The walk has reached its lower end.
    Done,
    /// Nothing older came, twice, at different cursors: whether that is believed is not the walk's to say.
    Empty(Emptiness),
    /// It cannot go on; what is below stays open.
    GiveUp(Obstacle),
}

/// What empty answers say of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emptiness {
    /// Where nothing is left, if they are right; its end is right above the lowest row that the walk has seen.
    pub interval: Interval,
    /// No answer was empty: at least one had rows above its cursor, or only rows without a time.
    pub weak: bool,
}

/// A walk over one gap, newest first.
#[derive(Clone, Debug)]
pub struct Walk {
    start: Option<DateTime<Utc>>,
    /// Lower end of what has been proved or passed over.
    reached: DateTime<Utc>,
    /// The last rows seen, newest first.
    seam: VecDeque<Place>,
    /// The cursor that last brought a row of the seam back.
    met: Option<DateTime<Utc>>,
    /// Index into the cursors of [`Walk::seam_cursor`] from which the server has been seen to be exact.
    resolution: usize,
    /// A seam was found with a cursor at full resolution: times are not cut.
    exact: bool,
    /// Elements of the largest page, and the most rows of any.
    largest_page: usize,
    most_rows: usize,
    /// Elements that a page has room for, whatever is asked for.
    room: Option<usize>,
    /// Rows of a page that others have seen.
    known_page: u32,
    /// Rows to ask for: `most`, or fewer where pages were too large.
    limit: u32,
    most: u32,
    /// A page of twice as many rows was too large, at the cursor of the last page.
    halved: bool,
    /// A page obeyed a cursor.
    heeded: bool,
    /// Rows that were listed above the last one, at least.
    rows_above: usize,
    /// An answer that counts as empty was not.
    weak: bool,
    /// Rows without a time that were listed to their end.
    passed: HashSet<i64>,
    disorders: u32,
    phase: Phase,
    asked: Ask,
}

#[derive(Clone, Debug)]
enum Phase {
    Down,
    /// The seam was missing this many times.
    Seam(usize),
    /// One answer was empty.
    Empty,
    /// A single row fills a page where pages of more were never seen: asking for the newest page.
    Size,
    /// Nothing older came; asking at (0) or just below (1) the lowest row. Its time has been listed as a run?
    End(u8, bool),
    /// A run was passed over; asking at (0) or just below (1) it.
    Below(u8),
    /// It was empty there; asking again.
    BelowEmpty,
    Run(Box<Run>),
    Blank(Blank),
    /// Looking for what lies below a row that cannot be read.
    Detour(Detour),
}

impl Walk {
    /// A walk over `gap` that begins at its upper end. The first cursor is a whole second: it is right however
    /// the server cuts times.
    pub fn below(gap: Interval, limit: u32) -> Self {
        Self::new(gap, limit, Some(ceil(gap.end(), TimeDelta::seconds(1))))
    }

    /// A walk over `gap` that begins with the newest rows of the line, above the gap or not: with `first` rows, and
    /// twice as many with each page, up to `limit`.
    pub fn from_top(gap: Interval, first: u32, limit: u32) -> Self {
        Self { most: limit, ..Self::new(gap, first.clamp(1, limit.max(1)), None) }
    }

    fn new(gap: Interval, limit: u32, cursor: Option<DateTime<Utc>>) -> Self {
        Self {
            start: gap.start(),
            reached: gap.end(),
            seam: VecDeque::new(),
            met: None,
            resolution: 0,
            exact: false,
            largest_page: 0,
            most_rows: 0,
            room: None,
            known_page: 0,
            limit,
            most: limit,
            halved: false,
            heeded: false,
            rows_above: 0,
            weak: false,
            passed: HashSet::new(),
            disorders: 0,
            phase: Phase::Down,
            asked: Ask { cursor, limit, page: None },
        }
    }

    /// Pages of the endpoint were seen to have so many rows before.
    pub fn knows_pages_of(&mut self, rows: u32) {
        self.known_page = rows;
    }

    /// The request that the walk waits for.
    pub fn ask(&self) -> &Ask {
        &self.asked
    }

    /// Everything from here to the gap's upper end has been proved or passed over.
    pub fn reached(&self) -> DateTime<Utc> {
        self.reached
    }

    /// The time of the last row seen, older versions behind newer ones left out.
    pub fn lowest(&self) -> Option<DateTime<Utc>> {
        self.seam.back().map(|place| place.0)
    }

    /// Ends the walk at `start` instead: what is below was given to another.
    pub fn shorten(&mut self, start: DateTime<Utc>) {
        self.start = self.start.max(Some(start));
    }

    /// The API refused the request as wrong: a larger `limit` or `page` may not be known to it.
    pub fn refused(&mut self) -> Finding {
        match &self.phase {
            Phase::Size => self.read_size(&Page::default()),
            Phase::Run(run) if !run.counts_pages() => self.read(&[]),
            Phase::Run(_) => match self.seam.back().copied() {
                Some((last, _)) => self.leave_run(last),
                None => finding(Next::GiveUp(Obstacle::Refused)),
            },
            _ => finding(Next::GiveUp(Obstacle::Refused)),
        }
    }

    /// The API failed at the request again and again, but not at others: one from higher up may be answered.
    pub fn failed(&mut self) -> Finding {
        if matches!(self.phase, Phase::Size) {
            return self.read_size(&Page::default());
        }
        let attempt = match self.phase {
            Phase::Down => self.resolution + 1,
            Phase::Seam(attempt) => attempt + 1,
            _ => SEAM_ATTEMPTS,
        };
        let higher =
            self.asked.cursor.map(|cursor| ceil(cursor, TimeDelta::seconds(1)) + TimeDelta::seconds(1));
        let Some(higher) = higher.filter(|_| attempt < SEAM_ATTEMPTS) else {
            return finding(Next::GiveUp(Obstacle::Failing));
        };
        let cursor = self.seam_cursor(attempt).unwrap_or(higher);
        self.phase = Phase::Seam(attempt);
        finding(self.ask_for(Some(cursor)))
    }

    /// Takes the answer to [`Walk::ask`]: the elements of the page in its order.
    pub fn read(&mut self, listed: &[Listed]) -> Finding {
        let mut page = Page::reduce(listed, self.asked.cursor);
        self.room = self.room.max(room::told_by(&page, self.asked.limit as usize));
        let came = page.blanks.len();
        page.blanks.retain(|id| !self.passed.contains(id));
        let passed = came > page.blanks.len();
        // Taken, not copied: a reading of a long run holds all of its rows.
        match std::mem::replace(&mut self.phase, Phase::Down) {
            Phase::Run(run) => return self.read_run(run, &page),
            Phase::Blank(blank) => return self.read_blank(blank, &page),
            Phase::Size => return self.read_size(&page),
            phase => self.phase = phase,
        }
        if let Phase::Detour(detour) = self.phase {
            return self.read_below_detour(detour);
        }
        match () {
            () if !page.places.is_empty() => self.judge(&page),
            () if !page.blanks.is_empty() => self.begin_blank(&page),
            () if page.dropped > 0 => self.read_beside(),
            () => {
                self.weak |= passed;
                self.read_empty()
            }
        }
    }

    /// Judges a page of which some rows have a place.
    fn judge(&mut self, page: &Page) -> Finding {
        let rows = &page.places;
        if matches!(self.phase, Phase::BelowEmpty) {
            self.phase = Phase::Below(0);
        }
        if let Some(found) = self.refuse_disorder(page) {
            return found;
        }
        let skip_seam = matches!(self.phase, Phase::End(..) | Phase::Below(_));
        if !skip_seam {
            if !self.meets_seam(rows) {
                return self.widen(page);
            }
            self.met = self.asked.cursor;
            if let (Phase::Seam(attempt), false) = (&self.phase, self.exact) {
                self.resolution = self.resolution.max((*attempt).min(2));
            }
        }
        let lowest = rows[rows.len() - 1].0;
        match (&self.phase, self.seam.back().copied()) {
            (Phase::End(_, false), Some((last, _))) if lowest < last => self.begin_run(),
            (Phase::End(_, true), Some((last, _))) if lowest < last => self.leave_run(last),
            (Phase::End(below, listed), Some((last, _))) => self.ask_below(*below, *listed, last),
            (Phase::Below(below), _) if self.asked.cursor.is_some_and(|cursor| lowest >= cursor) => {
                self.ask_below_hole(*below)
            }
            (Phase::Below(_), _) => self.advance(page),
            (_, Some((last, _))) if lowest >= last => {
                self.remember(rows);
                match page.elements() {
                    1 if self.asked.limit > 1 && self.pages_have_more() => self.check_end(false),
                    1 if self.asked.limit > 1 => self.ask_size(),
                    _ => self.begin_run(),
                }
            }
            _ => self.advance(page),
        }
    }

    /// The page connects and brings older rows: it proves all above its last time.
    fn advance(&mut self, page: &Page) -> Finding {
        // A server that does not heed the cursor lists first what is above: at least what this walk has seen there.
        let newest = self.rows_above.min(page.elements());
        self.heeded |= self.asked.cursor.is_some() && (newest == 0 || page.dropped < newest);
        self.rows_above += page.rows().saturating_sub(1);
        self.largest_page = self.largest_page.max(page.elements());
        self.most_rows = self.most_rows.max(page.rows());
        self.descend(&page.places)
    }

    /// The same with rows that pages brought together.
    fn descend(&mut self, rows: &[Place]) -> Finding {
        if matches!(self.phase, Phase::Down) && self.resolution == 0 {
            // From a server that cuts times, a whole millisecond comes back, too, and so does what a cursor of a whole
            // millisecond is above.
            let whole = |time: DateTime<Utc>| time.timestamp_subsec_micros().is_multiple_of(1_000);
            let fine = |place: &Place| !whole(place.0) && !whole(place.0 + TICK);
            self.exact |= self.seam.back().is_some_and(fine);
        }
        self.disorders = 0;
        self.halved = false;
        self.limit = self.limit.saturating_mul(2).min(self.most);
        let lowest = rows[rows.len() - 1].0;
        self.remember(rows);
        let proven = self.prove_to(lowest);
        self.go_on(proven, None)
    }

    fn prove_to(&mut self, lowest: DateTime<Utc>) -> Option<Interval> {
        let from = (lowest + TICK).min(self.reached);
        let from = Some(from).max(self.start);
        let proven = Interval::new(from, self.reached);
        self.reached = from.unwrap_or(self.reached).min(self.reached);
        proven
    }

    /// Keeps the rows' places but proves nothing of them.
    fn pass_over(&mut self, page: &Page, obstacle: Obstacle) -> Finding {
        let mut rows = page.places.clone();
        rows.sort_by(|a, b| b.cmp(a));
        let before = self.seam.back().map(|place| place.0);
        let lowest = rows.last().map(|place| place.0);
        let Some(lowest) = lowest.filter(|lowest| before.is_none_or(|before| *lowest < before)) else {
            return finding(Next::GiveUp(obstacle));
        };
        let top = before.map_or(self.reached, |before| before + TICK);
        let hole = self.skip(lowest + TICK, top).map(|hole| (hole, obstacle));
        self.seam.clear();
        self.remember(&rows);
        self.go_on(None, hole)
    }

    /// What was not read from `bottom` to `top` or the end of what was: above the gap, too, where the ledger shows
    /// it only once it has settled.
    fn skip(&mut self, bottom: DateTime<Utc>, top: DateTime<Utc>) -> Option<Interval> {
        let bottom = self.start.map_or(bottom, |start| bottom.max(start));
        let top = self.reached.max(top);
        self.reached = self.reached.min(bottom);
        Interval::new(Some(bottom), top)
    }

    fn go_on(&mut self, proven: Option<Interval>, hole: Option<(Interval, Obstacle)>) -> Finding {
        let past_start =
            self.seam.back().is_some_and(|place| self.start.is_some_and(|start| place.0 < start));
        if past_start {
            return Finding { proven, hole, next: Next::Done };
        }
        self.phase = Phase::Down;
        let next = self.ask_for(self.seam_cursor(self.resolution));
        Finding { proven, hole, next }
    }

    fn refuse_disorder(&mut self, page: &Page) -> Option<Finding> {
        if page.is_sorted() {
            return None;
        }
        self.disorders += 1;
        if self.disorders <= DISORDER_RETRIES {
            return Some(finding(Next::Ask(self.asked.clone())));
        }
        self.disorders = 0;
        Some(self.pass_over(page, Obstacle::Disorder))
    }

    /// The cursor at `last` brought its rows again, so it is inclusive: ask below it.
    fn ask_below(&mut self, below: u8, listed: bool, last: DateTime<Utc>) -> Finding {
        if below > 0 {
            return finding(Next::GiveUp(Obstacle::Run));
        }
        self.phase = Phase::End(1, listed);
        finding(self.ask_for(Some(last - TICK)))
    }

    /// The same below a run that was passed over; where times may be cut, a second lower.
    fn ask_below_hole(&mut self, below: u8) -> Finding {
        if below > 0 {
            return finding(Next::GiveUp(Obstacle::Run));
        }
        let cursor = self.asked.cursor.unwrap_or(self.reached);
        let lower = cursor - if self.exact { TICK } else { TimeDelta::seconds(1) };
        // The cursor is inclusive: a row at `lower` itself comes back.
        self.leave_open(Obstacle::Run, lower + TICK, cursor, lower, 1)
    }

    /// Whether a page has more than one row if there are more.
    fn pages_have_more(&self) -> bool {
        self.largest_page > 1 || self.known_page > 1
    }

    fn ask_for(&mut self, cursor: Option<DateTime<Utc>>) -> Next {
        self.asked = Ask { cursor, limit: self.limit, page: None };
        Next::Ask(self.asked.clone())
    }
}

fn finding(next: Next) -> Finding {
    Finding { proven: None, hole: None, next }
}

fn floor(time: DateTime<Utc>, step: TimeDelta) -> DateTime<Utc> {
    time.duration_trunc(step).unwrap_or(time)
}

/// The next multiple of `step` that is not below `time`.
fn ceil(time: DateTime<Utc>, step: TimeDelta) -> DateTime<Utc> {
    let floor = floor(time, step);
    if floor < time { floor + step } else { time }
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
