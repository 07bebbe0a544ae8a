//! Whether the API answers: one state for all walkers, told once per change.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use crate::api::error::ApiError;
use crate::clock;
use crate::telemetry;

#[derive(Debug, Default)]
pub struct Health {
    interruption: Mutex<Option<Interruption>>,
    latency_micros: AtomicU64,
}

/// The API cannot be read.
#[derive(Clone, Debug)]
pub struct Interruption {
    pub since: DateTime<Utc>,
    pub error: String,
}

impl Health {
    /// The present interruption; `None` while the API answers.
    pub fn interruption(&self) -> Option<Interruption> {
        self.interruption.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn connected(&self) {
        let ended = self.interruption.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(interruption) = ended {
            info!(since = %interruption.since, "the API answers again");
        }
    }

    pub(super) fn interrupted(&self, error: &ApiError) {
        let text = telemetry::chain(error);
        let mut interruption = self.interruption.lock().unwrap_or_else(PoisonError::into_inner);
        match interruption.as_mut() {
            Some(interruption) => interruption.error = text,
            None => {
                warn!(error = text, "the API cannot be read; trying on");
                *interruption = Some(Interruption { since: clock::now(), error: text });
            }
        }
    }

    pub(super) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let before = self.latency_micros.load(Relaxed);
        let smoothed = if before == 0 { micros } else { (before * 7 + micros) / 8 };
        self.latency_micros.store(smoothed, Relaxed);
    }

    /// How long a request takes, waiting for the limiter included; smoothed over the last few.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_micros.load(Relaxed))
    }
}
