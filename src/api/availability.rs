//! Whether the source answers: one state for all callers, told once per change.
//!
//! A gate stands before the whole API and one before each endpoint that lists pages, since one endpoint may fail
//! while the others work. While a gate is closed nobody passes; one caller probes, and a probe that is answered
//! opens it for all at once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::Instant,
};
use tracing::{info, warn};

use super::{endpoints::Endpoint, error::ApiError, model::Stream};
use crate::{clock, telemetry};

/// Counter by `scope`: how often a gate was closed.
pub const OUTAGES_METRIC: &str = "heymarket_sync_api_outages_total";

/// What an outage concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Api,
    /// The endpoint that lists this stream's pages.
    Pages(Stream),
}

/// The source, or an endpoint of it, cannot be used.
#[derive(Clone, Debug)]
pub struct Outage {
    pub scope: Scope,
    /// Of the first request that failed.
    pub since: DateTime<Utc>,
    /// The last failure; names the endpoint that was asked, and the request id.
    pub error: ApiError,
    /// Probes that failed so far.
    pub probes: u32,
    /// A probe is under way.
    pub probing: bool,
    next_probe: Instant,
}

/// An outage that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    pub scope: Scope,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// The state at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The whole API's first.
    pub outages: Vec<Outage>,
    /// A request failed again and again, and it is being found out whether others fail too.
    pub suspected: bool,
    /// Since when the source has answered nothing but 429.
    pub limited_since: Option<DateTime<Utc>>,
    /// The outage that ended last.
    pub last_ended: Option<Ended>,
}

/// The state and its gates. All waits on it can be dropped at any time.
#[derive(Debug, Default)]
pub struct Availability {
    gates: watch::Sender<Gates>,
    /// Held by the caller that finds out what a failure is a sign of.
    diagnosis: Mutex<()>,
    /// Held by the caller that probes: when it leaves, the next one takes over.
    probers: [Mutex<()>; Scope::COUNT],
}

#[derive(Debug, Default)]
struct Gates {
    closed: [Option<Outage>; Scope::COUNT],
    /// When an answer came last; that of [`Scope::Api`] from endpoints without a gate.
    answered: [Option<Instant>; Scope::COUNT],
    suspected: bool,
    limited_since: Option<DateTime<Utc>>,
    limit_was_told: bool,
    last_ended: Option<Ended>,
}

impl Scope {
    const COUNT: usize = 1 + Stream::ALL.len();
    const ALL: [Self; Self::COUNT] = [
        Self::Api,
        Self::Pages(Stream::Messages),
        Self::Pages(Stream::Conversations),
        Self::Pages(Stream::Contacts),
    ];

    /// `"the API"`, or method and path of the endpoint.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "the API",
            Self::Pages(stream) => Endpoint::Page(stream).name(),
        }
    }

    /// The gate before `endpoint` alone, where it has one.
    pub(super) fn of(endpoint: Endpoint) -> Option<Self> {
        match endpoint {
            Endpoint::Page(stream) => Some(Self::Pages(stream)),
            _ => None,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Api => 0,
            Self::Pages(stream) => 1 + stream as usize,
        }
    }
}

impl Ended {
    pub fn lasted(&self) -> Duration {
        (self.until - self.since).to_std().unwrap_or_default()
    }
}

impl Report {
    /// The outage that concerns the pages of `stream`, if there is one.
    pub fn outage_of(&self, stream: Stream) -> Option<&Outage> {
        self.outages
            .iter()
            .find(|outage| matches!(outage.scope, Scope::Api) || outage.scope == Scope::Pages(stream))
    }
}

impl Availability {
    pub fn report(&self) -> Report {
        let gates = self.gates.borrow();
        Report {
            outages: gates.closed.iter().flatten().cloned().collect(),
            suspected: gates.suspected,
            limited_since: gates.limited_since,
            last_ended: gates.last_ended.clone(),
        }
    }

    /// The outage that `endpoint` is held up by.
    pub(super) fn outage_before(&self, endpoint: Endpoint) -> Option<Outage> {
        let gates = self.gates.borrow();
        let scopes = std::iter::once(Scope::Api).chain(Scope::of(endpoint));
        scopes.into_iter().find_map(|scope| gates.closed[scope.index()].clone())
    }

