//! Whether the database takes writes: one state for all clones of a [`Store`].

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use crate::{clock, telemetry};

use super::{Store, StoreError};

/// Since when writes of each kind fail, and why the last one did.
#[derive(Clone, Debug, Default)]
pub(super) struct Availability(Arc<Mutex<[Option<Outage>; 2]>>);

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
        let outages = self.availability.0.lock().unwrap_or_else(PoisonError::into_inner);
        outages.iter().flatten().min_by_key(|outage| outage.since).cloned()
    }

    /// Forgets the outage: another process writes now.
    pub fn forget_outage(&self) {
        *self.availability.0.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }
}

impl Availability {
    /// Notes how a write went.
    pub fn note<T>(&self, write: Write, outcome: &Result<T, StoreError>) {
        let mut outages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outage = &mut outages[write as usize];
        match outcome {
            Ok(_) => *outage = None,
            // These say nothing about the database.
            Err(error) if error.is_data() || matches!(error, StoreError::LeadLost) => {}
            Err(error) => {
                let since = outage.as_ref().map_or_else(clock::now, |outage| outage.since);
                *outage = Some(Outage { since, error: telemetry::chain(error) });
            }
        }
    }
}
