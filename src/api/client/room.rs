//! Memory for bodies: bounded for all callers together, whatever a server sends and however many walkers there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for an ordinary body, taken before it is asked for: a page of 200 messages has about 260 kB.
pub(super) const ORDINARY_BODY: usize = 256 * 1024;
/// A body larger than this is read on only while no other such body is read or held.
pub(super) const LARGE_BODY: usize = 1024 * 1024;
/// Bodies that are asked for, and those that were read and are not yet done with, take at most this much together, unless
/// more requests may be under way, and but for what they are larger than expected.
const HELD_BODIES: usize = 4 * 1024 * 1024;

/// The room that bodies share.
///
/// Who waits for the one large body has room already, and who reads it waits for nobody: however many wait, somebody
/// goes on.
#[derive(Debug)]
pub(super) struct Room {
    large: Arc<Semaphore>,
    held: Arc<Semaphore>,
}

/// What one body takes of the room; given back with its last clone.
#[derive(Clone, Debug)]
pub struct Share {
    _turn: Arc<Turn>,
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
        Self { large: Arc::new(Semaphore::new(1)), held: Arc::new(Semaphore::new(size)) }
    }

    /// Waits until there is room for an ordinary body.
    pub async fn reserve(&self) -> Turn {
        let held = Arc::clone(&self.held).acquire_many_owned(ORDINARY_BODY as u32).await.ok();
        Turn { large: None, held }
    }

    /// Waits until no other large body is read or held.
    pub async fn enlarge(&self, turn: &mut Turn) {
        if turn.large.is_none() {
            turn.large = Arc::clone(&self.large).acquire_owned().await.ok();
        }
    }

    /// What a body of `bytes` that was read holds on to. One that is larger than was reserved takes what is left, and
    /// does not wait.
    pub fn settle(&self, mut turn: Turn, bytes: usize) -> Share {
        if let Some(held) = &mut turn.held {
            let reserved = held.num_permits();
            drop(reserved.checked_sub(bytes).map(|unused| held.split(unused)));
            let missing = bytes.saturating_sub(reserved).min(self.held.available_permits());
            if let Ok(more) = Arc::clone(&self.held).try_acquire_many_owned(missing as u32) {
                held.merge(more);
            }
        }
        Share { _turn: Arc::new(turn) }
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
    fn large_bodies_are_read_and_held_one_at_a_time() {
        let room = Room::new(1);
        let (mut first, mut second) = (reserve(&room).unwrap(), reserve(&room).unwrap());
        assert!(room.enlarge(&mut first).now_or_never().is_some());
        assert!(room.enlarge(&mut first).now_or_never().is_some(), "it is that one");
        assert!(room.enlarge(&mut second).now_or_never().is_none());
        let read = room.settle(first, 8 * HELD_BODIES);
        assert!(room.enlarge(&mut second).now_or_never().is_none());
        drop(read);
        assert!(room.enlarge(&mut second).now_or_never().is_some());
    }

    #[test]
    fn a_large_body_waits_for_nobodys_room() {
        let room = Room::new(1);
        let mut turns = reserve_all(&room);
        // Who waits takes what is given back bit by bit.
        let mut waiting = std::pin::pin!(room.reserve());
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut large = turns.pop().unwrap();
        assert!(room.enlarge(&mut large).now_or_never().is_some());
        drop(room.settle(large, HELD_BODIES));
        assert!(waiting.now_or_never().is_some());
    }
}
