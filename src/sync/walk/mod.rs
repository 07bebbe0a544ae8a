//! One walk down a time line, as a pure state machine: what to ask next, and which interval each page proves.
//!
//! The rules hold under every reading of the documentation that `[S]`, `[V]` and `[C]` leave open: the cursor
//! may be exclusive or inclusive, or cut to milliseconds or seconds; a page may be shorter than asked; an empty
//! page may be a slip; many rows may share one time.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use crate::interval::{Interval, TICK};

/// Rows remembered at the lower edge of what was read, to recognise the seam with the next page.
const SEAM_ROWS: usize = 64;
/// The same, where they lie within one second: a server that cuts times to seconds brings that second's newest.
const SEAM_SECOND_ROWS: usize = 10_000;
/// How many cursors are tried for one seam before the page is kept without proof.
const SEAM_ATTEMPTS: usize = 6;
/// What is asked for at once where a run of equal times fills a page.
const RUN_LIMIT: u32 = 1_000;
/// Pages of one reading of a run of equal times.
const RUN_PAGES: u32 = 1_000;
/// Readings of a run of equal times, of which two in a row must agree.
const RUN_READINGS: usize = 4;
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

/// Why a part of the line could not be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// Rows above the cursor came back.
    CursorIgnored,
    /// The page was not sorted by the line's time, again and again.
    Disorder,
    /// No row seen before came back where pages meet.
    SeamLost,
    /// More rows share one time than can be listed.
    Run,
    /// The page held rows, but not one whose time could be read.
    Unplaced,
    /// The API refused the request that would have told.
    Refused,
    /// One row is larger than `api.max_body`.
    TooLarge,
    /// The answer was no list of rows, even of one.
    Unreadable,
    /// The API failed at the request again and again, and answered others meanwhile.
    Failing,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CursorIgnored => "the API returned rows newer than the cursor",
            Self::Disorder => "the API returned pages out of order",
            Self::SeamLost => "no row of the page above came back where two pages meet",
            Self::Run => "more rows share one time than the API lists",
            Self::Unplaced => "no row of a page had a readable time",
            Self::Refused => "the API refused the request that would have told",
            Self::TooLarge => "a row is larger than api.max_body",
            Self::Unreadable => "the API's answer was no list of rows, again and again",
            Self::Failing => "the API failed at the request again and again, but not at others",
        })
    }
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
    /// It cannot go on; what is below stays open.
    GiveUp(Obstacle),
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
    largest_page: usize,
    limit: u32,
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
    /// Nothing older came; asking at (0) or just below (1) the lowest row. Its time has been listed as a run?
    End(u8, bool),
    /// A run was passed over; asking at (0) or just below (1) it.
    Below(u8),
    /// It was empty there; asking again.
    BelowEmpty,
    Run(Run),
}

#[derive(Clone, Debug, Default)]
struct Run {
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

impl Walk {
    /// A walk over `gap` that begins at its upper end. The first cursor is a whole second: it is right however
    /// the server cuts times.
    pub fn below(gap: Interval, limit: u32) -> Self {
        Self::new(gap, limit, Some(ceil(gap.end(), TimeDelta::seconds(1))))
    }

    /// A walk over `gap` that begins with the newest rows of the line, above the gap or not.
    pub fn from_top(gap: Interval, limit: u32) -> Self {
        Self::new(gap, limit, None)
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
            limit,
            disorders: 0,
            phase: Phase::Down,
            asked: Ask { cursor, limit, page: None },
        }
    }

    /// The request that the walk waits for.
    pub fn ask(&self) -> &Ask {
        &self.asked
    }

    /// Everything from here to the gap's upper end has been proved or passed over.
    pub fn reached(&self) -> DateTime<Utc> {
        self.reached
    }

    /// Ends the walk at `start` instead: what is below was given to another.
    pub fn shorten(&mut self, start: DateTime<Utc>) {
        self.start = self.start.max(Some(start));
    }

    /// Asks for half as many rows from now on, where a page was too large. `false`: it is one row already.
    pub fn halve(&mut self) -> bool {
        if self.asked.limit <= 1 {
            return false;
        }
        self.limit = (self.limit / 2).max(1);
        self.asked.limit = (self.asked.limit / 2).max(1);
        true
    }

    /// The API refused the request as wrong: a larger `limit` or `page` may not be known to it.
    pub fn refused(&mut self) -> Finding {
        match &self.phase {
            Phase::Run(run) if run.page.is_none() => self.read(&[], 0),
            Phase::Run(_) => match self.seam.back().copied() {
                Some((last, _)) => self.leave_run(last),
                None => finding(Next::GiveUp(Obstacle::Refused)),
            },
            _ => finding(Next::GiveUp(Obstacle::Refused)),
        }
    }

