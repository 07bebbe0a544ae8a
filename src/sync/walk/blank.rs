//! Pages whose rows have no time, so that none of them has a place on the line: passed by a larger `limit`, then by page
//! number.

use std::collections::HashSet;

use super::page::Page;
use super::run::{RUN_LIMIT, RUN_PAGES};
use super::{Ask, Finding, Next, Obstacle, Phase, Walk, finding};

/// Rows without a time that a walk remembers as passed.
const PASSED_ROWS: usize = 10_000;
/// Pages by number of which none brings another row before `page` counts as not heeded.
const SAME_PAGES: u32 = 3;

/// A listing of rows without a time.
#[derive(Clone, Debug)]
pub(super) struct Blank {
    /// What the walk was at.
    within: Box<Phase>,
    ids: HashSet<i64>,
    /// The number of the page asked for; `None`: more at once.
    page: Option<u32>,
    /// Pages in a row that brought no other row.
    same: u32,
}

impl Walk {
    /// The page has rows, none of which has a place: asks for more at once.
    pub(super) fn begin_blank(&mut self, page: &Page) -> Finding {
        let within = Box::new(std::mem::replace(&mut self.phase, Phase::Down));
        let ids = page.blanks.iter().copied().collect();
        let limit = RUN_LIMIT.max(self.limit);
        self.phase = Phase::Blank(Blank { within, ids, page: None, same: 0 });
        self.asked = Ask { limit, page: None, ..self.asked.clone() };
        finding(Next::Ask(self.asked.clone()))
    }

    pub(super) fn read_blank(&mut self, mut blank: Blank, page: &Page) -> Finding {
        if !page.places.is_empty() {
            let counted = blank.page.is_some();
            self.phase = *blank.within;
            self.passed.extend(blank.ids);
            // Page numbers count rows that come and go: what lies between is read by another walk.
            return if counted { self.pass_over(page, Obstacle::Unplaced) } else { self.judge(page) };
        }
        if page.elements() == 0 {
            return self.end_blank(blank);
        }
        let before = blank.ids.len();
        blank.ids.extend(&page.blanks);
        blank.same = if blank.ids.len() > before { 0 } else { blank.same + 1 };
        if blank.same >= SAME_PAGES {
            // A server that does not heed `page`: the rows are all there are if larger pages were seen.
            if blank.ids.len() >= self.largest_page.min(self.asked.limit as usize) {
                return finding(Next::GiveUp(Obstacle::Unplaced));
            }
            self.weak = true;
            return self.end_blank(blank);
        }
        let next = blank.page.unwrap_or(0) + 1;
        if next > RUN_PAGES || self.passed.len() + blank.ids.len() > PASSED_ROWS {
            return finding(Next::GiveUp(Obstacle::Unplaced));
        }
        blank.page = Some(next);
        self.asked = Ask { page: Some(next), ..self.asked.clone() };
        self.phase = Phase::Blank(blank);
        finding(Next::Ask(self.asked.clone()))
    }

    /// Nothing comes after them.
    fn end_blank(&mut self, blank: Blank) -> Finding {
        self.phase = *blank.within;
        self.passed.extend(blank.ids);
        self.asked.page = None;
        self.read_empty()
    }
}
