//! Who waits for the rate limit, and who may send next.

use std::{collections::VecDeque, time::Duration};

use governor::clock::Clock;
use tokio::{sync::oneshot, time::Instant};

use super::{Priority, Turn, bucket::Bucket, pace::Pace};

/// Gauge: how many requests may leave in a minute now.
pub const PACE_METRIC: &str = "heymarket_sync_api_requests_per_minute";

/// Rechecks get one request in so many at most.
const RECHECK_SHARE: u32 = 2;

/// Callers that wait, the most urgent first, and what may leave.
pub(super) struct Queue<C: Clock + Clone> {
    /// One line per priority, the most urgent first.
    pub(super) waiting: [VecDeque<oneshot::Sender<Turn<C>>>; 3],
    pub(super) pace: Pace,
    bucket: Bucket<C>,
    /// What is left of the share of [`RECHECK_SHARE`].
    rechecks: Bucket<C>,
    /// A request was taken from that share and has not left yet.
    recheck_taken: bool,
    clock: C,
    pub(super) paused_until: Option<Instant>,
    /// Whether a task serves the queue.
    pub(super) driven: bool,
}

impl<C: Clock + Clone> Queue<C> {
    pub(super) fn new(per_minute: u32, clock: C) -> Self {
        Self {
            waiting: Default::default(),
            pace: Pace::new(per_minute),
            bucket: Bucket::new(per_minute, clock.clone()),
            rechecks: Bucket::new(per_minute / RECHECK_SHARE, clock.clone()),
            recheck_taken: false,
            clock,
            paused_until: None,
            driven: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Keeps the queue as long as there are callers waiting, however many gave up.
    pub(super) fn forget_the_gone(&mut self) {
        for line in &mut self.waiting {
            line.retain(|waiter| !waiter.is_closed());
        }
    }

    /// How long the pause lasts from now, if there is one.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.paused_until?.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// Which of those who wait may send now; or how long to wait.
    pub(super) fn next(&mut self) -> Result<Priority, Duration> {
        let waits = |priority: Priority| !self.waiting[priority as usize].is_empty();
        let (tail, recheck, history) =
            (waits(Priority::Tail), waits(Priority::Recheck), waits(Priority::History));
        let priority = match (tail, recheck, history) {
            (true, ..) => Priority::Tail,
            (_, true, false) => Priority::Recheck,
            (_, true, true) if self.take_recheck().is_ok() => Priority::Recheck,
            _ => Priority::History,
        };
        self.take(priority).map(|()| priority)
    }

    /// Takes a request of this priority from what may leave.
    pub(super) fn take(&mut self, priority: Priority) -> Result<(), Duration> {
        if self.pace.raise(Instant::now()) {
            self.follow_pace();
        }
        if priority == Priority::Recheck {
            self.take_recheck()?;
        }
        self.bucket.take()?;
        if priority == Priority::Recheck {
            self.recheck_taken = false;
        }
        Ok(())
    }

    fn take_recheck(&mut self) -> Result<(), Duration> {
        if !self.recheck_taken {
            self.rechecks.take()?;
            self.recheck_taken = true;
        }
        Ok(())
    }

    pub(super) fn follow_pace(&mut self) {
        let per_minute = self.pace.per_minute();
        metrics::gauge!(PACE_METRIC).set(per_minute);
        self.bucket = Bucket::new(per_minute, self.clock.clone());
        self.rechecks = Bucket::new(per_minute / RECHECK_SHARE, self.clock.clone());
    }

    /// Gives a turn to the first of `priority`, or else to the most urgent.
    pub(super) fn give(&mut self, priority: Priority, mut turn: Turn<C>) {
        while let Some(waiter) = self.waiting[priority as usize]
            .pop_front()
            .or_else(|| self.waiting.iter_mut().find_map(VecDeque::pop_front))
        {
            match waiter.send(turn) {
                Ok(()) => return,
                Err(back) => turn = back,
            }
        }
        turn.take();
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn rechecks_leave_their_share_to_history() {
        use Priority::*;
        let clock = FakeRelativeClock::default();
        let mut queue = Queue::new(600, clock.clone());
        let keep: Vec<_> = [Recheck, History]
            .into_iter()
            .flat_map(|priority| std::iter::repeat_n(priority, 1_000))
            .map(|priority| {
                let (sender, receiver) = oneshot::channel();
                queue.waiting[priority as usize].push_back(sender);
                receiver
            })
            .collect();
        let mut left = [0; 3];
        for _ in 0..6_000 {
            clock.advance(Duration::from_millis(10));
            while let Ok(priority) = queue.next() {
                left[priority as usize] += 1;
            }
        }
        drop(keep);
        let [_, rechecks, history] = left;
        assert!((290..=300).contains(&rechecks), "{rechecks} rechecks of 600 a minute");
        assert!((290..=310).contains(&history), "{history} of history");
    }

    #[test]
    fn rechecks_alone_leave_half_of_the_quota() {
        let clock = FakeRelativeClock::default();
        let mut queue = Queue::new(600, clock.clone());
        let (sender, receiver) = oneshot::channel();
        queue.waiting[Priority::Recheck as usize].push_back(sender);
        let mut left = 0;
        for _ in 0..6_000 {
            clock.advance(Duration::from_millis(10));
            left += std::iter::from_fn(|| queue.next().ok()).count();
        }
        drop(receiver);
        assert!((290..=300).contains(&left), "{left} of 600 a minute");
    }
}
