//! The end of a line: nothing older came. That is weak evidence, and claimed, not proved.

use super::page::Page;
use super::{Ask, DISORDER_RETRIES, Emptiness, Finding, Next, Obstacle, Phase, Walk, ceil, finding};
use crate::interval::Interval;
use chrono::TimeDelta;

impl Walk {
    /// An answer without any row.
    pub(super) fn read_empty(&mut self) -> Finding {
        if matches!(self.phase, Phase::Below(_)) {
            // Not from a lower cursor: a server that cuts times would skip a whole second.
            self.phase = Phase::BelowEmpty;
            return finding(Next::Ask(self.asked.clone()));
        }
        if matches!(self.phase, Phase::Empty | Phase::End(..) | Phase::BelowEmpty) {
            return self.claim_end();
        }
        if !self.seam.is_empty() {
            // At least the seam's row was to come back.
            return self.widen(&Page::default());
        }
        let higher = match self.asked.cursor {
            Some(cursor) => ceil(cursor, TimeDelta::seconds(1)) + TimeDelta::seconds(1),
            None => self.reached + TimeDelta::hours(1),
        };
        self.phase = Phase::Empty;
        finding(self.ask_for(Some(higher)))
    }

    /// An answer with rows above the cursor alone: no empty answer. From a server that has not heeded the cursor on this
    /// walk it tells nothing; else nothing older may have come, which is weaker than emptiness.
    pub(super) fn read_beside(&mut self) -> Finding {
        self.disorders += 1;
        if self.disorders <= DISORDER_RETRIES {
            return finding(Next::Ask(self.asked.clone()));
        }
        self.disorders = 0;
        if !self.heeded {
            return finding(Next::GiveUp(Obstacle::CursorIgnored));
        }
        self.weak = true;
        self.read_empty()
    }

    /// Asks at the last time seen: where nothing older comes there either, the line ends.
    pub(super) fn check_end(&mut self, listed: bool) -> Finding {
        let Some((last, _)) = self.seam.back().copied() else {
            return self.read_empty();
        };
        self.phase = Phase::End(0, listed);
        finding(self.ask_for(Some(last)))
    }

    /// Asks for the two newest rows, to see whether pages have more than one at all.
    pub(super) fn ask_size(&mut self) -> Finding {
        self.phase = Phase::Size;
        self.asked = Ask { cursor: None, limit: 2, page: None };
        finding(Next::Ask(self.asked.clone()))
    }

    /// Where the newest page has no more than one row either, the last row seen may hide others of its time: a run.
    pub(super) fn read_size(&mut self, newest: &Page) -> Finding {
        self.largest_page = self.largest_page.max(newest.elements());
        self.most_rows = self.most_rows.max(newest.rows());
        if self.pages_have_more() { self.check_end(false) } else { self.begin_run() }
    }

    fn claim_end(&self) -> Finding {
        let Some(interval) = Interval::new(self.start, self.reached) else {
            return finding(Next::Done);
        };
        finding(Next::Empty(Emptiness { interval, weak: self.weak }))
    }
}
