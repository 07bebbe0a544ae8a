//! Whether the database takes writes: one state for all clones of a [`Store`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::{api::model::Stream, clock, telemetry};

use super::{Store, StoreError};

#[derive(Clone, Debug, Default)]
pub(super) struct Availability {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when writes of each kind fail.
    since: HashMap<Write, DateTime<Utc>>,
    /// Why the last one did that failed.
    error: String,
}

/// What is written. One may succeed while another fails: on a full disk the lease still has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Write {
    Lease,
    Rows(Stream),
}

/// Writes fail.
#[derive(Clone, Debug)]
pub struct Outage {
    pub since: DateTime<Utc>,
    /// Why the last write failed; without values of rows.
    pub error: String,
}

impl Store {
    /// The present outage; `None` while writes succeed, and before the first one.
    pub fn outage(&self) -> Option<Outage> {
        let state = self.availability.locked();
        let since = state.since.values().min()?;
        Some(Outage { since: *since, error: state.error.clone() })
    }

    /// Forgets the outage: another process writes now.
    pub fn forget_outage(&self) {
        *self.availability.locked() = State::default();
    }
}

impl Availability {
    /// Notes how a write went.
    pub fn note<T>(&self, write: Write, outcome: &Result<T, StoreError>) {
        let mut state = self.locked();
        match outcome {
            Ok(_) => drop(state.since.remove(&write)),
            // These say nothing about the database.
            Err(error)
                if error.is_data() || matches!(error, StoreError::LeadLost | StoreError::ServerRestarted) => {
            }
            Err(error) => {
                state.since.entry(write).or_insert_with(clock::now);
                state.error = telemetry::chain(error);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Plain values, whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
