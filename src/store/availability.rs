//! Whether the database takes writes, and whether sessions were lost: one state for all clones of a [`Store`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::{clock, telemetry};

use super::{Store, StoreError};

#[derive(Clone, Debug, Default)]
pub(super) struct Availability {
    state: Arc<Mutex<State>>,
    sessions_lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when writes of each kind fail.
    since: [Option<DateTime<Utc>>; 2],
    /// Why the last one did that failed.
    error: String,
}

/// What is written. One may succeed while the other fails: on a full disk the lease still has room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    Lease,
    Rows,
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
        let since = state.since.iter().flatten().min()?;
        Some(Outage { since: *since, error: state.error.clone() })
    }

    /// Grows when sessions end that nobody here ended. What was acknowledged on them may be gone, rows and proof
    /// alike: the server may have been replaced by a standby that lagged behind.
    pub fn sessions_lost(&self) -> u64 {
        self.availability.sessions_lost.load(Relaxed)
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
        let since = &mut state.since[write as usize];
        match outcome {
            Ok(_) => *since = None,
            // These say nothing about the database.
            Err(error)
                if error.is_data() || matches!(error, StoreError::LeadLost | StoreError::ServerCrashed) => {}
            Err(error) => {
                if error.is_disconnected() {
                    self.lost_session();
                }
                since.get_or_insert_with(clock::now);
                state.error = telemetry::chain(error);
            }
        }
    }

    pub fn lost_session(&self) {
        self.sessions_lost.fetch_add(1, Relaxed);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Plain values, whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
