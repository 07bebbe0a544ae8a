//! The small scope, whole: every history of up to five rows over up to three times, read from every server that differs
//! in what the documents leave open or in how it misbehaves for good, with every single fault at every request.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::*;

/// Requests of one walk, at most.
const REQUESTS: usize = 400;

/// What the rows' times are: within one millisecond, within one second, whole seconds.
const TIMES: [[i64; 3]; 3] = [[400, 500, 501], [400, 900_500, 1_000_500], [1_000_000, 2_000_000, 3_000_000]];
/// Microseconds to which a server cuts cursors.
const CUTS: [i64; 3] = [1, 1_000, 1_000_000];
/// Whether page numbers are heeded, and what the first is.
const PAGING: [Option<u32>; 3] = [None, Some(0), Some(1)];

/// What a server does on each page, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    None,
    /// So many rows above the cursor at the top; with `true` they push others out of the page.
    Overlap(usize, bool),
    /// The list has each row twice.
    Repeats,
    /// An older version of the newest row stands at the time of the oldest.
    Stale,
}

const HABITS: [Habit; 6] = [
    Habit::None,
    Habit::Overlap(1, false),
    Habit::Overlap(2, false),
    Habit::Overlap(2, true),
    Habit::Repeats,
    Habit::Stale,
];

/// What goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Empty,
    Failed,
    Unreadable,
    Reversed,
}

const FAULTS: [Fault; 4] = [Fault::Empty, Fault::Failed, Fault::Unreadable, Fault::Reversed];

#[derive(Clone, Debug)]
struct Case {
    rows: Vec<Place>,
    cap: usize,
    limit: u32,
    heeds_limit: bool,
    cut: i64,
    inclusive: bool,
    paging: Option<u32>,
    habit: Habit,
    /// 0: all of history; 1: down to the middle; 2: the same, from the newest row.
    gap: usize,
}

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_000_000 + micros).unwrap()
}

/// Takes a digit off a number of mixed base.
fn digit(number: &mut usize, base: usize) -> usize {
    let digit = *number % base;
    *number /= base;
    digit
}

/// How many rows have each time: all ways to have up to five.
fn histories() -> Vec<[usize; 3]> {
    let mut all = Vec::new();
    for first in 0..=5 {
        for second in 0..=5 - first {
            for third in 0..=5 - first - second {
                all.push([first, second, third]);
            }
        }
    }
    all
}

impl Case {
    const COUNT: usize = 56 * 3 * 2 * 3 * 3 * 2 * 3 * 2 * 3 * 6 * 3;

    fn numbered(mut number: usize) -> Self {
        let counts = histories()[digit(&mut number, 56)];
        let times = TIMES[digit(&mut number, 3)];
        let ascending_ids = digit(&mut number, 2) == 1;
        let mut rows: Vec<Place> = Vec::new();
        for (time, count) in times.iter().zip(counts) {
            for _ in 0..count {
                let id = rows.len() as i64;
                rows.push((at(*time), if ascending_ids { -id } else { id }));
            }
        }
        rows.sort_by(|a, b| b.cmp(a));
        Self {
            rows,
            cap: 1 + digit(&mut number, 3),
            limit: 1 + digit(&mut number, 3) as u32,
            heeds_limit: digit(&mut number, 2) == 0,
            cut: CUTS[digit(&mut number, 3)],
            inclusive: digit(&mut number, 2) == 1,
            paging: PAGING[digit(&mut number, 3)],
            habit: HABITS[digit(&mut number, 6)],
            gap: digit(&mut number, 3),
        }
    }

    fn walk(&self) -> Walk {
        let end = at(4_000_000);
        let middle = self.rows.get(self.rows.len() / 2).map_or(at(500_000), |row| row.0);
        match self.gap {
            0 => Walk::below(Interval::new(None, end).unwrap(), self.limit),
            1 => Walk::below(Interval::new(Some(middle), end).unwrap(), self.limit),
            _ => Walk::from_top(Interval::new(Some(middle), end).unwrap(), 1, self.limit),
        }
    }

