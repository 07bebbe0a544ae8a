//! The one place that sends: authentication, rate limit, retry, outages, size cap, time limit, request id.

mod answer;
mod exchange;
mod probe;
mod room;
mod team;
mod transport;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    exchange::{Call, Latency, cancelled},
    probe::Trouble,
    room::Room,
    team::Admission,
    transport::http_client,
};
use super::{
    auth::{Auth, CredentialsError},
    availability::Availability,
    endpoints::{Endpoint, PageRequest},
    error::{ApiError, ErrorKind},
    limiter::{Limiter, Priority},
    retry::{self, Decision, Failure},
    server_clock::ServerClock,
};
use crate::config;

pub use self::{
    exchange::{REQUESTS_METRIC, SECONDS_METRIC},
    probe::PROBES_METRIC,
    room::Share,
    team::{TeamAnswer, TeamSource},
};

/// Talks to the source. Cheap to clone; clones share the limit, the token, the connections, and what is known of
/// outages.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    patient: bool,
}

struct Shared {
    http: reqwest::Client,
    base_url: Url,
    max_body: u64,
    room: Room,
    auth: Auth,
    clock: ServerClock,
    limiter: Limiter,
    /// Requests under way at once.
    in_flight: Semaphore,
    availability: Arc<Availability>,
    latency: Latency,
    requests: AtomicU64,
    /// By stream.
    probes: RwLock<[Option<PageRequest>; 3]>,
    admission: watch::Sender<Admission>,
}

/// A complete answer with status 2xx.
#[derive(Clone, Debug)]
pub struct Response {
    /// Begins and ends as the JSON value that the endpoint gives; what is between is unchecked.
    pub body: Bytes,
    /// What the body takes of the memory for bodies; to be kept as long as what was read of it. Whoever keeps
    /// several waits for itself.
    pub room: Option<Share>,
    /// The server's clock (`Date` header), in whole seconds.
    pub server_time: Option<DateTime<Utc>>,
    pub request_id: Option<String>,
    /// How many requests this answer took, probes of other callers not counted.
    pub attempts: u32,
    /// From sending the last of them to the last byte: no wait is in it.
    pub took: Duration,
    /// Which secret it was asked with; see [`Client::secret`].
    pub secret: u64,
}

/// An inbox: `GET /v1/inboxes` \[V\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    pub id: i64,
    pub name: String,
    /// The user ids of those who belong to it.
    pub members: Vec<i64>,
    /// The team's id, where it is given.
    pub team: Option<i64>,
}

/// The team that the credentials belong to: `GET /v1/team` \[V\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    pub id: i64,
    pub name: String,
}

