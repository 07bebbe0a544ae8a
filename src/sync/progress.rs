//! What the engine has done so far in this process, for progress bars, metrics and `/status`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use chrono::{DateTime, Utc};

use crate::api::model::Stream;
use crate::interval::Interval;

/// Counters of one process; shared, and only ever growing (`oldest` only ever falling).
#[derive(Debug, Default)]
pub struct Progress {
    streams: [StreamProgress; 3],
}

impl Progress {
    pub fn of(&self, stream: Stream) -> &StreamProgress {
        &self.streams[stream as usize]
    }
}

#[derive(Debug)]
pub struct StreamProgress {
    pub requests: AtomicU64,
    pub rows_read: AtomicU64,
    pub rows_written: AtomicU64,
    pub rejected: AtomicU64,
    /// Rows that turned up where all rows were proved to be held.
    pub contradictions: AtomicU64,
    oldest: AtomicI64,
    proved_micros: AtomicI64,
    wanted_micros: AtomicI64,
    /// Unix microseconds of the last committed page; 0: none yet.
    committed_at: AtomicI64,
}

impl Default for StreamProgress {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            requests: zero(),
            rows_read: zero(),
            rows_written: zero(),
            rejected: zero(),
            contradictions: zero(),
            oldest: AtomicI64::new(i64::MAX),
            proved_micros: AtomicI64::new(0),
            wanted_micros: AtomicI64::new(0),
            committed_at: AtomicI64::new(0),
        }
    }
}

impl StreamProgress {
    /// The oldest row read in this process.
    pub fn oldest(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.oldest.load(Relaxed))
            .filter(|_| self.oldest.load(Relaxed) != i64::MAX)
    }

    /// The share, 0 to 1, of the wanted time line that is held; `None` before a fill has begun.
    pub fn share(&self) -> Option<f64> {
        let wanted = self.wanted_micros.load(Relaxed);
        (wanted > 0).then(|| (self.proved_micros.load(Relaxed) as f64 / wanted as f64).clamp(0.0, 1.0))
    }

    pub fn committed_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.committed_at.load(Relaxed))
            .filter(|_| self.committed_at.load(Relaxed) != 0)
    }

    pub(super) fn saw(&self, time: DateTime<Utc>) {
        self.oldest.fetch_min(time.timestamp_micros(), Relaxed);
    }

    pub(super) fn want(&self, from: DateTime<Utc>, to: DateTime<Utc>) {
        self.wanted_micros.fetch_add((to - from).num_microseconds().unwrap_or(i64::MAX / 4).max(0), Relaxed);
    }

    /// `floor` stands for the beginning of history, where the oldest row is known.
    pub(super) fn prove(&self, interval: &Interval, floor: Option<DateTime<Utc>>) {
        let Some(start) = interval.start().max(floor) else { return };
        let micros = (interval.end() - start).num_microseconds().unwrap_or(0).max(0);
        self.proved_micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn committed(&self, at: DateTime<Utc>) {
        self.committed_at.fetch_max(at.timestamp_micros(), Relaxed);
    }
}
