//! Which versions of conversations are held at least: most messages bring one along that was seen before.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::api::model::{Conversation, Rows};

/// Bits of a place's number: there is one for each of 131,072 conversations. One that comes to a place where another is
/// remembered takes it.
const PLACE_BITS: u32 = 17;

/// What this term has committed. An embedded conversation that is not newer would change nothing: the database
/// need not be asked.
#[derive(Debug)]
pub(super) struct Known {
    places: Mutex<Box<[Place]>>,
}

/// A conversation and its version; zeros, which the allocator hands out untouched, where there is none.
type Place = (i64, Version);

/// `updated` in microseconds, as the database keeps it; [`i64::MIN`] where there is none.
type Version = i64;

impl Default for Known {
    fn default() -> Self {
        Self { places: Mutex::new(vec![(0, 0); 1 << PLACE_BITS].into_boxed_slice()) }
    }
}

impl Known {
    /// Whether the conversation is held at this version or a newer one, as far as is remembered.
    pub(super) fn is_held(&self, id: i64, updated: Option<DateTime<Utc>>) -> bool {
        let (known, held) = self.locked()[place_of(id)];
        id != 0 && known == id && version(updated) <= held
    }

    /// Takes the embedded conversations that would change nothing out of a page.
    pub(super) fn reduce(&self, rows: &mut Rows) {
        rows.embedded.retain(|row| !self.is_held(row.id, row.updated));
    }

    /// The versions that are held once `rows` are committed.
    pub(super) fn versions<'a>(rows: impl Iterator<Item = &'a Conversation>) -> Vec<(i64, Version)> {
        rows.map(|row| (row.id, version(row.updated))).collect()
    }

    /// Remembers versions that have been committed.
    pub(super) fn remember(&self, versions: Vec<(i64, Version)>) {
        let mut places = self.locked();
        for (id, version) in versions {
            let place = &mut places[place_of(id)];
            *place = if place.0 == id { (id, version.max(place.1)) } else { (id, version) };
        }
    }

    fn locked(&self) -> MutexGuard<'_, Box<[Place]>> {
        // Each place is whole after any panic.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ids that follow each other have places far apart: a multiple of the golden ratio, by its highest bits.
fn place_of(id: i64) -> usize {
    (id.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACE_BITS)) as usize
}

fn version(updated: Option<DateTime<Utc>>) -> Version {
    updated.map_or(Version::MIN, |updated| updated.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(id: i64, updated: Option<i64>) -> Conversation {
        let updated = updated.map(|second| DateTime::from_timestamp(second, 0).unwrap());
        Conversation { id, updated, ..Conversation::default() }
    }

    #[test]
    fn only_what_is_newer_is_kept() {
        let known = Known::default();
        let committed = [conversation(1, Some(5)), conversation(1, Some(3)), conversation(2, None)];
        known.remember(Known::versions(committed.iter()));
        let cases = [
            (1, Some(4), false),
            (1, Some(5), false),
            (1, Some(6), true),
            (1, None, false),
            (2, None, false),
            (2, Some(1), true),
            (3, None, true),
        ];
        for (id, updated, kept) in cases {
            let mut rows = Rows { embedded: vec![conversation(id, updated)], ..Rows::default() };
            known.reduce(&mut rows);
            assert_eq!(!rows.embedded.is_empty(), kept, "{id} at {updated:?}");
        }
    }

    #[test]
    fn each_takes_the_place_of_another_and_is_not_taken_for_it() {
        let known = Known::default();
        let ids = 1..=4_i64 << PLACE_BITS;
        for id in ids.clone() {
            known.remember(vec![(id, id)]);
            assert!(known.is_held(id, DateTime::from_timestamp_micros(id)));
        }
        let held = ids.filter(|id| known.is_held(*id, None)).count();
        assert!(held > 1 << (PLACE_BITS - 1) && held <= 1 << PLACE_BITS, "{held}");
    }

    #[test]
    fn an_empty_place_is_no_conversation() {
        assert!(!Known::default().is_held(0, None));
    }
}