impl Client {
    /// Sends nothing. Fails where no credentials are set or the HTTP client cannot be built. A call of this client
    /// ends with an error when an outage has lasted [`OUTAGE_PATIENCE`](retry::OUTAGE_PATIENCE).
    pub fn new(settings: &config::Api) -> Result<Self, ApiError> {
        let credentials = settings.credentials.clone().ok_or_else(|| {
            ApiError::new(ErrorKind::Credentials, "setup").with_source(CredentialsError::Unset)
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                http: http_client(settings)
                    .map_err(|error| ApiError::new(ErrorKind::Setup, "setup").with_source(error))?,
                base_url: settings.base_url.clone(),
                max_body: settings.max_body,
                room: Room::new(settings.max_in_flight),
                auth: Auth::new(credentials),
                clock: ServerClock::default(),
                limiter: Limiter::new(settings.requests_per_minute),
                in_flight: Semaphore::new(settings.max_in_flight),
                availability: Arc::default(),
                latency: Latency::default(),
                requests: AtomicU64::new(0),
                probes: RwLock::default(),
                admission: watch::Sender::default(),
            }),
            patient: false,
        })
    }

    /// The same client for a caller that waits outages out, and until the rate limit lets it through: an error of
    /// it concerns the one request alone.
    pub fn patient(&self) -> Self {
        Self { patient: true, ..self.clone() }
    }

    /// One page of a stream; the body is a JSON array.
    pub async fn page(
        &self,
        request: &PageRequest,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Response, ApiError> {
        let response = self.send(&Call::page(request), priority, cancel).await?;
        self.shared.latency.took(response.took);
        Ok(response)
    }

    /// One conversation, a JSON object; `None` where there is none of this id (any more) \[S\].
    pub async fn conversation(
        &self,
        id: i64,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Option<Response>, ApiError> {
        match self.send(&Call::new(Endpoint::Conversation(id)), priority, cancel).await {
            Ok(response) => Ok(Some(response)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest messages of one conversation, at most 50 \[V\], a JSON array. `phone` is E.164 digits without
    /// `+` \[V\]; `latest` is in Unix seconds, `None` for now.
    pub async fn history(
        &self,
        phone: &str,
        inbox_id: i64,
        latest: Option<i64>,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Response, ApiError> {
        let mut query = vec![("phoneNumber", phone.to_owned()), ("inboxID", inbox_id.to_string())];
        query.extend(latest.map(|latest| ("timestamp", latest.to_string())));
        self.send(&Call { query, ..Call::new(Endpoint::History) }, priority, cancel).await
    }

    /// All inboxes: also the cheapest check of credentials \[V\].
    pub async fn inboxes(
        &self,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Vec<Inbox>, ApiError> {
        self.send_for(Call::new(Endpoint::Inboxes), priority, cancel, |body| {
            let inboxes = body.as_array()?;
            inboxes.iter().map(read_inbox).collect()
        })
        .await
    }

    /// The team.
    pub async fn team(&self, priority: Priority, cancel: &CancellationToken) -> Result<Team, ApiError> {
        self.send_for(Call::new(Endpoint::Team), priority, cancel, |body| {
            Some(Team { id: integer(&body["id"])?, name: text(&body["name"]) })
        })
        .await
    }

    /// How many rows `request` lists, page and cursor aside \[V\].
    pub async fn count(
        &self,
        request: &PageRequest,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<u64, ApiError> {
        let call = Call::new(Endpoint::Count(request.stream)).with_body(&request.count_body());
        self.send_for(call, priority, cancel, |body| integer(body)?.try_into().ok()).await
    }

    /// From now on the stream's pages are probed with this request instead of [`PageRequest::smallest`]: the
    /// endpoint may refuse that one before it gets to where it fails.
    pub fn probe_with(&self, request: PageRequest) {
        let mut probes = self.shared.probes.write().unwrap_or_else(PoisonError::into_inner);
        let stream = request.stream as usize;
        probes[stream] = Some(request);
    }

    /// How many requests left since the client was made, retries included.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Whether the source answers.
    pub fn availability(&self) -> Arc<Availability> {
        Arc::clone(&self.shared.availability)
    }

    /// How long a page takes from sending to its last byte, smoothed over the last few; zero before the first.
    pub fn latency(&self) -> Duration {
        self.shared.latency.smoothed()
    }

    /// What the server's clock is ahead of ours by, to about a second; `None` before the first answer.
    pub fn skew(&self) -> Option<TimeDelta> {
        self.shared.clock.offset()
    }

    /// The server's clock.
    pub fn clock(&self) -> &ServerClock {
        &self.shared.clock
    }

    /// Sends, and reads the whole answer. An answer that `read` cannot read is not tried again.
    async fn send_for<T>(
        &self,
        call: Call,
        priority: Priority,
        cancel: &CancellationToken,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, ApiError> {
        let response = self.send(&call, priority, cancel).await?;
        let unreadable = || {
            ApiError::new(ErrorKind::NotJson, call.endpoint.name())
                .with_response(200, response.request_id.clone())
                .with_attempts(response.attempts)
        };
        // The parser's own error would quote nothing useful and may quote content.
        let value = serde_json::from_slice(&response.body).map_err(|_| unreadable())?;
        read(&value).ok_or_else(unreadable)
    }

    /// Sends `call` until it is answered, refused for good, out of attempts, or cancelled. While a gate before the
    /// endpoint is closed, nothing is sent but probes.
    async fn send(
        &self,
        call: &Call,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Response, ApiError> {
        let endpoint = call.endpoint;
        let mut attempts = 0;
        let mut trouble = Trouble::default();
        loop {
            self.pass_gates(endpoint, &trouble, cancel)
                .await
                .map_err(|error| error.with_attempts(attempts))?;
            self.pass_admission(call, cancel).await.map_err(|error| error.with_attempts(attempts))?;
            let mut refusal = match self.exchange(call, priority, cancel).await {
                Ok(response) => return Ok(Response { attempts: attempts + 1, ..response }),
                Err(refusal) if refusal.unadmitted => continue,
                Err(refusal) => refusal,
            };
            attempts += refusal.error.attempts();
            if refusal.error.kind() == ErrorKind::Cancelled {
                return Err(refusal.error.with_attempts(attempts));
            }
            trouble.add(&refusal);
            let failure = Failure {
                kind: refusal.error.kind(),
                retry_after: refusal.retry_after,
                attempts: trouble.failures,
                spent: trouble.spent,
                renewed: trouble.renewed,
                lists_pages: matches!(endpoint, Endpoint::Page(_)),
                patient: self.patient,
            };
            let jitter = rand::random();
            if let Some(wait) = retry::pause(failure, jitter) {
                self.shared.limiter.pause_until(Instant::now() + wait);
            }
            if failure.kind == ErrorKind::RateLimited {
                self.shared.limiter.slow_down();
                self.shared.availability.limited(trouble.failures >= retry::MAX_ATTEMPTS);
            }
            let mut decision = retry::decide(failure, jitter);
            if decision == Decision::Renew {
                trouble.renewed = true;
                if self.renew_refused(&mut refusal) {
                    continue;
                }
                decision = retry::decide(Failure { renewed: true, ..failure }, jitter);
            }
            let error = refusal.error.with_attempts(attempts);
            if retry::suspects(failure) {
                let outage = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(cancelled(endpoint).with_attempts(attempts)),
                    outage = self.diagnose(endpoint, &error, refusal.retry_after, &trouble) => outage,
                };
                if outage {
                    trouble.is_an_outage(self.patient);
                    continue;
                }
            }
            let Decision::Retry { after } = decision else {
                return Err(error.with_outage(retry::is_outage(failure)));
            };
            tracing::debug!(%error, ?after, "trying again");
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(cancelled(endpoint).with_attempts(attempts)),
                () = tokio::time::sleep(after) => trouble.spent += after,
            }
        }
    }
}

fn read_inbox(inbox: &Value) -> Option<Inbox> {
    let members = inbox["members"].as_array().into_iter().flatten().filter_map(integer);
    Some(Inbox {
        id: integer(&inbox["id"])?,
        name: text(&inbox["name"]),
        members: members.collect(),
        team: integer(&inbox["team"]),
    })
}

/// An integer, bare or as a string.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
