//! A way around what cannot be read: narrowed down by asking for fewer rows, and left open alone.

use chrono::{DateTime, TimeDelta, Utc};

use super::page::Page;
use super::{Ask, Finding, Next, Obstacle, Phase, Walk, finding, floor};
use crate::interval::TICK;

/// Requests that look for the upper end of what can be read below the row: enough to halve all of time down to a
/// tick, and to find an end to begin from.
const PROBES: u32 = 150;

/// Nothing is looked for below this: where not even this cursor is answered, none is.
const EARLIEST: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[derive(Clone, Copy, Debug)]
pub(super) struct Detour {
    /// What was read ends above this.
    top: DateTime<Utc>,
    obstacle: Obstacle,
    /// The row lies below this cursor.
    high: DateTime<Utc>,
    /// It does not lie below this one.
    low: Option<DateTime<Utc>>,
    step: TimeDelta,
    probes: u32,
}

impl Walk {
    /// The answer was too large, or no page: asks for fewer rows, in the end for one, and then for what lies below
    /// that.
    pub fn unreadable(&mut self, obstacle: Obstacle) -> Finding {
        if let Phase::Detour(detour) = self.phase {
            let high = self.asked.cursor.unwrap_or(detour.high);
            return self.look_below(Detour { high, ..detour });
        }
        if matches!(self.phase, Phase::Size) {
            return self.read_size(&Page::default());
        }
        if self.asked.limit > 1 {
            match std::mem::replace(&mut self.phase, Phase::Down) {
                Phase::Run(run) => return self.halve_run(run),
                phase => self.phase = phase,
            }
            self.limit = (self.asked.limit / 2).max(1);
            self.halved = true;
            self.asked.limit = self.limit;
            return finding(Next::Ask(self.asked.clone()));
        }
        let last = self.seam.back().map(|last| last.0);
        let cursor = match self.phase {
            // It is on a later page, at the last time seen or below.
            Phase::Run(_) => last,
            _ => self.asked.cursor,
        };
        let high = cursor.unwrap_or(self.reached + TimeDelta::seconds(1));
        let top = last.map_or(high, |last| last + TICK);
        self.look_below(Detour { top, obstacle, high, low: None, step: TICK, probes: 0 })
    }

    /// Whether it has narrowed down what cannot be read to one row, and not begun to look for a way around it.
    pub fn asks_for_one(&self) -> bool {
        self.asked.limit <= 1 && !self.is_on_detour()
    }

    pub fn is_on_detour(&self) -> bool {
        matches!(self.phase, Phase::Detour(_))
    }

    /// What was asked for can be read, so what cannot is above.
    pub(super) fn read_below_detour(&mut self, detour: Detour) -> Finding {
        self.look_below(Detour { low: self.asked.cursor, ..detour })
    }

    fn look_below(&mut self, mut detour: Detour) -> Finding {
        if detour.probes >= PROBES {
            return finding(Next::GiveUp(detour.obstacle));
        }
        detour.probes += 1;
        let cursor = match detour.low {
            Some(low) if detour.high - low <= TICK => {
                // Where times may be cut, all of the second is shown by the same cursor.
                let bottom = if self.exact { low } else { floor(low, TimeDelta::seconds(1)) };
                self.limit = self.most;
                return self.leave_open(detour.obstacle, bottom, detour.top, bottom, 0);
            }
            Some(low) => low + (detour.high - low) / 2,
            // Where it was gone around before, the gap begins with the row: the rest need not be searched for it.
            None if detour.probes == 1 && self.start.is_some_and(|start| detour.high > start + TICK) => {
                self.start.map_or(EARLIEST, |start| start + TICK)
            }
            None if self.start.is_some_and(|start| detour.high <= start) => {
                return self.leave_open(detour.obstacle, detour.high, detour.top, detour.high, 0);
            }
            None if detour.high <= EARLIEST => return finding(Next::GiveUp(detour.obstacle)),
            None => {
                let lowest = self.start.map_or(EARLIEST, |start| start.max(EARLIEST));
                let lower = detour.high.checked_sub_signed(detour.step);
                detour.step = detour.step.checked_mul(2).unwrap_or(detour.step);
                lower.map_or(lowest, |lower| lower.max(lowest))
            }
        };
        self.phase = Phase::Detour(detour);
        self.asked = Ask { cursor: Some(cursor), limit: 1, page: None };
        finding(Next::Ask(self.asked.clone()))
    }
}
