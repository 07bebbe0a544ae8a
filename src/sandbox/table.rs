//! Rows by id, and in the order of their last change.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
};

use chrono::{DateTime, Utc};

use super::rows::Row;

/// Where a row stands on a time line: ties are told apart by id.
pub(super) type Place = (DateTime<Utc>, i64);

/// An ordered index: place to the row's slot.
pub(super) type Line = BTreeMap<Place, u32>;

/// Replaced versions remembered.
const REPLACED_MAX: usize = 256;

pub(super) struct Table<R> {
    /// Removed rows stay here, unreachable: removals are rare, slots must not move.
    rows: Vec<R>,
    slots: HashMap<i64, u32>,
    by_updated: Line,
    /// The latest last.
    replaced: VecDeque<R>,
}

impl<R: Row> Table<R> {
    /// Of rows with the same id the last stays.
    pub(super) fn new(rows: Vec<R>) -> Self {
        let slots: HashMap<i64, u32> =
            rows.iter().enumerate().map(|(slot, row)| (row.id(), slot as u32)).collect();
        let by_updated = slots
            .iter()
            .map(|(&id, &slot)| ((rows[slot as usize].updated(), id), slot))
            .collect::<BTreeMap<_, _>>();
        Self { rows, slots, by_updated, replaced: VecDeque::new() }
    }

    pub(super) fn get(&self, id: i64) -> Option<&R> {
        self.slots.get(&id).map(|&slot| self.at(slot))
    }

    pub(super) fn at(&self, slot: u32) -> &R {
        &self.rows[slot as usize]
    }

    /// Slots of all rows, in no order.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.values().copied()
    }

    /// A row by chance, for a number drawn by the caller: the same for the same history of puts.
    pub(super) fn pick(&self, drawn: u64) -> Option<&R> {
        let slot = drawn.checked_rem(self.rows.len() as u64)?;
        let row = &self.rows[slot as usize];
        (self.slots.get(&row.id()) == Some(&(slot as u32))).then_some(row)
    }

    /// Inserts, or replaces the row of that id; gives the slot and the row that was there.
    pub(super) fn put(&mut self, row: R) -> (u32, Option<R>) {
        let (slot, old) = match self.slots.get(&row.id()) {
            Some(&slot) => {
                let place = (row.updated(), row.id());
                let old = std::mem::replace(&mut self.rows[slot as usize], row);
                self.by_updated.remove(&(old.updated(), old.id()));
                self.by_updated.insert(place, slot);
                if self.replaced.len() == REPLACED_MAX {
                    self.replaced.pop_front();
                }
                self.replaced.push_back(old.clone());
                (slot, Some(old))
            }
            None => {
                let slot = self.rows.len() as u32;
                self.slots.insert(row.id(), slot);
                self.by_updated.insert((row.updated(), row.id()), slot);
                self.rows.push(row);
                (slot, None)
            }
        };
        (slot, old)
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<R> {
        let slot = self.slots.remove(&id)?;
        let row = self.at(slot).clone();
        self.by_updated.remove(&(row.updated(), id));
        Some(row)
    }

    /// Lately replaced versions that are older, by their own word, than the row that took their place.
    pub(super) fn outdated(&self) -> impl Iterator<Item = &R> {
        self.replaced.iter().filter(|old| self.get(old.id()).is_some_and(|row| row.updated() > old.updated()))
    }

    pub(super) fn by_updated(&self) -> &Line {
        &self.by_updated
    }
}

/// Slots of `line` in page order: newest first and before `cursor` (also at it, where `inclusive`), or,
/// ascending, oldest first and on or after it. Equal times are ordered by id, in the same direction.
pub(super) fn walk(
    line: &Line,
    cursor: Option<DateTime<Utc>>,
    ascending: bool,
    inclusive: bool,
) -> Box<dyn Iterator<Item = u32> + '_> {
    let slot = |(_, &slot): (&Place, &u32)| slot;
    match (cursor, ascending) {
        (None, false) => Box::new(line.values().rev().copied()),
        (None, true) => Box::new(line.values().copied()),
        (Some(cursor), false) => {
            let end = if inclusive {
                Bound::Included((cursor, i64::MAX))
            } else {
                Bound::Excluded((cursor, i64::MIN))
            };
            Box::new(line.range((Bound::Unbounded, end)).rev().map(slot))
        }
        (Some(cursor), true) => Box::new(line.range((cursor, i64::MIN)..).map(slot)),
    }
}
