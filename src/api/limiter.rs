//! The rate limit: in any 60 seconds at most N requests leave, also across a restart, and what is urgent
//! leaves first.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

/// The span in which at most N requests leave. A little more than the minute that the source counts by,
/// since requests reach it with different delays.
const WINDOW: Duration = Duration::from_millis(60_250);

/// One request in so many may leave in a burst. A burst takes from the steady rate what it gives, and has
/// to bridge the timer's resolution (1 ms) and late wake-ups at high rates: 0.5 % of a minute is 0.3 s.
const BURST_SHARE: u32 = 200;

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
pub struct Limiter<C: Clock = DefaultClock> {
    shared: Arc<Shared<C>>,
}

impl<C: Clock> Clone for Limiter<C> {
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
    C: Clock + Send + Sync + 'static,
    C::Instant: Send + Sync,
{
    fn with_clock(per_minute: u32, clock: C) -> Self {
        let queue = Queue { waiting: Default::default(), paused_until: None, driven: false };
        Self { shared: Arc::new(Shared { bucket: Bucket::new(per_minute, clock), queue: Mutex::new(queue) }) }
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

    /// A place in the queue, or `None` if the request may leave at once.
    fn enqueue(&self, priority: Priority) -> Option<oneshot::Receiver<Turn<C>>> {
        let mut queue = self.shared.queue();
        queue.forget_the_gone();
        if queue.is_empty() && queue.pause().is_none() && self.shared.bucket.take().is_ok() {
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
async fn drive<C: Clock>(shared: Arc<Shared<C>>) {
    while let Some(wait) = shared.serve() {
        tokio::time::sleep(wait).await;
    }
}

struct Shared<C: Clock> {
    bucket: Bucket<C>,
    queue: Mutex<Queue<C>>,
}

impl<C: Clock> Shared<C> {
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
            if let Err(wait) = self.bucket.take() {
                return Some(wait);
            }
            queue.give(Turn(Some(Arc::clone(self))));
        }
    }
}

struct Queue<C: Clock> {
    /// One line per priority, the most urgent first.
    waiting: [VecDeque<oneshot::Sender<Turn<C>>>; 3],
    paused_until: Option<Instant>,
    /// Whether a task serves the queue.
    driven: bool,
}

impl<C: Clock> Queue<C> {
    fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Keeps the queue as long as there are callers waiting, however many gave up.
    fn forget_the_gone(&mut self) {
        for line in &mut self.waiting {
            line.retain(|waiter| !waiter.is_closed());
        }
    }

    /// How long the pause lasts from now, if there is one.
    fn pause(&self) -> Option<Duration> {
        self.paused_until?.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    fn give(&mut self, mut turn: Turn<C>) {
        while let Some(waiter) = self.waiting.iter_mut().find_map(VecDeque::pop_front) {
            match waiter.send(turn) {
                Ok(()) => return,
                Err(back) => turn = back,
            }
        }
        turn.take();
    }
}

/// The right to send one request. Dropped untaken, it goes to the next who waits.
struct Turn<C: Clock>(Option<Arc<Shared<C>>>);

impl<C: Clock> Turn<C> {
    fn take(mut self) {
        self.0 = None;
    }
}

impl<C: Clock> Drop for Turn<C> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.queue().give(Turn(Some(Arc::clone(&shared))));
        }
    }
}

/// A leaky bucket that begins empty.
struct Bucket<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
}

impl<C: Clock> Bucket<C> {
    fn new(per_minute: u32, clock: C) -> Self {
        let Rate { burst, period } = Rate::of(per_minute);
        let quota = Quota::with_period(period).expect("invariant: a period is never zero").allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, clock);
        limiter
            .check_n(burst)
            .expect("invariant: a bucket holds its burst")
            .expect("invariant: a new bucket is full");
        Self { limiter }
    }

    /// Takes one request out, or tells how long to wait for it.
    fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    burst: NonZeroU32,
    period: Duration,
}

impl Rate {
    /// A bucket of `burst`, refilled by one each `period`, lets `burst + WINDOW / period` leave within a
    /// window at most: the period is chosen so that this is no more than `per_minute`.
    fn of(per_minute: u32) -> Self {
        let per_minute = per_minute.max(1);
        let burst = NonZeroU32::MIN.saturating_add(per_minute / BURST_SHARE);
        let steady = u64::from(per_minute - burst.get() + 1);
        let window = WINDOW.as_millis() as u64 * 1_000_000;
        Self { burst, period: Duration::from_nanos(window.div_ceil(steady)) }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::select_all};
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn rates() {
        let cases = [
            (0, 1, 60_250_000_000),
            (1, 1, 60_250_000_000),
            (2, 1, 30_125_000_000),
            (60, 1, 1_004_166_667),
            (199, 1, 302_763_820),
            (450, 3, 134_486_608),
            (6_000, 31, 10_092_128),
            (600_000, 3_001, 100_922),
            (10_000_000, 50_001, 6_056),
        ];
        for (per_minute, burst, period) in cases {
            let rate = Rate { burst: NonZeroU32::new(burst).unwrap(), period: Duration::from_nanos(period) };
            assert_eq!(Rate::of(per_minute), rate, "{per_minute}");
        }
    }

    #[test]
    fn a_high_rate_is_reached_by_a_clumsy_timer() {
        let late = Duration::from_millis(100);
        for per_minute in [6_000, 600_000, 10_000_000] {
            let clock = FakeRelativeClock::default();
            let bucket = Bucket::new(per_minute, clock.clone());
            let mut sent = 0;
            for _ in 0..MINUTE.as_millis() / late.as_millis() {
                clock.advance(late);
                sent += std::iter::from_fn(|| bucket.take().ok()).count() as u32;
            }
            assert!(sent <= per_minute && sent >= per_minute / 100 * 98, "{sent} of {per_minute}");
        }
    }

    proptest! {
        /// Requests are tried after any idle times, and the daemon is started anew at any time.
        #[test]
        fn no_minute_holds_more_than_the_limit(
            per_minute in 1u32..1_500,
            steps in proptest::collection::vec((0u64..90_000, 0usize..400, prop::bool::weighted(0.2)), 1..40),
        ) {
            let clock = FakeRelativeClock::default();
            let mut bucket = Bucket::new(per_minute, clock.clone());
            let mut now = Duration::ZERO;
            let mut sent: Vec<Duration> = Vec::new();
            let pass = |now: &mut Duration, time| {
                clock.advance(time);
                *now += time;
            };
            for (idle, tries, restart) in steps {
                if restart {
                    bucket = Bucket::new(per_minute, clock.clone());
                }
                pass(&mut now, Duration::from_millis(idle));
                for _ in 0..tries {
                    match bucket.take() {
                        Ok(()) => sent.push(now),
                        Err(wait) => pass(&mut now, wait),
                    }
                }
            }
            for (first, over) in sent.iter().zip(sent.iter().skip(per_minute as usize)) {
                prop_assert!(*over - *first > MINUTE, "{per_minute}: {first:?} to {over:?}");
            }
        }
    }

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
