//! Waiting at closed gates, probing whether they may open, and finding out what a failure is a sign of.

use std::{sync::PoisonError, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Client, Response,
    exchange::{Call, Refusal, cancelled},
};
use crate::{
    api::{
        auth::CredentialsError,
        availability::Scope,
        endpoints::{Endpoint, PageRequest},
        error::{ApiError, ErrorKind},
        limiter::Priority,
        model::Stream,
        retry,
    },
    clock,
};

/// Counter by `endpoint` and `outcome` (`ok`, or an error kind's name): requests sent only to find out whether an
/// endpoint answers.
pub const PROBES_METRIC: &str = "heymarket_sync_api_probes_total";

/// An answer that somebody else got shows that an endpoint works if it came at most this long before the failure.
const FRESH_ANSWER: Duration = Duration::from_secs(5);

/// Endpoints that the API is probed with in turn: one that is sick by itself must not hide that the API is back.
const API_PROBES: [Endpoint; 4] = [
    Endpoint::Inboxes,
    Endpoint::Page(Stream::Messages),
    Endpoint::Page(Stream::Conversations),
    Endpoint::Page(Stream::Contacts),
];

/// What one call has met with so far.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Attempts that failed, in a row.
    pub failures: u32,
    /// Time spent in attempts and waits, without waits for the limiter and at gates.
    pub spent: Duration,
    /// A fresh token was already made.
    pub renewed: bool,
    first: Option<(DateTime<Utc>, Instant)>,
    /// From when on an answer to somebody else speaks against an outage.
    counts_from: Option<Instant>,
    last: Option<ApiError>,
}

impl Trouble {
    pub fn add(&mut self, refusal: &Refusal) {
        let (now, took) = (Instant::now(), refusal.took);
        self.failures += 1;
        self.spent += took;
        self.first.get_or_insert((clock::now() - TimeDelta::from_std(took).unwrap_or_default(), now));
        self.counts_from = now.checked_sub(took.min(FRESH_ANSWER));
        self.last = Some(refusal.error.clone());
    }

    /// The failures are not the call's own. Who is patient begins anew after an outage.
    pub fn is_an_outage(&mut self, patient: bool) {
        if patient {
            *self = Self::default();
        }
    }
}