    pub(super) fn outage(&self, scope: Scope) -> Option<Outage> {
        self.gates.borrow().closed[scope.index()].clone()
    }

    /// Returns when the gate is open.
    pub(super) async fn opened(&self, scope: Scope) {
        // The sender lives as long as this.
        let _ = self.gates.subscribe().wait_for(|gates| gates.closed[scope.index()].is_none()).await;
    }

    /// Whether `scope` (for the API: anything) answered somebody at `since` or later.
    pub(super) fn answered_since(&self, scope: Scope, since: Instant) -> bool {
        let gates = self.gates.borrow();
        let since = |scope: &Scope| gates.answered[scope.index()].is_some_and(|at| at >= since);
        match scope {
            Scope::Api => Scope::ALL.iter().any(since),
            Scope::Pages(_) => since(&scope),
        }
    }

    /// A request was answered as it should be.
    pub(super) fn answered(&self, endpoint: Endpoint) {
        let mut told = false;
        self.gates.send_if_modified(|gates| {
            gates.answered[Scope::of(endpoint).unwrap_or(Scope::Api).index()] = Some(Instant::now());
            gates.limited_since = None;
            told = std::mem::take(&mut gates.limit_was_told);
            false
        });
        if told {
            info!("the API's rate limit lets requests through again");
        }
    }

    /// A request was refused for the rate limit; `often`: its caller's last ones as well.
    pub(super) fn limited(&self, often: bool) {
        let mut tell = false;
        self.gates.send_if_modified(|gates| {
            gates.limited_since.get_or_insert_with(clock::now);
            tell = often && !gates.limit_was_told;
            gates.limit_was_told |= often;
            false
        });
        if tell {
            warn!(
                "the API's rate limit is used up by others; going on slowly. Lower api.requests_per_minute if they \
                 need their share"
            );
        }
    }

    /// Returns when nobody else diagnoses; the state tells of a suspicion until the value is dropped.
    pub(super) async fn suspect(&self) -> Suspicion<'_> {
        let alone = self.diagnosis.lock().await;
        self.set_suspected(true);
        Suspicion { availability: self, _alone: alone }
    }

    fn set_suspected(&self, suspected: bool) {
        self.gates.send_modify(|gates| gates.suspected = suspected);
    }

    /// Closes a gate, if it is not closed already. The first probe is due after `wait`.
    pub(super) fn close(&self, scope: Scope, since: DateTime<Utc>, error: ApiError, wait: Duration) {
        let closed = self.gates.send_if_modified(|gates| {
            let gate = &mut gates.closed[scope.index()];
            let open = gate.is_none();
            let next_probe = Instant::now() + wait;
            gate.get_or_insert(Outage {
                scope,
                since,
                error: error.clone(),
                probes: 0,
                probing: false,
                next_probe,
            });
            open
        });
        if closed {
            metrics::counter!(OUTAGES_METRIC, "scope" => scope.name()).increment(1);
            let (of, error) = (scope.name(), telemetry::chain(&error));
            warn!(of, %since, error, "the API cannot be read; probing until it answers");
        }
    }

    /// Returns when the caller is the only prober of `scope`.
    pub(super) async fn prober(&self, scope: Scope) -> Prober<'_> {
        Prober { availability: self, scope, _alone: self.probers[scope.index()].lock().await }
    }
}

/// The right to find out, as the only one, what a failure is a sign of.
pub(super) struct Suspicion<'a> {
    availability: &'a Availability,
    _alone: MutexGuard<'a, ()>,
}

impl Drop for Suspicion<'_> {
    fn drop(&mut self) {
        self.availability.set_suspected(false);
    }
}

/// The right to probe, as the only one, whether an outage is over. Dropped at any time, it goes to the next.
pub(super) struct Prober<'a> {
    availability: &'a Availability,
    scope: Scope,
    _alone: MutexGuard<'a, ()>,
}

