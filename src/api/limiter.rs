//! The rate limit: in any 60 seconds at most N requests leave, also across a restart, and what is urgent
//! leaves first. After a 429 fewer leave, for a while: others may use the same key.

mod bucket;
mod pace;
mod queue;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::clock::{Clock, DefaultClock};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use self::queue::Queue;

pub use self::queue::PACE_METRIC;

/// What a request is for. The earlier one here leaves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Fresh rows.
    Tail,
    /// Rows read again.
    Recheck,
    History,
}

/// The caller asked to stop before its turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled while waiting for the rate limit")]
pub struct Cancelled;

/// Hands out the right to send one request, by priority and, within one, in the order of asking. Cheap to
/// clone; clones share the limit. As many callers wait as there are tasks that call.
pub struct Limiter<C: Clock + Clone = DefaultClock> {
    shared: Arc<Shared<C>>,
}

impl<C: Clock + Clone> Clone for Limiter<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Limiter {
    /// At most `per_minute` requests in any 60 seconds; 0 counts as 1. Starts with nothing to give, as
    /// if a predecessor had just used everything up.
    pub fn new(per_minute: u32) -> Self {
        Self::with_clock(per_minute, DefaultClock::default())
    }
}

impl<C> Limiter<C>
where
    C: Clock + Clone + Send + Sync + 'static,
    C::Instant: Send + Sync,
{
    fn with_clock(per_minute: u32, clock: C) -> Self {
        let queue = Queue::new(per_minute, clock);
        Self { shared: Arc::new(Shared { queue: Mutex::new(queue) }) }
    }

    /// Waits until one request may leave. A caller that stops waiting, by `cancel` or by dropping the
    /// future, costs nobody a turn.
    pub async fn acquire(&self, priority: Priority, cancel: &CancellationToken) -> Result<(), Cancelled> {
        if cancel.is_cancelled() {
            return Err(Cancelled);
        }
        let Some(turn) = self.enqueue(priority) else { return Ok(()) };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Cancelled),
            turn = turn => {
                turn.map_err(|_| Cancelled)?.take();
                Ok(())
            }
        }
    }

    /// Lets nothing leave before `until`. Never shortens a pause.
    pub fn pause_until(&self, until: Instant) {
        let mut queue = self.shared.queue();
        queue.paused_until = queue.paused_until.max(Some(until));
    }

    /// The source refused a request as one too many: half as many leave from now on, and step by step more again
    /// while nothing is refused.
    pub fn slow_down(&self) {
        let mut queue = self.shared.queue();
        if queue.pace.ease(Instant::now()) {
            queue.follow_pace();
        }
    }

    /// How many requests may leave in a minute now.
    pub fn per_minute(&self) -> u32 {
        self.shared.queue().pace.per_minute()
    }

    /// A place in the queue, or `None` if the request may leave at once.
    fn enqueue(&self, priority: Priority) -> Option<oneshot::Receiver<Turn<C>>> {
        let mut queue = self.shared.queue();
        queue.forget_the_gone();
        if queue.is_empty() && queue.pause().is_none() && queue.take(priority).is_ok() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        queue.waiting[priority as usize].push_back(sender);
        if !queue.driven {
            queue.driven = true;
            tokio::spawn(drive(Arc::clone(&self.shared)));
        }
        Some(receiver)
    }
}

/// Serves the queue until nobody waits.
async fn drive<C: Clock + Clone>(shared: Arc<Shared<C>>) {
    while let Some(wait) = shared.serve() {
        tokio::time::sleep(wait).await;
    }
}

struct Shared<C: Clock + Clone> {
    queue: Mutex<Queue<C>>,
}

impl<C: Clock + Clone> Shared<C> {
    fn queue(&self) -> MutexGuard<'_, Queue<C>> {
        // Each change of the queue is one step, so a panic elsewhere cannot leave it half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives out what may leave now; tells how long to wait for the next, or `None` if nobody waits.
    fn serve(self: &Arc<Self>) -> Option<Duration> {
        let mut queue = self.queue();
        loop {
            queue.forget_the_gone();
            if queue.is_empty() {
                queue.driven = false;
                return None;
            }
            if let Some(wait) = queue.pause() {
                return Some(wait);
            }
            match queue.next() {
                Ok(priority) => queue.give(priority, Turn(Some(Arc::clone(self)))),
                Err(wait) => return Some(wait),
            }
        }
    }
}

