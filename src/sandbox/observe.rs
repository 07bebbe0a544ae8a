//! What the sandbox saw, for tests and benchmarks to look at.

use std::collections::{BTreeMap, VecDeque};

use super::{endpoint::Endpoint, paging::PageRead};

/// Page requests remembered; older ones are forgotten.
const PAGE_LOG_MAX: usize = 65_536;

/// Sums since the start, or since they were last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that came in, however they were answered.
    pub requests: BTreeMap<Endpoint, u64>,
    /// Requests beyond the rate limit.
    pub rate_limited: u64,
    /// Requests refused for their credentials.
    pub unauthorized: u64,
    /// Requests refused for what they said (400).
    pub bad_data: u64,
    /// Requests that met a fault.
    pub faults: u64,
    /// Rows sent in pages and histories.
    pub rows: u64,
    /// Requests in the house at the same time, at most.
    pub peak_in_flight: usize,
}

impl Counters {
    pub fn requests_to(&self, endpoint: Endpoint) -> u64 {
        self.requests.get(&endpoint).copied().unwrap_or(0)
    }

    pub fn all_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

#[derive(Default)]
pub(super) struct Observed {
    pub counters: Counters,
    pub pages: VecDeque<PageRead>,
    in_flight: usize,
}

impl Observed {
    pub(super) fn enter(&mut self, endpoint: Endpoint) {
        *self.counters.requests.entry(endpoint).or_default() += 1;
        self.in_flight += 1;
        self.counters.peak_in_flight = self.counters.peak_in_flight.max(self.in_flight);
    }

    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(super) fn page(&mut self, page: PageRead) {
        self.counters.rows += page.rows as u64;
        if self.pages.len() == PAGE_LOG_MAX {
            self.pages.pop_front();
        }
        self.pages.push_back(page);
    }

    pub(super) fn reset(&mut self) {
        self.counters = Counters::default();
        self.pages.clear();
    }
}
