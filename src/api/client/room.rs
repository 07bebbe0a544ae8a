//! Memory for bodies: bounded for all callers together, whatever a server sends and however many walkers there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body larger than this is read on only while no other such body is.
pub(super) const LARGE_BODY: usize = 1024 * 1024;
/// Bodies that were read and are not yet done with take at most this much together; a larger one is held alone.
/// A page of 200 messages has about 260 kB.
const HELD_BODIES: usize = 4 * 1024 * 1024;

/// The room that bodies share.
#[derive(Debug)]
pub(super) struct Room {
    large: Arc<Semaphore>,
    held: Arc<Semaphore>,
}

/// What one body takes of the room; given back with its last clone.
#[derive(Clone, Debug)]
pub struct Share {
    _bytes: Option<Arc<OwnedSemaphorePermit>>,
}

impl Room {
    pub fn new() -> Self {
        Self { large: Arc::new(Semaphore::new(1)), held: Arc::new(Semaphore::new(HELD_BODIES)) }
    }

    /// Waits until no other large body is being read.
    pub async fn enlarge(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed: a permit is missing only then.
        Arc::clone(&self.large).acquire_owned().await.ok()
    }

    /// Waits until there is room for a body of `bytes` that was read. Only what is being committed is waited for.
    pub async fn hold(&self, bytes: usize) -> Share {
        let permit = Arc::clone(&self.held).acquire_many_owned(bytes.min(HELD_BODIES) as u32).await;
        Share { _bytes: permit.ok().map(Arc::new) }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn held_bodies_are_bounded_together() {
        let room = Room::new();
        let half = room.hold(HELD_BODIES / 2).now_or_never().expect("there is room");
        let other = room.hold(HELD_BODIES / 2).now_or_never().expect("there is room");
        assert!(room.hold(1).now_or_never().is_none());
        drop(half.clone());
        assert!(room.hold(1).now_or_never().is_none(), "a clone holds on");
        drop(half);
        assert!(room.hold(1).now_or_never().is_some());
        drop(other);
        assert!(room.hold(usize::MAX).now_or_never().is_some(), "one body fits always");
    }

    #[test]
    fn large_bodies_are_read_one_at_a_time() {
        let room = Room::new();
        let first = room.enlarge().now_or_never().expect("nobody reads one");
        assert!(room.enlarge().now_or_never().is_none());
        drop(first);
        assert!(room.enlarge().now_or_never().is_some());
    }
}
