//! The one place that sends: authentication, rate limit, retry, size cap, time limit, request id.

mod answer;
mod transport;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{
    Url,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER},
};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    answer::{BodyFailure, check_shape, read_body, status_kind, transport_kind},
    transport::http_client,
};
use super::{
    auth::{Auth, Authorization, CredentialsError},
    endpoints::{Endpoint, PageRequest},
    error::{ApiError, ErrorKind, printable, server_message},
    limiter::{Limiter, Priority},
    model::Stream,
    retry::{self, Decision, Failure},
};
use crate::{clock, config};

/// Counter by `endpoint` and `outcome` (`ok`, or an error kind's name).
pub const REQUESTS_METRIC: &str = "heymarket_sync_api_requests_total";
/// Histogram by `endpoint`: seconds from sending to the last byte of the answer.
pub const SECONDS_METRIC: &str = "heymarket_sync_api_request_seconds";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How much of an error's body is read for the server's message.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// How much of a credential's beginning makes an echo of it.
const ECHO_LENGTH: usize = 16;

/// Talks to the source. Cheap to clone; clones share the limit, the token and the connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    base_url: Url,
    max_body: u64,
    auth: Auth,
    limiter: Limiter,
    requests: AtomicU64,
}

/// A complete answer with status 2xx.
#[derive(Clone, Debug)]
pub struct Response {
    /// Begins and ends as the JSON value that the endpoint gives; what is between is unchecked.
    pub body: Bytes,
    /// The server's clock (`Date` header), in whole seconds.
    pub server_time: Option<DateTime<Utc>>,
    pub request_id: Option<String>,
    /// How many requests this answer took.
    pub attempts: u32,
}

/// An inbox: `GET /v1/inboxes` \[V\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    pub id: i64,
    pub name: String,
}

/// The team that the credentials belong to: `GET /v1/team` \[V\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    pub id: i64,
    pub name: String,
}

