//! Pages that are wrong though they look right: now and then, within bounds, by a seed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Rows that one slip touches, at most.
const TOUCHED_MAX: usize = 3;

/// How often pages slip, and how late rows become visible.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slips {
    /// With which a page meets one of `kinds`.
    pub probability: f64,
    /// None: [`Slip::ALL`].
    pub kinds: Vec<Slip>,
    /// Slips in all; after them pages are right.
    pub most: u32,
    /// A row is listed up to so long after its time on the line asked for; how long, its id decides.
    pub late: Duration,
}

/// How a page goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slip {
    /// Rows appear twice in the page.
    Repeated,
    /// The page begins with rows above its cursor, as if they had not been listed before.
    Overlapping,
    /// An older version of a row, at the place that it had then.
    Outdated,
    /// An older version of a row right behind the newer one.
    Stale,
    /// Two rows have changed places.
    Disordered,
    /// The page is empty.
    Empty,
}

impl Slip {
    pub const ALL: [Self; 6] =
        [Self::Repeated, Self::Overlapping, Self::Outdated, Self::Stale, Self::Disordered, Self::Empty];
}

/// Which of the coming pages slip.
pub(super) struct SlipPlan {
    slips: Slips,
    left: u32,
    rng: ChaCha8Rng,
}

/// What becomes of one page.
pub(super) struct Disturbance {
    pub slip: Option<Slip>,
    late_micros: u64,
    now: DateTime<Utc>,
    rng: ChaCha8Rng,
}

impl SlipPlan {
    pub(super) fn new(seed: u64, slips: Slips) -> Self {
        let left = slips.most;
        Self { slips, left, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub(super) fn set(&mut self, slips: Slips) {
        self.left = slips.most;
        self.slips = slips;
    }

    pub(super) fn next(&mut self, now: DateTime<Utc>) -> Disturbance {
        let slip = self.draw();
        let late_micros = u64::try_from(self.slips.late.as_micros()).unwrap_or(u64::MAX);
        // The plan's own sequence must not depend on how many rows a page has.
        let rng = match slip {
            Some(_) => ChaCha8Rng::seed_from_u64(self.rng.random()),
            None => ChaCha8Rng::seed_from_u64(0),
        };
        Disturbance { slip, late_micros, now, rng }
    }

    fn draw(&mut self) -> Option<Slip> {
        if self.left == 0 || self.slips.probability <= 0.0 {
            return None;
        }
        if !self.rng.random_bool(self.slips.probability.min(1.0)) {
            return None;
        }
        let kinds = if self.slips.kinds.is_empty() { &Slip::ALL } else { &self.slips.kinds[..] };
        let slip = kinds[self.rng.random_range(0..kinds.len())];
        self.left -= 1;
        Some(slip)
    }
}

impl Disturbance {
    /// Whether the row is not visible yet at the place that it has by `time`.
    pub(super) fn hides(&self, time: DateTime<Utc>, id: i64) -> bool {
        if self.late_micros == 0 {
            return false;
        }
        // Any odd constant spreads neighbouring ids.
        let lag = (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.late_micros;
        time + TimeDelta::microseconds(lag as i64) > self.now
    }

    /// How many rows the slip touches.
    pub(super) fn touched(&mut self) -> usize {
        self.rng.random_range(1..=TOUCHED_MAX)
    }

    /// Repeats rows right after themselves.
    pub(super) fn repeat<T: Copy>(&mut self, rows: &mut Vec<T>) {
        for _ in 0..self.touched() {
            if !rows.is_empty() {
                let index = self.rng.random_range(0..rows.len());
                rows.insert(index, rows[index]);
            }
        }
    }

    /// Exchanges two rows.
    pub(super) fn disorder<T>(&mut self, rows: &mut [T]) {
        if rows.len() > 1 {
            let first = self.rng.random_range(0..rows.len() - 1);
            let second = self.rng.random_range(first + 1..rows.len());
            rows.swap(first, second);
        }
    }

    /// A few of `rows`.
    pub(super) fn some<T>(&mut self, mut rows: Vec<T>) -> Vec<T> {
        rows.shuffle(&mut self.rng);
        rows.truncate(self.touched());
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(slips: Slips, pages: usize) -> Vec<Option<Slip>> {
        let mut plan = SlipPlan::new(7, slips);
        let now = DateTime::UNIX_EPOCH;
        std::iter::repeat_with(|| plan.next(now).slip).take(pages).collect()
    }

    #[test]
    fn slips_are_bounded_and_of_the_kinds_that_are_asked_for() {
        let drawn = draw(Slips { probability: 0.5, most: 400, ..Slips::default() }, 3_000);
        assert_eq!(drawn.iter().flatten().count(), 400);
        for slip in Slip::ALL {
            assert!(drawn.contains(&Some(slip)), "{slip:?}");
        }
        let kinds = vec![Slip::Overlapping];
        let drawn = draw(Slips { probability: 1.0, most: 9, kinds, ..Slips::default() }, 9);
        assert_eq!(drawn, [Some(Slip::Overlapping); 9]);
        assert_eq!(draw(Slips { probability: 1.0, ..Slips::default() }, 10), [None; 10]);
    }

    #[test]
    fn a_late_row_becomes_visible_within_the_bound() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let slips = Slips { late: Duration::from_secs(10), ..Slips::default() };
        let mut plan = SlipPlan::new(7, slips);
        let mut hidden = |now, id| plan.next(at(now)).hides(at(100), id);
        assert!((0..50).any(|id| hidden(105, id)) && (0..50).any(|id| !hidden(105, id)));
        assert!((0..50).all(|id| !hidden(110, id)));
    }
}
