//! One request and its answer: sent once, read whole, and judged.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Client, Response,
    answer::{BodyFailure, MAX_SMALL_BODY, check_shape, read_body, status_kind, transport_kind},
    room::Turn,
};
use crate::{
    api::{
        auth::Authorization,
        endpoints::{Endpoint, PageRequest},
        error::{ApiError, ErrorKind, printable, server_message},
        limiter::Priority,
        model::UnreadableBody,
        retry,
    },
    clock,
};

/// Counter by `endpoint` and `outcome` (`ok`, or an error kind's name).
pub const REQUESTS_METRIC: &str = "heymarket_sync_api_requests_total";
/// Histogram by `endpoint`: seconds from sending to the last byte of the answer.
pub const SECONDS_METRIC: &str = "heymarket_sync_api_request_seconds";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How much of an error's body is read for the server's message.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// How much of a credential's beginning makes an echo of it.
const ECHO_LENGTH: usize = 16;

/// One call, as each of its attempts sends it.
pub(super) struct Call {
    pub endpoint: Endpoint,
    pub query: Vec<(&'static str, String)>,
    pub body: Option<Bytes>,
    /// It leaves whether the secret's team is known or not: what it brings is not part of the mirror.
    pub unguarded: bool,
}

impl Call {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, query: Vec::new(), body: None, unguarded: false }
    }

    pub fn page(request: &PageRequest) -> Self {
        Self::new(Endpoint::Page(request.stream)).with_body(&request.body())
    }

    pub fn unguarded(self) -> Self {
        Self { unguarded: true, ..self }
    }

    pub fn with_body(self, body: &Value) -> Self {
        Self { body: Some(body.to_string().into()), ..self }
    }
}

/// A failed attempt. Its error counts one attempt if a request left.
pub(super) struct Refusal {
    pub error: ApiError,
    /// From sending to the failure.
    pub took: Duration,
    /// When the server wants the next.
    pub retry_after: Option<Duration>,
    /// The token that was sent.
    pub generation: Option<u64>,
    /// Nothing was sent: the secret changed, and its team is not known yet.
    pub unadmitted: bool,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, took: Duration::ZERO, retry_after: None, generation: None, unadmitted: false }
    }
}

pub(super) fn cancelled(endpoint: Endpoint) -> ApiError {
    ApiError::new(ErrorKind::Cancelled, endpoint.name())
}

/// An average in which each new measurement counts an eighth.
#[derive(Default)]
pub(super) struct Latency {
    micros: AtomicU64,
}

impl Latency {
    pub fn smoothed(&self) -> Duration {
        Duration::from_micros(self.micros.load(Relaxed))
    }

    pub fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 8).max(1);
        let before = self.micros.load(Relaxed);
        let smoothed = if before == 0 { micros } else { (before.saturating_mul(7) + micros) / 8 };
        self.micros.store(smoothed, Relaxed);
    }
}

impl Client {
    /// Waits for its turn, sends `call` once, and reads the whole answer.
    pub(super) async fn exchange(
        &self,
        call: &Call,
        priority: Priority,
        cancel: &CancellationToken,
    ) -> Result<Response, Refusal> {
        let (shared, endpoint) = (&self.shared, call.endpoint);
        let (_place, turn) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(cancelled(endpoint).into()),
            under_way = async {
                let turn = match endpoint.brings_rows() {
                    true => Some(shared.room.reserve().await),
                    false => None,
                };
                // Never closed: a place is missing only then.
                (shared.in_flight.acquire().await.ok(), turn)
            } => under_way,
        };
        shared.limiter.acquire(priority, cancel).await.map_err(|_| cancelled(endpoint))?;
        let authorization = shared
            .auth
            .authorization(clock::now() + shared.clock.offset().unwrap_or_default())
            .map_err(|error| ApiError::new(ErrorKind::Credentials, endpoint.name()).with_source(error))?;
        if !call.unguarded && !self.is_admitted(authorization.secret) {
            return Err(Refusal { unadmitted: true, ..cancelled(endpoint).into() });
        }
        shared.requests.fetch_add(1, Relaxed);
        let sent = Instant::now();
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(cancelled(endpoint).into()),
            outcome = self.ask(call, &authorization, turn) => outcome,
        };
        let took = sent.elapsed();
        let told = outcome.as_ref().map_or_else(|refusal| refusal.error.kind().name(), |_| "ok");
        metrics::counter!(REQUESTS_METRIC, "endpoint" => endpoint.name(), "outcome" => told).increment(1);
        metrics::histogram!(SECONDS_METRIC, "endpoint" => endpoint.name()).record(took.as_secs_f64());
        match outcome {
            Ok(response) => {
                shared.availability.answered(endpoint);
                Ok(Response { took, secret: authorization.secret, ..response })
            }
            Err(refusal) => Err(Refusal {
                error: refusal.error.with_attempts(1),
                took,
                generation: Some(authorization.generation),
                ..refusal
            }),
        }
    }

    async fn ask(
        &self,
        call: &Call,
        authorization: &Authorization,
        mut turn: Option<Turn>,
    ) -> Result<Response, Refusal> {
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
                401 => self.shared.clock.relearn(date, sent, received),
                _ => self.shared.clock.observe(date, sent, received),
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
                let body = read_body(&mut response, MAX_ERROR_BODY, None).await.unwrap_or_default();
                error.with_server_message(server_message(&body).filter(|message| {
                    // A server that echoes the credential must not bring it into a log.
                    !echoes(message, authorization)
                }))
            };
            return Err(Refusal { retry_after, ..error.into() });
        }
        let max_body = match endpoint.brings_rows() {
            true => self.shared.max_body,
            false => self.shared.max_body.min(MAX_SMALL_BODY),
        };
        let room = &self.shared.room;
        let read = read_body(&mut response, max_body, turn.as_mut().map(|turn| (room, turn))).await;
        let body = read.map_err(|failure| match failure {
            BodyFailure::TooLarge => refused(ErrorKind::TooLarge),
            BodyFailure::Broken(error) => refused(transport_kind(&error)).with_source(error.without_url()),
        })?;
        if let Err(kind) = check_shape(&body, endpoint.shape()) {
            return Err(refused(kind).with_body(UnreadableBody::of(&body)).into());
        }
        let room = turn.map(|turn| room.settle(turn, body.len()));
        Ok(Response { body, room, server_time, request_id, attempts: 1, took: Duration::ZERO, secret: 0 })
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
