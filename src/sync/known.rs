//! Which versions of conversations are held at least: most messages bring one along that was seen before.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::api::model::{Conversation, Rows};

/// Conversations that are remembered; beyond that, all are forgotten.
const KNOWN_CONVERSATIONS: usize = 50_000;

/// What this term has committed. An embedded conversation that is not newer would change nothing: the database
/// need not be asked.
#[derive(Debug, Default)]
pub(super) struct Known {
    versions: Mutex<Versions>,
}

/// `updated` of each conversation, by its id.
type Versions = HashMap<i64, Version>;

/// `updated` in microseconds, as the database keeps it; [`i64::MIN`] where there is none.
type Version = i64;

impl Known {
    /// Whether the conversation is held at this version or a newer one, as far as is remembered.
    pub(super) fn is_held(&self, id: i64, updated: Option<DateTime<Utc>>) -> bool {
        self.locked().get(&id).is_some_and(|held| version(updated) <= *held)
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
        let mut known = self.locked();
        if known.len() + versions.len() > KNOWN_CONVERSATIONS {
            known.clear();
        }
        for (id, version) in versions {
            let held = known.entry(id).or_insert(version);
            *held = (*held).max(version);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Versions> {
        // Each entry is whole after any panic.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    fn memory_is_bounded() {
        let known = Known::default();
        for id in 0..3 * KNOWN_CONVERSATIONS as i64 {
            known.remember(vec![(id, version(None))]);
            assert!(known.locked().len() <= KNOWN_CONVERSATIONS);
        }
    }
}
