//! A row that is larger than any answer may be: found by asking for fewer rows, and left open alone.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Ask, Finding, Next, Obstacle, Phase, Walk, finding, floor};
use crate::interval::TICK;

/// Requests that look for the upper end of what can be read below the row: enough to halve all of time down to a
/// tick, and to find an end to begin from.
const PROBES: u32 = 150;

#[derive(Clone, Copy, Debug)]
pub(super) struct Large {
    /// What was read ends above this.
    top: DateTime<Utc>,
    /// The row lies below this cursor.
    high: DateTime<Utc>,
    /// It does not lie below this one.
    low: Option<DateTime<Utc>>,
    step: TimeDelta,
    probes: u32,
}

impl Walk {
    /// The answer was larger than may be read: asks for fewer rows, in the end for one, and then for what lies
    /// below that.
    pub fn too_large(&mut self) -> Finding {
        if let Phase::Large(large) = self.phase {
            let high = self.asked.cursor.unwrap_or(large.high);
            return self.look_below(Large { high, ..large });
        }
        if self.asked.limit > 1 {
            if let Phase::Run(run) = &self.phase {
                let run = run.clone();
                return self.halve_run(run);
            }
            self.limit = (self.asked.limit / 2).max(1);
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
        self.look_below(Large { top, high, low: None, step: TICK, probes: 0 })
    }

    /// What was asked for can be read, so the row is above.
    pub(super) fn read_below_large(&mut self, large: Large) -> Finding {
        self.look_below(Large { low: self.asked.cursor, ..large })
    }

    fn look_below(&mut self, mut large: Large) -> Finding {
        if large.probes >= PROBES {
            return finding(Next::GiveUp(Obstacle::TooLarge));
        }
        large.probes += 1;
        let cursor = match large.low {
            Some(low) if large.high - low <= TICK => {
                // Where times may be cut, all of the second is shown by the same cursor.
                let bottom = if self.exact { low } else { floor(low, TimeDelta::seconds(1)) };
                self.limit = self.most;
                return self.leave_open(Obstacle::TooLarge, bottom, large.top, bottom, 0);
            }
            Some(low) => low + (large.high - low) / 2,
            None if self.start.is_some_and(|start| large.high <= start) => {
                return self.leave_open(Obstacle::TooLarge, large.high, large.top, large.high, 0);
            }
            None => {
                let lower = large.high - large.step;
                large.step = large.step * 2;
                self.start.map_or(lower, |start| lower.max(start))
            }
        };
        self.phase = Phase::Large(large);
        self.asked = Ask { cursor: Some(cursor), limit: 1, page: None };
        finding(Next::Ask(self.asked.clone()))
    }
}