impl Client {
    /// Returns when no gate before `endpoint` is closed; meanwhile probes, if nobody else does. Fails when cancelled
    /// and, for an impatient client, when an outage lasts.
    pub(super) async fn pass_gates(
        &self,
        endpoint: Endpoint,
        trouble: &Trouble,
        cancel: &CancellationToken,
    ) -> Result<(), ApiError> {
        let availability = &self.shared.availability;
        let Some(mut outage) = availability.outage_before(endpoint) else { return Ok(()) };
        let since = trouble.first.map_or_else(Instant::now, |first| first.1);
        loop {
            let patience = async {
                match self.patient {
                    true => std::future::pending().await,
                    false => tokio::time::sleep_until(since + retry::OUTAGE_PATIENCE).await,
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(cancelled(endpoint)),
                () = availability.opened(outage.scope) => {}
                () = patience => return Err(trouble.last.clone().unwrap_or(outage.error).with_outage(true)),
                () = self.probe_until_open(outage.scope) => {}
            }
            match availability.outage_before(endpoint) {
                Some(next) => outage = next,
                None => return Ok(()),
            }
        }
    }

    /// Finds out whether others fail as well. `true`: it is an outage, and a gate is closed now. Callers do this
    /// one after the other, so that a storm of failures costs few requests.
    pub(super) async fn diagnose(
        &self,
        endpoint: Endpoint,
        error: &ApiError,
        retry_after: Option<Duration>,
        trouble: &Trouble,
    ) -> bool {
        let availability = &self.shared.availability;
        let _alone = availability.suspect().await;
        if availability.outage_before(endpoint).is_some() {
            return true;
        }
        let since = trouble.first.map_or_else(clock::now, |first| first.0);
        let says_itself = self.patient && error.kind() == ErrorKind::Server;
        if let Some(wait) = retry_after.filter(|wait| says_itself && *wait >= retry::LONG_WAIT) {
            availability.close(Scope::Api, since, error.clone(), wait);
            return true;
        }
        let gate = Scope::of(endpoint);
        let answered_since =
            |scope| trouble.counts_from.is_some_and(|from| availability.answered_since(scope, from));
        let (own, other) = match gate {
            None => (Err(error.clone().into()), None),
            Some(gate) if answered_since(gate) => return false,
            Some(_) if error.kind() == ErrorKind::Timeout => {
                // Each may take as long as an answer may: both are waited for at once.
                let (own, other) = tokio::join!(self.probe(endpoint), self.probe(second_opinion(endpoint)));
                (own, Some(other))
            }
            Some(_) => (self.probe(endpoint).await, None),
        };
        let failure = match (own, gate) {
            (Err(refusal), Some(gate)) if shows_life(gate, refusal.error.kind()) => return false,
            (Err(refusal), _) => refusal.error,
            (Ok(()), _) => return false,
        };
        let scope = match failure.kind() {
            ErrorKind::Forbidden | ErrorKind::NotFound => gate,
            _ if answered_since(Scope::Api) => gate,
            // No other endpoint can be reached then.
            ErrorKind::Connect | ErrorKind::Tls if gate.is_some() => Some(Scope::Api),
            _ => {
                let other = match other {
                    Some(other) => other,
                    None => self.probe(second_opinion(endpoint)).await,
                };
                match other {
                    Err(refusal) if !shows_life(Scope::Api, refusal.error.kind()) => Some(Scope::Api),
                    _ => gate,
                }
            }
        };
        // Where an endpoint has no gate, its failures are the request's own.
        let Some(scope) = scope else { return false };
        availability.close(scope, since, failure, retry::probe_wait(0, rand::random()));
        true
    }

    /// Probes until the gate is open, or until the whole API's is closed.
    async fn probe_until_open(&self, scope: Scope) {
        let availability = &self.shared.availability;
        let prober = availability.prober(scope).await;
        while let Some((due, failed)) = prober.next() {
            tokio::time::sleep_until(due).await;
            if scope != Scope::Api && availability.outage(Scope::Api).is_some() {
                return;
            }
            let endpoint = match scope {
                Scope::Api => API_PROBES[failed as usize % API_PROBES.len()],
                Scope::Pages(stream) => Endpoint::Page(stream),
            };
            prober.begins();
            match self.probe(endpoint).await {
                Err(refusal) if !shows_life(scope, refusal.error.kind()) => {
                    let wait = retry::probe_wait(failed.saturating_add(1), rand::random());
                    prober.failed(refusal.error, wait.max(refusal.retry_after.unwrap_or_default()));
                }
                _ => prober.answered(),
            }
        }
    }

    /// Sends the smallest request of `endpoint`. One that is refused for its token makes the next bear a fresh one.
    async fn probe(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        let call = match endpoint {
            Endpoint::Page(stream) => {
                let probes = self.shared.probes.read().unwrap_or_else(PoisonError::into_inner);
                let known = probes[stream as usize].as_ref();
                known.map_or_else(|| Call::page(&PageRequest::smallest(stream)), Call::page)
            }
            _ => Call::new(endpoint),
        }
        .unguarded();
        // Whoever waits for a probe stops it by no longer waiting.
        let outcome = self.once(&call, &CancellationToken::new()).await.map(drop);
        let told = outcome.as_ref().map_or_else(|refusal| refusal.error.kind().name(), |()| "ok");
        metrics::counter!(PROBES_METRIC, "endpoint" => endpoint.name(), "outcome" => told).increment(1);
        outcome
    }

    /// Sends `call` once, whatever comes of it.
    pub(super) async fn once(&self, call: &Call, cancel: &CancellationToken) -> Result<Response, Refusal> {
        let mut outcome = self.exchange(call, Priority::Tail, cancel).await;
        if let Err(refusal) = &mut outcome {
            let wait = refusal.retry_after;
            if let Some(wait) = wait.filter(|_| refusal.error.kind() == ErrorKind::RateLimited) {
                self.shared.limiter.pause_until(Instant::now() + wait);
            }
            self.renew_refused(refusal);
        }
        outcome
    }

    /// After a 401: the next request bears a fresh token, made from the secrets as they are now. `true`: it differs.
    pub(super) fn renew_refused(&self, refusal: &mut Refusal) -> bool {
        let Some(generation) = refusal.generation.filter(|_| refusal.error.kind() == ErrorKind::Unauthorized)
        else {
            return false;
        };
        let unusable = |error: CredentialsError| {
            ApiError::new(ErrorKind::Credentials, refusal.error.endpoint())
                .with_source(error)
                .with_attempts(refusal.error.attempts())
        };
        match self.shared.auth.renew(generation) {
            Ok(fresh) => fresh,
            Err(error) => {
                refusal.error = unusable(error);
                false
            }
        }
    }
}

/// Whether a probe that failed like this shows that `scope` works nonetheless.
fn shows_life(scope: Scope, kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::BadRequest | ErrorKind::RateLimited | ErrorKind::TooLarge => true,
        ErrorKind::Forbidden | ErrorKind::NotFound => scope == Scope::Api,
        _ => false,
    }
}

/// What shows whether the API answers at all, when `endpoint` does not.
fn second_opinion(endpoint: Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Inboxes => Endpoint::Page(Stream::Messages),
        _ => Endpoint::Inboxes,
    }
}