    /// The API failed at the request again and again, but not at others: another cursor may be answered.
    pub fn failed(&mut self) -> Finding {
        let widens = matches!(self.phase, Phase::Down | Phase::Seam(_)) && !self.seam.is_empty();
        match widens.then(|| self.widen(&[])) {
            Some(found) if matches!(found.next, Next::Ask(_)) => found,
            _ => finding(Next::GiveUp(Obstacle::Failing)),
        }
    }

    /// Takes the answer to [`Walk::ask`]: the places of its readable rows in the order of the page, and how many
    /// elements the page had.
    pub fn read(&mut self, rows: &[Place], elements: usize) -> Finding {
        if rows.is_empty() && elements > 0 {
            return finding(Next::GiveUp(Obstacle::Unplaced));
        }
        if let Phase::Run(run) = &self.phase {
            let run = run.clone();
            return self.read_run(run, rows);
        }
        if rows.is_empty() {
            return self.read_empty();
        }
        if matches!(self.phase, Phase::BelowEmpty) {
            self.phase = Phase::Below(0);
        }
        if let Some(found) = self.refuse_disorder(rows) {
            return found;
        }
        let skip_seam = matches!(self.phase, Phase::End(..) | Phase::Below(_));
        if !skip_seam {
            if !self.meets_seam(rows) {
                return self.widen(rows);
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
            (Phase::Below(_), _) => self.advance(rows),
            (_, Some((last, _))) if lowest >= last => {
                self.remember(rows);
                if rows.len() > 1 { self.begin_run() } else { self.check_end(false) }
            }
            _ => self.advance(rows),
        }
    }

    /// The page connects and brings older rows: it proves all above its last time.
    fn advance(&mut self, rows: &[Place]) -> Finding {
        if matches!(self.phase, Phase::Down) && self.resolution == 0 {
            // A whole millisecond comes back from a server that cuts times, too.
            let fine = |place: &Place| !place.0.timestamp_subsec_micros().is_multiple_of(1_000);
            self.exact |= self.seam.back().is_some_and(fine);
        }
        self.disorders = 0;
        self.largest_page = self.largest_page.max(rows.len());
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
    fn pass_over(&mut self, rows: &[Place], obstacle: Obstacle) -> Finding {
        let before = self.seam.back().map(|place| place.0);
        let lowest = rows.iter().map(|place| place.0).min().unwrap_or(self.reached);
        if before.is_some_and(|before| lowest >= before) {
            return finding(Next::GiveUp(obstacle));
        }
        self.seam.clear();
        self.remember(rows);
        let hole = self.prove_to(lowest).map(|hole| (hole, obstacle));
        self.go_on(None, hole)
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

    fn read_empty(&mut self) -> Finding {
        if matches!(self.phase, Phase::Below(_)) {
            // Not from a lower cursor: a server that cuts times would skip a whole second.
            self.phase = Phase::BelowEmpty;
            return finding(Next::Ask(self.asked.clone()));
        }
        if matches!(self.phase, Phase::Empty | Phase::End(..) | Phase::BelowEmpty) {
            let proven = Interval::new(self.start, self.reached);
            return Finding { proven, hole: None, next: Next::Done };
        }
        if !self.seam.is_empty() {
            // At least the seam's row was to come back.
            return self.widen(&[]);
        }
        let higher = match self.asked.cursor {
            Some(cursor) => ceil(cursor, TimeDelta::seconds(1)) + TimeDelta::seconds(1),
            None => self.reached + TimeDelta::hours(1),
        };
        self.phase = Phase::Empty;
        finding(self.ask_for(Some(higher)))
    }

    fn refuse_disorder(&mut self, rows: &[Place]) -> Option<Finding> {
        let ignored = self.asked.cursor.is_some_and(|cursor| rows.iter().any(|row| row.0 > cursor));
        if !ignored && rows.is_sorted_by(|above, below| above.0 >= below.0) {
            return None;
        }
        self.disorders += 1;
        if self.disorders <= DISORDER_RETRIES {
            return Some(finding(Next::Ask(self.asked.clone())));
        }
        self.disorders = 0;
        if ignored {
            return Some(finding(Next::GiveUp(Obstacle::CursorIgnored)));
        }
        let mut sorted = rows.to_vec();
        sorted.sort_by(|a, b| b.cmp(a));
        Some(self.pass_over(&sorted, Obstacle::Disorder))
    }

    fn meets_seam(&self, rows: &[Place]) -> bool {
        self.asked.cursor.is_none() || self.seam.is_empty() || rows.iter().any(|row| self.seam.contains(row))
    }

    /// Asks again from higher up: the server may cut times, or the row at the seam may have moved up the line.
    fn widen(&mut self, rows: &[Place]) -> Finding {
        let attempt = match self.phase {
            Phase::Seam(attempt) => attempt + 1,
            _ => self.resolution + 1,
        };
        if attempt >= SEAM_ATTEMPTS {
            return self.pass_over(rows, Obstacle::SeamLost);
        }
        self.phase = Phase::Seam(attempt);
        finding(self.ask_for(self.seam_cursor(attempt)))
    }

    /// Cursors above the lowest row seen, each wider than the one before.
    fn seam_cursor(&self, attempt: usize) -> Option<DateTime<Utc>> {
        let at = |rows_up: usize| self.seam.iter().rev().nth(rows_up.min(self.seam.len() - 1));
        let (last, _) = self.seam.back()?;
        let above = *last + TICK;
        Some(match attempt {
            0 => above,
            1 => ceil(above, TimeDelta::milliseconds(1)),
            2 => ceil(above, TimeDelta::seconds(1)),
            3 => ceil(at(2)?.0 + TICK, TimeDelta::seconds(1)),
            4 => ceil(at(8)?.0 + TICK, TimeDelta::seconds(1)),
            _ => ceil(at(SEAM_ROWS)?.0 + TICK, TimeDelta::seconds(1)),
        })
    }

    fn check_end(&mut self, listed: bool) -> Finding {
        let Some((last, _)) = self.seam.back().copied() else {
            return self.read_empty();
        };
        self.phase = Phase::End(0, listed);
        finding(self.ask_for(Some(last)))
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
        self.leave_open(lower + TICK, lower, 1)
    }

    fn ask_for(&mut self, cursor: Option<DateTime<Utc>>) -> Next {
        self.asked = Ask { cursor, limit: self.limit, page: None };
        Next::Ask(self.asked.clone())
    }

    fn remember(&mut self, rows: &[Place]) {
        for row in rows {
            let known = self.seam.iter().rev().any(|seen| seen == row);
            if !known && self.seam.back().is_none_or(|last| row.0 <= last.0) {
                self.seam.push_back(*row);
            }
        }
        let Some((last, _)) = self.seam.back().copied() else { return };
        let within = |place: &Place| place.0 - last <= TimeDelta::seconds(1);
        while self.seam.len() > SEAM_ROWS
            && (self.seam.len() > SEAM_SECOND_ROWS || !self.seam.front().is_some_and(within))
        {
            self.seam.pop_front();
        }
    }

    fn begin_run(&mut self) -> Finding {
        let cursor = self.met.or_else(|| self.seam_cursor(self.resolution));
        let limit = RUN_LIMIT.max(self.limit);
        self.phase = Phase::Run(Run { cursor, limit, ..Run::default() });
        self.asked = Ask { cursor, limit, page: None };
        finding(Next::Ask(self.asked.clone()))
    }

    fn read_run(&mut self, mut run: Run, rows: &[Place]) -> Finding {
        let Some((last, _)) = self.seam.back().copied() else {
            return finding(Next::GiveUp(Obstacle::Run));
        };
        let lowest = rows.last().map(|row| row.0);
        let Some(page) = run.page else {
            // More at once: a larger page may reach past the run.
            let sorted = rows.is_sorted_by(|above, below| above.0 >= below.0);
            if sorted && lowest.is_some_and(|lowest| lowest < last) && self.meets_seam(rows) {
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
    fn leave_run(&mut self, last: DateTime<Utc>) -> Finding {
        let bottom = if self.exact { last } else { floor(last, TimeDelta::seconds(1)) };
        self.leave_open(bottom, bottom, 0)
    }

    fn leave_open(&mut self, bottom: DateTime<Utc>, cursor: DateTime<Utc>, below: u8) -> Finding {
        let bottom = Some(bottom.min(self.reached)).max(self.start);
        let hole = Interval::new(bottom, self.reached).map(|hole| (hole, Obstacle::Run));
        self.reached = bottom.unwrap_or(self.reached);
        if self.start.is_some_and(|start| self.reached <= start) {
            return Finding { proven: None, hole, next: Next::Done };
        }
        self.phase = Phase::Below(below);
        let next = self.ask_for(Some(cursor));
        Finding { proven: None, hole, next }
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
mod tests;
