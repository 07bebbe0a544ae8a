//! How fast requests may leave now: as configured, or slower after the source said that it is too much.

use std::time::Duration;

use tokio::time::Instant;

/// 429s within this time are answers to one and the same burst, and slow down once.
const EASE_APART: Duration = Duration::from_secs(10);
/// How long nothing may be refused before the pace is raised by a step.
const RAISE_AFTER: Duration = Duration::from_secs(30);
/// Steps from nothing to the configured pace.
const STEPS: u32 = 16;

/// Requests a minute: halved by a 429, raised step by step while there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    most: u32,
    now: u32,
    changed: Option<Instant>,
}

impl Pace {
    /// 0 counts as 1.
    pub(super) fn new(most: u32) -> Self {
        let most = most.max(1);
        Self { most, now: most, changed: None }
    }

    pub(super) fn per_minute(&self) -> u32 {
        self.now
    }

    /// The source refused a request as one too many. Tells whether that changes the pace.
    pub(super) fn ease(&mut self, at: Instant) -> bool {
        let again = self.now < self.most && self.elapsed(at) < EASE_APART;
        if again {
            return false;
        }
        let before = self.now;
        self.now = (self.now / 2).max(self.step()).max(1);
        self.changed = Some(at);
        self.now != before
    }

    /// Raises the pace if it is time to. Tells whether that changes it.
    pub(super) fn raise(&mut self, at: Instant) -> bool {
        if self.now == self.most || self.elapsed(at) < RAISE_AFTER {
            return false;
        }
        self.now = (self.now + self.step()).min(self.most);
        self.changed = Some(at);
        true
    }

    fn step(&self) -> u32 {
        (self.most / STEPS).max(1)
    }

    fn elapsed(&self, at: Instant) -> Duration {
        self.changed.map_or(Duration::MAX, |changed| at.saturating_duration_since(changed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_halves_the_pace_once_and_quiet_raises_it() {
        let begin = Instant::now();
        let mut pace = Pace::new(480);
        // Seconds, what happens, and the pace after it.
        let cases = [
            (0, "ease", 240),
            (5, "ease", 240),
            (10, "ease", 120),
            (20, "raise", 120),
            (40, "raise", 150),
            (41, "raise", 150),
            (70, "raise", 180),
            (71, "ease", 180),
            (80, "ease", 90),
            (90, "ease", 45),
            (100, "ease", 30),
            (110, "ease", 30),
        ];
        for (second, what, per_minute) in cases {
            let at = begin + Duration::from_secs(second);
            let _ = if what == "ease" { pace.ease(at) } else { pace.raise(at) };
            assert_eq!(pace.per_minute(), per_minute, "{what} at {second} s");
        }
        for minute in 3..60 {
            pace.raise(begin + Duration::from_secs(60 * minute));
        }
        assert_eq!(pace.per_minute(), 480);
    }

    #[test]
    fn the_least_pace_is_one_request() {
        let begin = Instant::now();
        for most in [0, 1, 2] {
            let mut pace = Pace::new(most);
            for minute in 0..10 {
                pace.ease(begin + Duration::from_secs(60 * minute));
            }
            assert_eq!(pace.per_minute(), 1, "{most}");
        }
    }
}
