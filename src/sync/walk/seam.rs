//! Where two pages meet: a row of the page above must come back in the page below.

use chrono::{DateTime, TimeDelta, Utc};

use super::page::Page;
use super::{Finding, Obstacle, Phase, Place, Walk, ceil, finding};
use crate::interval::TICK;

/// Rows remembered at the lower edge of what was read, to recognise the seam with the next page.
const SEAM_ROWS: usize = 64;
/// The same, where they lie within one second: a server that cuts times to seconds brings that second's newest.
const SEAM_SECOND_ROWS: usize = 10_000;
/// How many cursors are tried for one seam before the page is kept without proof.
pub(super) const SEAM_ATTEMPTS: usize = 6;

impl Walk {
    pub(super) fn meets_seam(&self, rows: &[Place]) -> bool {
        self.asked.cursor.is_none() || self.seam.is_empty() || rows.iter().any(|row| self.seam.contains(row))
    }

    /// Asks again from higher up: the server may cut times, or the row at the seam may have moved up the line.
    pub(super) fn widen(&mut self, page: &Page) -> Finding {
        let attempt = match self.phase {
            Phase::Seam(attempt) => attempt + 1,
            _ => self.resolution + 1,
        };
        if attempt >= SEAM_ATTEMPTS {
            return self.pass_over(page, Obstacle::SeamLost);
        }
        self.phase = Phase::Seam(attempt);
        finding(self.ask_for(self.seam_cursor(attempt)))
    }

    /// Cursors above the lowest row seen, each wider than the one before.
    pub(super) fn seam_cursor(&self, attempt: usize) -> Option<DateTime<Utc>> {
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

    pub(super) fn remember(&mut self, rows: &[Place]) {
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
}
