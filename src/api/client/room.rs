//! Memory for bodies: bounded for all callers together, whatever a server sends and however many walkers there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for an ordinary body, taken before it is asked for: a page of 200 messages has about 260 kB.
pub(super) const ORDINARY_BODY: usize = 256 * 1024;
/// A body larger than this is read on only while no other such body is, and takes room as it grows.
pub(super) const LARGE_BODY: usize = 1024 * 1024;
/// Bodies that are asked for, and those that were read and are not yet done with, take at most this much together,
/// unless more requests may be under way; a larger body is read, and held, alone.
const HELD_BODIES: usize = 4 * 1024 * 1024;

/// The room that bodies share.
#[derive(Debug)]
pub(super) struct Room {
    large: Arc<Semaphore>,
    held: Arc<Semaphore>,
    size: usize,
}

/// What one body takes of the room; given back with its last clone.
#[derive(Clone, Debug)]
pub struct Share {
    _bytes: Option<Arc<OwnedSemaphorePermit>>,
}

/// What a request takes of the room until its body was read.
#[derive(Debug)]
pub(super) struct Turn {
    large: Option<OwnedSemaphorePermit>,
    held: Option<OwnedSemaphorePermit>,
}

// The semaphores are never closed: a permit is missing only then.
impl Room {
    /// Room for so many requests under way.
    pub fn new(requests: usize) -> Self {
        let size = HELD_BODIES.max(requests * ORDINARY_BODY);
        Self { large: Arc::new(Semaphore::new(1)), held: Arc::new(Semaphore::new(size)), size }
    }

    /// Waits until there is room for an ordinary body. Only what others read or commit is waited for: nobody who has
    /// room for a body waits for another's.
    pub async fn reserve(&self) -> Turn {
        Turn { large: None, held: self.acquire(ORDINARY_BODY).await }
    }

    /// Waits until no other large body is being read. What was reserved is given back meanwhile: the other may need it.
    pub async fn enlarge(&self, turn: &mut Turn) {
        if turn.large.is_none() {
            turn.held = None;
            turn.large = Arc::clone(&self.large).acquire_owned().await.ok();
        }
    }

    /// Waits until there is room for the `bytes` that a large body has by now.
    pub async fn grow(&self, turn: &mut Turn, bytes: usize) {
        let more = self.acquire(bytes.min(self.size).saturating_sub(turn.bytes())).await;
        turn.add(more);
    }

    /// What a body of `bytes` that was read holds on to. One that is a little larger than was reserved does not wait.
    pub fn settle(&self, mut turn: Turn, bytes: usize) -> Share {
        let reserved = turn.bytes();
        if let (Some(held), Some(unused)) = (&mut turn.held, reserved.checked_sub(bytes)) {
            drop(held.split(unused));
        }
        let missing = bytes.min(self.size).saturating_sub(reserved).min(self.held.available_permits());
        turn.add(Arc::clone(&self.held).try_acquire_many_owned(missing as u32).ok());
        Share { _bytes: turn.held.map(Arc::new) }
    }

    async fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.held).acquire_many_owned(bytes as u32).await.ok()
    }
}

impl Turn {
    fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn add(&mut self, more: Option<OwnedSemaphorePermit>) {
        match (&mut self.held, more) {
            (Some(held), Some(more)) => held.merge(more),
            (held, more) => *held = held.take().or(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn reserve(room: &Room) -> Option<Turn> {
        room.reserve().now_or_never()
    }

    fn reserve_all(room: &Room) -> Vec<Turn> {
        std::iter::from_fn(|| reserve(room)).collect()
    }

    #[test]
    fn no_more_is_asked_for_than_there_is_room() {
        let room = Room::new(1);
        let mut turns = reserve_all(&room);
        assert_eq!(turns.len(), HELD_BODIES / ORDINARY_BODY);
        let read = room.settle(turns.pop().expect("there are some"), ORDINARY_BODY);
        let small = room.settle(turns.pop().expect("there are some"), 10);
        assert!(reserve(&room).is_none(), "{small:?} holds on to its bytes");
        drop(read.clone());
        assert!(reserve(&room).is_none(), "a clone holds on");
        drop(read);
        assert!(reserve(&room).is_some());
    }

    #[test]
    fn there_is_room_for_as_many_requests_as_may_be_under_way() {
        let room = Room::new(100);
        assert_eq!(reserve_all(&room).len(), 100);
    }

    #[test]
    fn a_body_somewhat_larger_than_expected_takes_what_is_left() {
        let room = Room::new(1);
        let mut turns = reserve_all(&room);
        let first = room.settle(turns.pop().expect("there are some"), 2 * ORDINARY_BODY);
        drop(turns.pop());
        let second = room.settle(turns.pop().expect("there are some"), 2 * ORDINARY_BODY);
        assert!(reserve(&room).is_none());
        drop(second);
        drop(first);
        assert_eq!(reserve_all(&room).len(), 3);
    }

    #[test]
    fn large_bodies_are_read_one_at_a_time() {
        let room = Room::new(1);
        let (mut first, mut second) = (reserve(&room).unwrap(), reserve(&room).unwrap());
        assert!(room.enlarge(&mut first).now_or_never().is_some());
        assert!(room.enlarge(&mut second).now_or_never().is_none());
        assert!(
            room.grow(&mut first, HELD_BODIES).now_or_never().is_some(),
            "the second has given its room back"
        );
        drop(first);
        assert!(room.enlarge(&mut second).now_or_never().is_some());
    }

    #[test]
    fn a_large_body_is_read_on_only_as_long_as_there_is_room() {
        let room = Room::new(1);
        let (held, mut turn) = (reserve(&room), reserve(&room).unwrap());
        assert!(room.enlarge(&mut turn).now_or_never().is_some());
        assert!(room.grow(&mut turn, HELD_BODIES / 2).now_or_never().is_some());
        assert!(room.grow(&mut turn, 8 * HELD_BODIES).now_or_never().is_none(), "another is held");
        drop(held);
        assert!(room.grow(&mut turn, 8 * HELD_BODIES).now_or_never().is_some());
        let large = room.settle(turn, 8 * HELD_BODIES);
        assert!(reserve(&room).is_none(), "it is held alone");
        drop(large);
        assert!(reserve(&room).is_some());
    }
}