/// The right to send one request. Dropped untaken, it goes to the next who waits.
struct Turn<C: Clock + Clone>(Option<Arc<Shared<C>>>);

impl<C: Clock + Clone> Turn<C> {
    fn take(mut self) {
        self.0 = None;
    }
}

impl<C: Clock + Clone> Drop for Turn<C> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.queue().give(Priority::Tail, Turn(Some(Arc::clone(&shared))));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::select_all};
    use governor::clock::FakeRelativeClock;

    use super::{bucket::Rate, *};

    /// A limiter whose clock stands still until told, and the time that lets one more request leave.
    fn stopped() -> (Limiter<FakeRelativeClock>, FakeRelativeClock, Duration) {
        let clock = FakeRelativeClock::default();
        // A short period, so that the task that serves the queue looks at the clock often.
        let per_minute = 10_000_000;
        (Limiter::with_clock(per_minute, clock.clone()), clock, Rate::of(per_minute).period)
    }

    #[tokio::test]
    async fn the_most_urgent_leaves_first_and_equals_in_order() {
        use Priority::*;
        let (limiter, clock, period) = stopped();
        let cancel = CancellationToken::new();
        let asked = [History, Recheck, Tail, History, Tail, Recheck];
        let mut waiting: Vec<_> = Vec::new();
        for (number, priority) in asked.into_iter().enumerate() {
            let mut turn = limiter.acquire(priority, &cancel).map(move |turn| (turn, number)).boxed();
            assert!((&mut turn).now_or_never().is_none());
            waiting.push(turn);
        }
        let mut left = Vec::new();
        while !waiting.is_empty() {
            clock.advance(period);
            let ((turn, number), _, rest) = select_all(waiting).await;
            assert_eq!(turn, Ok(()));
            left.push(number);
            waiting = rest;
        }
        assert_eq!(left, [2, 4, 1, 5, 0, 3]);
    }

    #[tokio::test]
    async fn half_as_many_leave_after_a_refusal() {
        let limiter = Limiter::new(600);
        limiter.slow_down();
        limiter.slow_down();
        assert_eq!(limiter.per_minute(), 300);
    }

    #[tokio::test]
    async fn one_who_gives_up_costs_nobody_a_turn() {
        let (limiter, clock, period) = stopped();
        let (cancel, keep) = (CancellationToken::new(), CancellationToken::new());
        let mut cancelled = limiter.acquire(Priority::Tail, &cancel).boxed();
        let mut dropped = limiter.acquire(Priority::Tail, &keep).boxed();
        let mut patient = limiter.acquire(Priority::History, &keep).boxed();
        for turn in [&mut cancelled, &mut dropped, &mut patient] {
            assert!(turn.now_or_never().is_none());
        }
        cancel.cancel();
        assert_eq!(cancelled.await, Err(Cancelled));
        drop(dropped);
        clock.advance(period);
        assert_eq!(patient.await, Ok(()));
    }

    #[tokio::test]
    async fn a_turn_given_but_not_taken_goes_to_the_next() {
        let (limiter, clock, period) = stopped();
        let first = limiter.enqueue(Priority::Tail).unwrap();
        let second = limiter.enqueue(Priority::Tail).unwrap();
        clock.advance(period);
        while first.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(first);
        second.await.unwrap().take();
    }

    #[tokio::test]
    async fn a_pause_stops_everybody_and_is_never_shortened() {
        let (limiter, clock, period) = stopped();
        let now = Instant::now();
        limiter.pause_until(now + Duration::from_secs(3_600));
        limiter.pause_until(now);
        clock.advance(period);
        let cancel = CancellationToken::new();
        let mut turn = limiter.acquire(Priority::Tail, &cancel).boxed();
        assert!((&mut turn).now_or_never().is_none());
        let wait = limiter.shared.serve().unwrap();
        assert!(wait > Duration::from_secs(3_000), "{wait:?}");
        cancel.cancel();
        assert_eq!(turn.await, Err(Cancelled));
    }

    #[tokio::test]
    async fn a_pause_that_is_over_stops_nobody() {
        let (limiter, clock, period) = stopped();
        limiter.pause_until(Instant::now());
        clock.advance(period);
        assert_eq!(limiter.acquire(Priority::Tail, &CancellationToken::new()).await, Ok(()));
    }
}