impl Prober<'_> {
    /// When to probe next, and how many probes have failed; `None`: the gate is open.
    pub(super) fn next(&self) -> Option<(Instant, u32)> {
        self.availability.outage(self.scope).map(|outage| (outage.next_probe, outage.probes))
    }

    pub(super) fn begins(&self) {
        self.change(|outage| outage.probing = true);
    }

    /// The probe failed; the next is due after `wait`.
    pub(super) fn failed(&self, error: ApiError, wait: Duration) {
        self.change(|outage| {
            outage.probing = false;
            outage.probes = outage.probes.saturating_add(1);
            outage.next_probe = Instant::now() + wait;
            outage.error = error;
        });
    }

    /// Opens the gate: all who wait there go on at once.
    pub(super) fn answered(&self) {
        let mut ended = None;
        self.availability.gates.send_modify(|gates| {
            ended = gates.closed[self.scope.index()].take().map(|outage| Ended {
                scope: outage.scope,
                since: outage.since,
                until: clock::now(),
            });
            gates.last_ended = ended.clone().or(gates.last_ended.take());
        });
        if let Some(ended) = ended {
            let lasted = humantime::format_duration(Duration::from_secs(ended.lasted().as_secs()));
            info!(of = ended.scope.name(), since = %ended.since, %lasted, "the API answers again");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Outage)) {
        // Nobody waits for such a change: waking the waiters would be for nothing.
        self.availability.gates.send_if_modified(|gates| {
            if let Some(outage) = &mut gates.closed[self.scope.index()] {
                change(outage);
            }
            false
        });
    }
}

impl Drop for Prober<'_> {
    fn drop(&mut self) {
        self.change(|outage| outage.probing = false);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::api::error::ErrorKind;

    const MESSAGES: Scope = Scope::Pages(Stream::Messages);

    fn closed(scope: Scope) -> Availability {
        let availability = Availability::default();
        let error = ApiError::new(ErrorKind::Server, scope.name());
        availability.close(scope, clock::now(), error, Duration::ZERO);
        availability
    }

    #[test]
    fn a_gate_stands_before_its_endpoint_and_the_apis_before_all() {
        let pages = closed(MESSAGES);
        assert!(pages.outage_before(Endpoint::Page(Stream::Messages)).is_some());
        assert!(pages.outage_before(Endpoint::Page(Stream::Contacts)).is_none());
        assert!(pages.outage_before(Endpoint::Inboxes).is_none());
        assert!(pages.report().outage_of(Stream::Messages).is_some());
        assert!(pages.report().outage_of(Stream::Contacts).is_none());
        let api = closed(Scope::Api);
        for endpoint in [Endpoint::Page(Stream::Messages), Endpoint::Inboxes, Endpoint::History] {
            assert!(api.outage_before(endpoint).is_some(), "{endpoint:?}");
        }
        assert!(Stream::ALL.iter().all(|stream| api.report().outage_of(*stream).is_some()));
    }

    #[tokio::test]
    async fn a_prober_that_leaves_hands_over() {
        let availability = closed(MESSAGES);
        let first = availability.prober(MESSAGES).await;
        first.begins();
        let mut second = availability.prober(MESSAGES).boxed();
        assert!((&mut second).now_or_never().is_none());
        assert!(availability.report().outages[0].probing);
        drop(first);
        let second = second.await;
        assert!(!availability.report().outages[0].probing);
        assert_eq!(second.next().map(|next| next.1), Some(0));
    }

    #[tokio::test]
    async fn an_answered_probe_wakes_everybody_at_once() {
        let availability = closed(MESSAGES);
        let mut waiting: Vec<_> = (0..50).map(|_| availability.opened(MESSAGES).boxed()).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let prober = availability.prober(MESSAGES).await;
        prober.failed(ApiError::new(ErrorKind::Timeout, "GET /"), Duration::ZERO);
        assert_eq!(availability.report().outages[0].error.kind(), ErrorKind::Timeout);
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        prober.answered();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_some()));
        assert!(availability.report().outages.is_empty());
        assert_eq!(availability.report().last_ended.map(|ended| ended.scope), Some(MESSAGES));
    }
}
