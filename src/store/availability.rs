//! Whether the database takes writes: one state for all clones of a [`Store`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

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
    /// When the first of those writes of each kind began that the server said nothing to, since it said something.
    silent: HashMap<Write, Instant>,
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

    /// For how long the server has said nothing to writes of rows of some stream, not even an error, in this lead. It
    /// may answer others, such as renewals of the lead, all the while.
    pub fn silent_for(&self) -> Option<Duration> {
        let state = self.availability.locked();
        state.silent.values().min().map(Instant::elapsed)
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

    /// The same, of a write that began then.
    pub fn note_since<T>(&self, write: Write, begun: Instant, outcome: &Result<T, StoreError>) {
        self.note(write, outcome);
        let mut state = self.locked();
        match outcome {
            Err(error) if error.is_unanswered() => drop(state.silent.entry(write).or_insert(begun)),
            _ => drop(state.silent.remove(&write)),
        }
    }

    /// Forgets how long writes have met with silence: that was another lead's.
    pub fn begin_lead(&self) {
        self.locked().silent.clear();
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Plain values, whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
