//! Memory for bodies: bounded for all callers together, whatever a server sends and however many walkers there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body larger than this is read on only while no other such body is.
pub(super) const LARGE_BODY: usize = 1024 * 1024;
/// Bodies that were read and are not yet done with take at most this much together, or one of `api.max_body`.
const HELD_BODIES: u64 = 32 * 1024 * 1024;
/// Permits count this many bytes: their number is bounded.
const UNIT: u64 = 1024;

/// The room that bodies share.
#[derive(Debug)]
pub(super) struct Room {
    large: Arc<Semaphore>,
    held: Arc<Semaphore>,
    units: u32,
}

/// What one body takes of the room; given back with its last clone.
#[derive(Clone, Debug)]
pub struct Share {
    _units: Option<Arc<OwnedSemaphorePermit>>,
}

impl Room {
    pub fn new(max_body: u64) -> Self {
        let units = u32::try_from(max_body.max(HELD_BODIES) / UNIT).unwrap_or(u32::MAX);
        Self { large: Arc::new(Semaphore::new(1)), held: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until no other large body is being read.
    pub async fn enlarge(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed: a permit is missing only then.
        Arc::clone(&self.large).acquire_owned().await.ok()
    }

    /// Waits until there is room for a body of `bytes` that was read. Only what is being committed is waited for.
    pub async fn hold(&self, bytes: usize) -> Share {
        let units = (bytes as u64 / UNIT).min(u64::from(self.units)) as u32;
        let permit = Arc::clone(&self.held).acquire_many_owned(units).await;
        Share { _units: permit.ok().map(Arc::new) }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn held_bodies_are_bounded_together() {
        let room = Room::new(64 * 1024 * 1024);
        let half = room.hold(32 * 1024 * 1024).now_or_never().expect("there is room");
        let other = room.hold(32 * 1024 * 1024).now_or_never().expect("there is room");
        assert!(room.hold(2_000).now_or_never().is_none());
        drop(half.clone());
        assert!(room.hold(2_000).now_or_never().is_none(), "a clone holds on");
        drop(half);
        assert!(room.hold(2_000).now_or_never().is_some());
        drop(other);
        assert!(room.hold(usize::MAX).now_or_never().is_some(), "one body fits always");
    }

    #[test]
    fn large_bodies_are_read_one_at_a_time() {
        let room = Room::new(1);
        let first = room.enlarge().now_or_never().expect("nobody reads one");
        assert!(room.enlarge().now_or_never().is_none());
        drop(first);
        assert!(room.enlarge().now_or_never().is_some());
    }
}
