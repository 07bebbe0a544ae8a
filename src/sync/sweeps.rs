//! When a line's gaps are looked at next.

use std::time::Duration;

use tokio::time::Instant;

use crate::interval::Interval;

/// How often it is looked for gaps where none is known.
const CALM: Duration = Duration::from_secs(300);
/// How soon what is open is tried again: at first, and at most after doubling, where nothing changes. A gap that the
/// API cannot fill costs requests each time.
const FIRST: Duration = Duration::from_secs(15);
const MOST: Duration = Duration::from_secs(6 * 3_600);

/// What is open, and when it is tried again.
#[derive(Debug)]
pub(super) struct Sweeps {
    pub next: Instant,
    pause: Duration,
    open: Vec<Interval>,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self { next: Instant::now(), pause: FIRST, open: Vec::new() }
    }
}

impl Sweeps {
    /// What stayed open after everything was tried: the same as before is tried half as often.
    pub fn found(&mut self, open: &[Interval]) {
        self.pause = match open {
            [] => CALM,
            open if open == self.open => (self.pause * 2).min(MOST),
            _ => FIRST,
        };
        self.open = open.to_vec();
        self.next = Instant::now() + self.pause;
    }

    /// All that is open is being tried now.
    pub fn under_way(&mut self) {
        self.next = Instant::now() + CALM;
    }

    /// Looks again at `at`, if that is sooner.
    pub fn not_after(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    pub fn is_due(&self) -> bool {
        self.next <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn gaps_that_stay_are_tried_more_and_more_rarely() {
        let gap = |end| Interval::new(None, DateTime::from_timestamp(end, 0).unwrap()).unwrap();
        let mut sweeps = Sweeps::default();
        let seconds = [(1, 15), (1, 30), (1, 60), (2, 15), (2, 30)];
        for (end, pause) in seconds {
            sweeps.found(&[gap(end)]);
            assert_eq!(sweeps.pause.as_secs(), pause);
        }
        (0..20).for_each(|_| sweeps.found(&[gap(2)]));
        assert_eq!(sweeps.pause, MOST);
        sweeps.found(&[]);
        sweeps.found(&[]);
        assert_eq!(sweeps.pause, CALM, "nothing open is nothing stubborn");
    }
}