impl Client {
    /// Sends nothing. Fails where no credentials are set or the HTTP client cannot be built.
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
                auth: Auth::new(credentials),
                limiter: Limiter::new(settings.requests_per_minute),
                requests: AtomicU64::new(0),
            }),
        })
    }

    /// One page of a stream; the body is a JSON array.
    pub async fn page(
        &self,
        request: &PageRequest,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Response, ApiError> {
        self.send(&Call::new(Endpoint::Page(request.stream)).with_body(&request.body()), priority, cancel)
            .await
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
            let inbox =
                |inbox: &Value| Some(Inbox { id: integer(&inbox["id"])?, name: text(&inbox["name"]) });
            inboxes.iter().map(inbox).collect()
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

    /// How many rows a stream has at the source \[V\].
    pub async fn count(
        &self,
        stream: Stream,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<u64, ApiError> {
        let call = Call::new(Endpoint::Count(stream)).with_body(&Value::Object(Default::default()));
        self.send_for(call, priority, cancel, |body| integer(body)?.try_into().ok()).await
    }

    /// How many requests left since the client was made, retries included.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// What the server's clock is ahead of ours by, to about a second; zero before the first answer.
    pub fn skew(&self) -> TimeDelta {
        self.shared.auth.skew()
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

    /// Sends `call` until it is answered, refused for good, out of attempts, or cancelled.
    async fn send(
        &self,
        call: &Call,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Response, ApiError> {
        let endpoint = call.endpoint.name();
        let (mut attempts, mut spent, mut renewed) = (0, Duration::ZERO, false);
        let cancelled = |attempts| ApiError::new(ErrorKind::Cancelled, endpoint).with_attempts(attempts);
        let unusable = |error: CredentialsError, attempts| {
            ApiError::new(ErrorKind::Credentials, endpoint).with_source(error).with_attempts(attempts)
        };
        loop {
            self.shared.limiter.acquire(priority, cancel).await.map_err(|_| cancelled(attempts))?;
            let authorization =
                self.shared.auth.authorization(clock::now()).map_err(|error| unusable(error, attempts))?;
            attempts += 1;
            self.shared.requests.fetch_add(1, Ordering::Relaxed);
            let started = Instant::now();
            let outcome = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Refusal::from(cancelled(attempts))),
                outcome = self.attempt(call, &authorization) => outcome,
            };
            let took = started.elapsed();
            spent += took;
            record(
                endpoint,
                outcome.as_ref().map_or_else(|refusal| refusal.error.kind().name(), |_| "ok"),
                took,
            );
            let refusal = match outcome {
                Ok(response) => return Ok(Response { attempts, ..response }),
                Err(refusal) => refusal,
            };
            let error = refusal.error.with_attempts(attempts);
            let failure =
                Failure { kind: error.kind(), retry_after: refusal.retry_after, attempts, spent, renewed };
            let jitter = rand::random();
            if let Some(wait) = retry::pause(failure, jitter) {
                self.shared.limiter.pause_until(Instant::now() + wait);
            }
            match retry::decide(failure, jitter) {
                Decision::GiveUp => return Err(error),
                Decision::Renew => {
                    renewed = true;
                    let fresh = self.shared.auth.renew(authorization.generation);
                    if !fresh.map_err(|error| unusable(error, attempts))? {
                        return Err(error);
                    }
                }
                Decision::Retry { after } => {
                    tracing::debug!(%error, ?after, "trying again");
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return Err(cancelled(attempts)),
                        () = tokio::time::sleep(after) => spent += after,
                    }
                }
            }
        }
    }

    /// Sends once.
    async fn attempt(&self, call: &Call, authorization: &Authorization) -> Result<Response, Refusal> {
        let endpoint = call.endpoint;
        let mut url = endpoint.url(&self.shared.base_url);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self
            .shared
            .http
            .request(endpoint.method(), url)
            .header(AUTHORIZATION, authorization.header.clone());
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let sent = clock::now();
        let mut response = request.send().await.map_err(|error| {
            ApiError::new(transport_kind(&error), endpoint.name()).with_source(error.without_url())
        })?;
        let received = clock::now();

        let headers = response.headers();
        let server_time = header(headers, DATE).and_then(retry::http_date);
        let request_id = header(headers, REQUEST_ID).map(printable);
        let status = response.status();
        if let Some(date) = server_time {
            match status.as_u16() {
                401 => self.shared.auth.relearn(date, received),
                _ => self.shared.auth.observe(date, sent, received),
            }
        }
        let refused =
            |kind| ApiError::new(kind, endpoint.name()).with_response(status.as_u16(), request_id.clone());
        if !status.is_success() {
            let retry_after = header(headers, RETRY_AFTER)
                .and_then(|value| retry::retry_after(value, server_time.unwrap_or(received)));
            let error = refused(status_kind(status.as_u16()));
            let error = if status.is_redirection() {
                let target =
                    header(headers, LOCATION).and_then(|target| self.shared.base_url.join(target).ok());
                error.with_redirect_host(target.and_then(|target| target.host_str().map(printable)))
            } else {
                let body = read_body(&mut response, MAX_ERROR_BODY).await.unwrap_or_default();
                error.with_server_message(server_message(&body).filter(|message| {
                    // A server that echoes the credential must not bring it into a log.
                    !echoes(message, authorization)
                }))
            };
            return Err(Refusal { error, retry_after });
        }
        let body = read_body(&mut response, self.shared.max_body).await.map_err(|failure| match failure {
            BodyFailure::TooLarge => refused(ErrorKind::TooLarge),
            BodyFailure::Broken(error) => refused(transport_kind(&error)).with_source(error.without_url()),
        })?;
        if let Err(kind) = check_shape(&body, endpoint.shape()) {
            return Err(refused(kind).into());
        }
        Ok(Response { body, server_time, request_id, attempts: 1 })
    }
}

/// One call, as each of its attempts sends it.
struct Call {
    endpoint: Endpoint,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
}

impl Call {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, query: Vec::new(), body: None }
    }

    fn with_body(self, body: &Value) -> Self {
        Self { body: Some(body.to_string().into()), ..self }
    }
}

/// A failed attempt, and when the server wants the next.
struct Refusal {
    error: ApiError,
    retry_after: Option<Duration>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, retry_after: None }
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether `message` repeats the bearer token, or a cut off beginning of it.
fn echoes(message: &str, authorization: &Authorization) -> bool {
    let bearer = authorization.header.to_str().unwrap_or_default().trim_start_matches("Bearer ");
    message.contains(&bearer[..bearer.len().min(ECHO_LENGTH)])
}

fn record(endpoint: &'static str, outcome: &'static str, took: Duration) {
    metrics::counter!(REQUESTS_METRIC, "endpoint" => endpoint, "outcome" => outcome).increment(1);
    metrics::histogram!(SECONDS_METRIC, "endpoint" => endpoint).record(took.as_secs_f64());
}

/// An integer, bare or as a string.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
