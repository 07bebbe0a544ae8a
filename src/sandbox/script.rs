//! What a test wants to happen at a certain request.

use std::collections::BTreeMap;

use super::state::SandboxState;

/// Something to do; it may change the team, faults or settings.
pub(super) type Act = Box<dyn FnOnce(&SandboxState) + Send>;

/// Requests counted, and what is due at which.
#[derive(Default)]
pub(super) struct Script {
    arrived: u64,
    due: BTreeMap<u64, Vec<Act>>,
}

impl Script {
    /// `nth` counts from the next request, which is 1.
    pub(super) fn add(&mut self, nth: u64, act: Act) {
        self.due.entry(self.arrived.saturating_add(nth.max(1))).or_default().push(act);
    }

    pub(super) fn clear(&mut self) {
        self.due.clear();
    }

    /// A request came in: what is due before it is answered.
    pub(super) fn arrive(&mut self) -> Vec<Act> {
        self.arrived += 1;
        if self.due.is_empty() {
            return Vec::new();
        }
        self.due.remove(&self.arrived).unwrap_or_default()
    }
}
