//! Answers that go wrong on request.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::endpoint::Endpoint;

/// What goes wrong with a request that was otherwise accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429, with `Retry-After` in seconds where given.
    TooManyRequests { retry_after: Option<u32> },
    /// Another error status, with a JSON error body.
    Status(u16),
    /// No answer until the client leaves or the sandbox stops.
    Hang,
    /// The connection is reset in place of an answer.
    Reset,
    /// The right length announced, half of the body sent, the connection closed.
    Truncated,
    /// Status 200 and a page of HTML.
    Html,
    /// Status 200 and no body.
    NoBody,
    /// Status 200 and `[]`, whatever there is.
    EmptyArray,
    /// Status 200 and a count of zero, whatever there is.
    Zero,
    /// Status 200 and `{}`, where an array belongs.
    Object,
    /// Status 200 and `null`.
    Null,
    /// Status 200 and a body that begins like an array and never ends.
    Endless,
    /// The real answer, with white space in it up to so many bytes.
    Oversized(usize),
    /// 302 to the same path on another host.
    Redirect(SocketAddr),
    /// The real answer, in which the team has this id.
    OtherTeam(i64),
}

impl Fault {
    /// What by-chance faults are drawn from. Not among them: `EmptyArray`, which a client cannot tell from the
    /// truth by one answer, and what a client is not to try again.
    pub const BY_CHANCE: [Self; 8] = [
        Self::TooManyRequests { retry_after: Some(1) },
        Self::TooManyRequests { retry_after: None },
        Self::Status(500),
        Self::Status(503),
        Self::Hang,
        Self::Reset,
        Self::Truncated,
        Self::Html,
    ];
}

/// Which of the coming requests go wrong: first what is queued, then the lasting fault, then by chance.
pub(super) struct FaultPlan {
    queue: VecDeque<(Option<Endpoint>, Fault)>,
    /// For all endpoints (`None`), or for one.
    lasting: HashMap<Option<Endpoint>, Fault>,
    probability: f64,
    rng: ChaCha8Rng,
}

impl FaultPlan {
    /// `probability` is cut to 0 to 1.
    pub(super) fn new(seed: u64, probability: f64) -> Self {
        Self {
            queue: VecDeque::new(),
            lasting: HashMap::new(),
            probability: probability.clamp(0.0, 1.0),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next request (to `endpoint`, where given) answers with `fault`, after those queued before.
    pub(super) fn push(&mut self, endpoint: Option<Endpoint>, fault: Fault) {
        self.queue.push_back((endpoint, fault));
    }

    /// For all endpoints, or for `endpoint` alone, where it goes before that for all.
    pub(super) fn set_lasting(&mut self, endpoint: Option<Endpoint>, fault: Option<Fault>) {
        match fault {
            Some(fault) => self.lasting.insert(endpoint, fault),
            None => self.lasting.remove(&endpoint),
        };
    }

    pub(super) fn set_probability(&mut self, probability: f64) {
        self.probability = probability.clamp(0.0, 1.0);
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.lasting.clear();
        self.probability = 0.0;
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn next(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let due = self.queue.iter().position(|(only, _)| only.is_none_or(|only| only == endpoint));
        if let Some(position) = due {
            return self.queue.remove(position).map(|(_, fault)| fault);
        }
        if let Some(fault) = self.lasting.get(&Some(endpoint)).or_else(|| self.lasting.get(&None)) {
            return Some(*fault);
        }
        if self.probability > 0.0 && self.rng.random_bool(self.probability) {
            return Some(Fault::BY_CHANCE[self.rng.random_range(0..Fault::BY_CHANCE.len())]);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queued_then_lasting_then_by_chance() {
        let mut plan = FaultPlan::new(1, 1.0);
        plan.push(Some(Endpoint::Contacts), Fault::Html);
        plan.push(None, Fault::Reset);
        plan.set_lasting(None, Some(Fault::Status(503)));
        plan.set_lasting(Some(Endpoint::History), Some(Fault::EmptyArray));
        assert_eq!(plan.next(Endpoint::Messages), Some(Fault::Reset));
        assert_eq!(plan.next(Endpoint::History), Some(Fault::EmptyArray));
        assert_eq!(plan.next(Endpoint::Messages), Some(Fault::Status(503)));
        assert_eq!(plan.next(Endpoint::Contacts), Some(Fault::Html));
        plan.set_lasting(None, None);
        assert!(plan.next(Endpoint::Contacts).is_some());
        plan.set_probability(0.0);
        assert_eq!(plan.next(Endpoint::Contacts), None);
        assert_eq!(plan.queued(), 0);
    }

    #[test]
    fn chance_follows_the_seed() {
        let draw = |seed| {
            let mut plan = FaultPlan::new(seed, 0.5);
            std::iter::repeat_with(|| plan.next(Endpoint::Messages)).take(64).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