    fn answer(&self, ask: &Ask) -> Vec<Place> {
        let size = if self.heeds_limit { (ask.limit as usize).min(self.cap) } else { self.cap };
        let cursor = ask.cursor.map(|cursor| {
            DateTime::from_timestamp_micros(cursor.timestamp_micros().div_euclid(self.cut) * self.cut)
                .unwrap()
        });
        let below = |row: &Place| match cursor {
            None => true,
            Some(cursor) => row.0 < cursor || self.inclusive && row.0 == cursor,
        };
        let mut list = self.rows.clone();
        match self.habit {
            Habit::Repeats => list = list.into_iter().flat_map(|row| [row, row]).collect(),
            Habit::Stale => {
                if let (Some(newest), Some(oldest)) = (list.first().copied(), list.last().copied()) {
                    list.push((oldest.0, newest.1));
                }
            }
            _ => {}
        }
        let page = match (ask.page, self.paging) {
            (Some(page), Some(first)) => page.saturating_sub(first) as usize,
            _ => 0,
        };
        let mut found: Vec<Place> =
            list.iter().filter(|row| below(row)).skip(page * size).take(size).copied().collect();
        if let (Habit::Overlap(rows, cut), Some(_)) = (self.habit, ask.cursor) {
            let above: Vec<Place> = list
                .iter()
                .rev()
                .filter(|row| ask.cursor.is_some_and(|cursor| row.0 > cursor))
                .take(rows)
                .copied()
                .collect();
            found.splice(0..0, above.into_iter().rev());
            if cut {
                found.truncate(size.max(rows + 1));
            }
        }
        found
    }

    /// Walks to the end; what was proved must have been seen. Returns how many requests that took, or what is wrong.
    fn check(&self, fault: Option<(usize, Fault)>) -> Result<usize, String> {
        let mut walk = self.walk();
        let mut seen = BTreeSet::new();
        let mut proven = Vec::new();
        let mut requests = 0;
        loop {
            if requests == REQUESTS {
                return Err(format!("no end: {self:?}, {fault:?}"));
            }
            let mut page = self.answer(walk.ask());
            let now = fault.filter(|(nth, _)| *nth == requests).map(|(_, fault)| fault);
            requests += 1;
            let finding = match now {
                Some(Fault::Failed) => walk.failed(),
                Some(Fault::Unreadable) => walk.unreadable(Obstacle::Unreadable),
                other => {
                    match other {
                        Some(Fault::Empty) => page.clear(),
                        Some(Fault::Reversed) => page.reverse(),
                        _ => {}
                    }
                    seen.extend(page.iter().copied());
                    let listed: Vec<Listed> = page.iter().map(|(time, id)| (Some(*time), *id)).collect();
                    walk.read(&listed)
                }
            };
            proven.extend(finding.proven);
            match finding.next {
                Next::Ask(_) => {}
                Next::Empty(emptiness) => {
                    // Believed only on more evidence; but it must be right of itself, unless it says that it is weak.
                    proven.extend((!emptiness.weak).then_some(emptiness.interval));
                    break;
                }
                Next::Done | Next::GiveUp(_) => break,
            }
        }
        for row in &self.rows {
            let covered = proven.iter().any(|interval| interval.contains(row.0));
            if covered && !seen.contains(row) {
                return Err(format!("{row:?} is covered, never seen: {self:?}, {fault:?}"));
            }
        }
        Ok(requests)
    }
}

/// Checks every `stride`th case from `first`, without a fault and with each at each request; returns how many walks
/// that were, and what was wrong.
fn check_some(first: usize, stride: usize) -> (usize, Vec<String>) {
    let mut walks = 0;
    let mut wrong = Vec::new();
    for number in (first..Case::COUNT).step_by(stride) {
        let case = Case::numbered(number);
        walks += 1;
        let requests = match case.check(None) {
            Ok(requests) => requests,
            Err(error) => {
                wrong.push(error);
                continue;
            }
        };
        let faults = (0..requests).flat_map(|nth| FAULTS.map(|fault| (nth, fault)));
        walks += 4 * requests;
        wrong.extend(faults.filter_map(|fault| case.check(Some(fault)).err()).take(1));
    }
    (walks, wrong)
}

#[test]
fn what_is_covered_was_seen_in_a_part_of_the_small_scope() {
    assert_eq!(histories().len(), 56);
    // A prime, so that every digit takes every value.
    let (walks, wrong) = check_some(0, 4_999);
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
    assert!(walks > 1_000);
}

/// All of it: `cargo test --release --lib small_scope -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes in a release build"]
fn what_is_covered_was_seen_in_all_of_the_small_scope() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = std::thread::scope(|scope| {
        let parts: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || check_some(first, threads))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    let walks: usize = parts.iter().map(|(walks, _)| walks).sum();
    let wrong: Vec<&String> = parts.iter().flat_map(|(_, wrong)| wrong).collect();
    eprintln!("{} cases, {walks} walks, {} wrong", Case::COUNT, wrong.len());
    let some: Vec<_> = wrong.iter().step_by(wrong.len() / 20 + 1).collect();
    assert!(wrong.is_empty(), "some of them: {some:#?}");
}
