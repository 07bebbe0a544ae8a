//! Which versions of conversations are held at least: most messages bring one along that was seen before.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::api::model::{Conversation, Rows};
use crate::store::Batch;

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

/// `updated` in microseconds, as the database keeps it; [`UNKNOWN`] where the conversation is held in any version.
type Version = i64;

const UNKNOWN: Version = Version::MIN;

/// A conversation that is held once its batch is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    id: i64,
    updated: Option<DateTime<Utc>>,
    embedded: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self { places: Mutex::new(vec![(0, 0); 1 << PLACE_BITS].into_boxed_slice()) }
    }
}

impl Known {
    /// Whether an embedded copy of this version would change nothing, as far as is remembered: one that has no version
    /// to compare is not newer ([`Version::against`](crate::api::model::Version::against)).
    pub(super) fn is_held(&self, id: i64, updated: Option<DateTime<Utc>>) -> bool {
        let (known, held) = self.locked()[place_of(id)];
        id != 0 && known == id && version(updated) <= held
    }

    /// Takes the embedded conversations that would change nothing out of a page.
    pub(super) fn reduce(&self, rows: &mut Rows) {
        rows.embedded.retain(|row| !self.is_held(row.id, row.updated));
    }

    /// What is held once `batch` is committed.
    pub(super) fn held(batch: &Batch) -> Vec<Held> {
        let of = |embedded| move |row: &Conversation| Held { id: row.id, updated: row.updated, embedded };
        let listed = batch.conversations.iter().map(of(false));
        listed.chain(batch.embedded.iter().map(of(true))).collect()
    }

    /// Remembers what has been committed.
    pub(super) fn remember(&self, held: Vec<Held>) {
        let mut places = self.locked();
        for Held { id, updated, embedded } in held {
            let place = &mut places[place_of(id)];
            let version = version(updated);
            // A listed copy may have replaced a newer one, over a copy whose version could not be read: only its own
            // version is certain. An embedded copy never replaces a newer one.
            let is_newest = place.0 != id || !embedded || version > place.1;
            if is_newest {
                *place = (id, version);
            }
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
    updated.map_or(UNKNOWN, |updated| updated.timestamp_micros())
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
        let listed = [
            conversation(1, Some(5)),
            conversation(2, None),
            conversation(3, Some(7)),
            conversation(3, None),
        ];
        let embedded = [conversation(1, Some(3)), conversation(1, None), conversation(4, None)];
        known.remember(Known::held(&Batch {
            conversations: listed.into(),
            embedded: embedded.into(),
            ..Batch::default()
        }));
        let cases = [
            (1, Some(4), false),
            (1, Some(5), false),
            (1, Some(6), true),
            (1, None, false),
            (2, None, false),
            (2, Some(1), true),
            (3, None, false),
            (3, Some(7), true),
            (4, None, false),
            (4, Some(1), true),
            (5, None, true),
        ];
        for (id, updated, kept) in cases {
            let mut rows = Rows { embedded: vec![conversation(id, updated)], ..Rows::default() };
            known.reduce(&mut rows);
            assert_eq!(!rows.embedded.is_empty(), kept, "{id} at {updated:?}");
        }
        let older = Batch { conversations: vec![conversation(1, Some(4))], ..Batch::default() };
        known.remember(Known::held(&older));
        assert!(
            !known.is_held(1, DateTime::from_timestamp(5, 0)),
            "it may have replaced one without a version"
        );
    }

    #[test]
    fn each_takes_the_place_of_another_and_is_not_taken_for_it() {
        let known = Known::default();
        let ids = 1..=4_i64 << PLACE_BITS;
        for id in ids.clone() {
            let updated = DateTime::from_timestamp_micros(id);
            known.remember(vec![Held { id, updated, embedded: false }]);
            assert!(known.is_held(id, updated));
        }
        let held = ids.filter(|id| known.is_held(*id, None)).count();
        assert!(held > 1 << (PLACE_BITS - 1) && held <= 1 << PLACE_BITS, "{held}");
    }

    #[test]
    fn an_empty_place_is_no_conversation() {
        assert!(!Known::default().is_held(0, None));
    }
}
