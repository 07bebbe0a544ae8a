//! The rate limit: so many requests in any minute, per credential \[V\].

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::auth::Key;

const WINDOW: Duration = Duration::from_secs(60);

/// What is said beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in any 60 s, per credential; `None` is without limit.
    pub per_minute: Option<u32>,
    /// Whether a 429 carries `Retry-After`; the documents leave it open.
    pub retry_after: bool,
}

impl Default for RateLimit {
    /// 500 a minute \[V\], with `Retry-After`.
    fn default() -> Self {
        Self { per_minute: Some(500), retry_after: true }
    }
}

/// When requests were admitted. Bounded by the limit.
#[derive(Default)]
pub(super) struct Quota {
    admitted: HashMap<Key, VecDeque<Instant>>,
}

impl Quota {
    /// Admits a request, or says how long until one would be admitted. Refused requests don't count.
    pub(super) fn admit(&mut self, key: Key, limit: Option<u32>, now: Instant) -> Result<(), Duration> {
        let Some(limit) = limit else {
            return Ok(());
        };
        let admitted = self.admitted.entry(key).or_default();
        while admitted.front().is_some_and(|&first| now.saturating_duration_since(first) >= WINDOW) {
            admitted.pop_front();
        }
        if admitted.len() < limit as usize {
            admitted.push_back(now);
            return Ok(());
        }
        let free_after = admitted.len() - limit as usize;
        match admitted.get(free_after) {
            Some(&blocking) => Err(WINDOW.saturating_sub(now.saturating_duration_since(blocking))),
            None => Err(WINDOW),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_minute_holds_at_most_the_limit() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quota = Quota::default();
        for (seconds, answer) in [
            (0, Ok(())),
            (30, Ok(())),
            (31, Err(Duration::from_secs(29))),
            (59, Err(Duration::from_secs(1))),
            (60, Ok(())),
            (61, Err(Duration::from_secs(29))),
            (90, Ok(())),
        ] {
            assert_eq!(quota.admit(Key::Team, Some(2), at(seconds)), answer, "at {seconds} s");
        }
        assert_eq!(quota.admit(Key::Secret(0), Some(2), at(91)), Ok(()), "another credential");
        assert_eq!(quota.admit(Key::Team, None, at(91)), Ok(()), "no limit");
        assert_eq!(quota.admit(Key::Secret(1), Some(0), at(91)), Err(WINDOW), "a limit of none");
    }
}
