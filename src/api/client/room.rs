//! Memory for bodies: bounded for all callers together, whatever a server sends and however many walkers there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body larger than this is read on only while no other such body is, and counts among [`HELD_BODIES`] as it grows.
pub(super) const LARGE_BODY: usize = 1024 * 1024;
/// Bodies that were read and are not yet done with take at most this much together; a larger one is read, and held,
/// alone. A page of 200 messages has about 260 kB.
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

/// The right to read on a large body.
#[derive(Debug)]
pub(super) struct Turn {
    _large: Option<OwnedSemaphorePermit>,
    held: Option<OwnedSemaphorePermit>,
}

// The semaphores are never closed: a permit is missing only then.
impl Room {
    pub fn new() -> Self {
        Self { large: Arc::new(Semaphore::new(1)), held: Arc::new(Semaphore::new(HELD_BODIES)) }
    }

    /// Waits until no other large body is being read.
    pub async fn enlarge(&self) -> Turn {
        Turn { _large: Arc::clone(&self.large).acquire_owned().await.ok(), held: None }
    }

    /// Waits until there is room for the `bytes` that a large body has by now. Only what is being committed is
    /// waited for: nobody who holds a body waits for another's.
    pub async fn grow(&self, turn: &mut Turn, bytes: usize) {
        let held = turn.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = self.acquire(bytes.min(HELD_BODIES).saturating_sub(held)).await;
        match (&mut turn.held, more) {
            (Some(held), Some(more)) => held.merge(more),
            (held, more) => *held = more,
        }
    }

    /// Waits until there is room for a body of `bytes` that was read.
    pub async fn hold(&self, bytes: usize, turn: Option<Turn>) -> Share {
        let mut turn = turn.unwrap_or(Turn { _large: None, held: None });
        self.grow(&mut turn, bytes).await;
        Share { _bytes: turn.held.map(Arc::new) }
    }

    async fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.held).acquire_many_owned(bytes as u32).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn held_bodies_are_bounded_together() {
        let room = Room::new();
        let half = room.hold(HELD_BODIES / 2, None).now_or_never().expect("there is room");
        let other = room.hold(HELD_BODIES / 2, None).now_or_never().expect("there is room");
        assert!(room.hold(1, None).now_or_never().is_none());
        drop(half.clone());
        assert!(room.hold(1, None).now_or_never().is_none(), "a clone holds on");
        drop(half);
        assert!(room.hold(1, None).now_or_never().is_some());
        drop(other);
        assert!(room.hold(usize::MAX, None).now_or_never().is_some(), "one body fits always");
    }

    #[test]
    fn large_bodies_are_read_one_at_a_time() {
        let room = Room::new();
        let first = room.enlarge().now_or_never().expect("nobody reads one");
        assert!(room.enlarge().now_or_never().is_none());
        drop(first);
        assert!(room.enlarge().now_or_never().is_some());
    }

    #[test]
    fn a_large_body_is_read_on_only_as_long_as_there_is_room() {
        let room = Room::new();
        let held = room.hold(HELD_BODIES / 2, None).now_or_never().expect("there is room");
        let mut turn = room.enlarge().now_or_never().expect("nobody reads one");
        assert!(room.grow(&mut turn, HELD_BODIES / 2).now_or_never().is_some());
        assert!(room.grow(&mut turn, 8 * HELD_BODIES).now_or_never().is_none(), "another is held");
        drop(held);
        assert!(room.grow(&mut turn, 8 * HELD_BODIES).now_or_never().is_some());
        let large = room.hold(8 * HELD_BODIES, Some(turn)).now_or_never().expect("it has its room");
        assert!(room.hold(1, None).now_or_never().is_none(), "it is held alone");
        drop(large);
        assert!(room.hold(1, None).now_or_never().is_some());
    }
}
