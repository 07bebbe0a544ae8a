//! The HTTP side: routes, admission, answers, and faults in their place.

use std::io;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Query, Request},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use chrono::DateTime;
use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;

use super::{
    connection::Connection,
    endpoint::Endpoint,
    fault::Fault,
    json::{self, Object},
    paging::PageRead,
    state::SandboxState,
};

/// Bytes of each piece of a body that never ends.
const ENDLESS_CHUNK: usize = 16 * 1024;
/// Bytes of a request body.
const REQUEST_MAX: usize = 64 * 1024;
/// Rows of one conversation's history \[V\].
const HISTORY_MAX: usize = 50;
/// What a row takes in a page, about: the buffer's first size.
const ROW_BYTES: usize = 1_300;
/// Rows that a page's buffer is made for at once.
const RESERVED_ROWS: usize = 1_000;

pub(super) fn router(state: &SandboxState, stopped: &CancellationToken) -> Router {
    let on = |endpoint: Endpoint| {
        let (state, stopped) = (state.clone(), stopped.clone());
        move |ConnectInfo(connection): ConnectInfo<Connection>, request: Request| {
            let (state, stopped) = (state.clone(), stopped.clone());
            async move { serve(&state, &stopped, endpoint, &connection, request).await }
        }
    };
    let unknown = state.clone();
    let wrong_method = state.clone();
    let router = Router::new()
        .route("/v1/messages/all", post(on(Endpoint::Messages)))
        .route("/v1/conversations", post(on(Endpoint::Conversations)))
        .route("/v1/contacts", post(on(Endpoint::Contacts)))
        .route("/v1/messages", get(on(Endpoint::History)))
        .route("/v1/conversations/{id}", get(on(Endpoint::Conversation)))
        .route("/v1/inboxes", get(on(Endpoint::Inboxes)))
        .route("/v1/team", get(on(Endpoint::Team)))
        .route("/v1/messages/all/count", post(on(Endpoint::MessagesCount)))
        .route("/v1/conversations/count", post(on(Endpoint::ConversationsCount)))
        .route("/v1/contacts/count", post(on(Endpoint::ContactsCount)))
        .method_not_allowed_fallback(async move || {
            stamped(&wrong_method, Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no such method").answer())
        })
        .fallback(async move || {
            stamped(&unknown, Refusal::new(StatusCode::NOT_FOUND, "no such endpoint").answer())
        });
    if state.gzip() { router.layer(CompressionLayer::new()) } else { router }
}

async fn serve(
    state: &SandboxState,
    stopped: &CancellationToken,
    endpoint: Endpoint,
    connection: &Connection,
    request: Request,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let state = &state.of(authorization.unwrap_or_default());
    state.observed().enter(endpoint);
    state.arrive();
    let _visit = Visit(state);
    let answered = tokio::select! {
        answered = answer(state, stopped, endpoint, connection, request) => answered,
        () = stopped.cancelled() => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the sandbox is stopping"))
        }
    };
    stamped(state, answered.unwrap_or_else(Refusal::answer))
}

/// A request in the house; it leaves also when its client does.
struct Visit<'a>(&'a SandboxState);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.observed().leave();
    }
}

async fn answer(
    state: &SandboxState,
    stopped: &CancellationToken,
    endpoint: Endpoint,
    connection: &Connection,
    request: Request,
) -> Result<Response, Refusal> {
    admit(state, request.headers())?;
    let latency = state.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = state.next_fault(endpoint);
    if let Some(fault) = fault {
        state.observed().counters.faults += 1;
        if let Some(response) = instead(fault, stopped, connection, request.uri()).await? {
            return Ok(response);
        }
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, REQUEST_MAX).await.map_err(|_| Refusal::bad_data("the body is too long"))?;
    let content = content(state, endpoint, fault, &parts.uri, &body).inspect_err(|refusal| {
        if refusal.status == StatusCode::BAD_REQUEST {
            state.observed().counters.bad_data += 1;
        }
    })?;
    Ok(match fault {
        Some(Fault::Truncated) => truncated(content),
        Some(Fault::Oversized(bytes)) => answer_json(StatusCode::OK, padded(content, bytes)),
        _ => answer_json(StatusCode::OK, content),
    })
}

fn admit(state: &SandboxState, headers: &HeaderMap) -> Result<(), Refusal> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(key) = authorization.and_then(|authorization| state.accept(authorization)) else {
        state.observed().counters.unauthorized += 1;
        let message = "the Authorization header holds no valid token";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    };
    state.admit(key).map_err(|wait| {
        state.observed().counters.rate_limited += 1;
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests in a minute");
        refusal.retry_after =
            wait.map(|wait| u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1));
        refusal
    })
}

/// The answer of a fault that needs no rows; `None` where the real answer is to be spoilt.
async fn instead(
    fault: Fault,
    stopped: &CancellationToken,
    connection: &Connection,
    uri: &Uri,
) -> Result<Option<Response>, Refusal> {
    match fault {
        Fault::TooManyRequests { retry_after } => {
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests, by request");
            Err(Refusal { retry_after, ..refusal })
        }
        Fault::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Refusal::new(status, "an error, by request"))
        }
        Fault::Hang => std::future::pending().await,
        Fault::Reset => {
            connection.reset();
            Ok(Some(Response::new(Body::empty())))
        }
        Fault::Html => {
            let mut response = Response::new(Body::from("<html><body><h1>Be right back</h1></body></html>"));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
            Ok(Some(response))
        }
        Fault::NoBody => Ok(Some(Response::new(Body::empty()))),
        Fault::EmptyArray => Ok(Some(answer_json(StatusCode::OK, b"[]".to_vec()))),
        Fault::Zero => Ok(Some(answer_json(StatusCode::OK, b"\"0\"".to_vec()))),
        Fault::Object => Ok(Some(answer_json(StatusCode::OK, b"{}".to_vec()))),
        Fault::Null => Ok(Some(answer_json(StatusCode::OK, b"null".to_vec()))),
        Fault::Endless => Ok(Some(endless(stopped.clone()))),
        Fault::Redirect(host) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::FOUND;
            let path = uri.path();
            let target = HeaderValue::try_from(format!("http://{host}{path}"));
            response
                .headers_mut()
                .insert(header::LOCATION, target.expect("invariant: an address and a path are plain ASCII"));
            Ok(Some(response))
        }
        Fault::Truncated | Fault::Oversized(_) | Fault::OtherTeam(_) => Ok(None),
    }
}

fn content(
    state: &SandboxState,
    endpoint: Endpoint,
    fault: Option<Fault>,
    uri: &Uri,
    body: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let paging = state.paging();
    let mut out = Vec::new();
    let team = state.team();
    let team_id = match fault {
        Some(Fault::OtherTeam(id)) => id,
        _ => team.id,
    };
    match endpoint {
        Endpoint::Messages | Endpoint::Conversations | Endpoint::Contacts => {
            let mut page = PageRead::parse(endpoint, body, &paging).map_err(Refusal::bad_data)?;
            page.check_id(&team, &paging).map_err(Refusal::bad_data)?;
            out.reserve(paging.page_rows(page.limit).min(RESERVED_ROWS) * ROW_BYTES);
            let mut disturbance = state.next_disturbance();
            page.write(&team, &paging, &mut disturbance, &mut out);
            drop(team);
            state.observed().page(page);
        }
        Endpoint::History => {
            let Query(asked) =
                Query::<History>::try_from_uri(uri).map_err(|error| Refusal::bad_data(error.body_text()))?;
            let latest = match asked.timestamp {
                // The whole second is meant.
                Some(seconds) => Some(
                    DateTime::from_timestamp(seconds, 999_999_999)
                        .ok_or_else(|| Refusal::bad_data("timestamp is out of range"))?,
                ),
                None => None,
            };
            let found = team.history(asked.inbox, &asked.phone, latest, HISTORY_MAX);
            state.observed().counters.rows += found.len() as u64;
            json::array(&mut out, found, |out, slot| team.write_message(out, team.messages().at(slot)));
        }
        Endpoint::Conversation => {
            let id = uri.path().rsplit('/').next().and_then(|id| id.parse().ok());
            let id: i64 = id.ok_or_else(|| Refusal::bad_data("the conversation's id is no number"))?;
            let conversation = team.conversations().get(id);
            let conversation = conversation
                .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such conversation"))?;
            team.write_conversation(&mut out, conversation);
        }
        Endpoint::Inboxes => team.write_inboxes(&mut out, team_id),
        Endpoint::Team => team.write_team(&mut out, team_id),
        Endpoint::MessagesCount | Endpoint::ConversationsCount | Endpoint::ContactsCount => {
            let counted = match endpoint {
                Endpoint::ConversationsCount => Endpoint::Conversations,
                Endpoint::ContactsCount => Endpoint::Contacts,
                _ => Endpoint::Messages,
            };
            let page = PageRead::parse(counted, body, &paging).map_err(Refusal::bad_data)?;
            page.check_id(&team, &paging).map_err(Refusal::bad_data)?;
            json::text(&mut out, &page.count(&team, &paging).to_string());
        }
    }
    Ok(out)
}

#[derive(Deserialize)]
struct History {
    #[serde(rename = "phoneNumber")]
    phone: String,
    #[serde(rename = "inboxID")]
    inbox: i64,
    timestamp: Option<i64>,
}

struct Refusal {
    status: StatusCode,
    message: String,
    /// Seconds.
    retry_after: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    fn bad_data(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn answer(self) -> Response {
        let error = match self.status {
            StatusCode::BAD_REQUEST => "bad_data",
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::TOO_MANY_REQUESTS => "rate_limited",
            _ => "internal",
        };
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.text("error", error);
        object.text("message", &self.message);
        object.close();
        let mut response = answer_json(self.status, out);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn answer_json(status: StatusCode, content: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(content));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `[` and white space until the client leaves or the sandbox stops.
fn endless(stopped: CancellationToken) -> Response {
    let blanks = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b' '; ENDLESS_CHUNK])));
    let first = stream::once(async { Ok(Bytes::from_static(b"[")) });
    let body = first.chain(blanks).take_until(stopped.cancelled_owned());
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// White space after the first byte, so that a reader gets through it before anything else.
fn padded(mut content: Vec<u8>, bytes: usize) -> Vec<u8> {
    let missing = bytes.saturating_sub(content.len());
    if !content.is_empty() {
        content.splice(1..1, std::iter::repeat_n(b' ', missing));
    }
    content
}

fn truncated(mut content: Vec<u8>) -> Response {
    let length = content.len();
    content.truncate(length / 2);
    let half = stream::once(async move { Ok(content) });
    // Yielding first lets what came before be flushed; an error right away would take it along.
    let cut = stream::once(async {
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    });
    let mut response = Response::new(Body::from_stream(half.chain(cut)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn stamped(state: &SandboxState, mut response: Response) -> Response {
    let headers = response.headers_mut();
    let id = format!("sandbox-{:08x}", state.next_request_id());
    for (name, value) in
        [("x-request-id", id), ("date", state.told_time().format("%a, %d %b %Y %H:%M:%S GMT").to_string())]
    {
        headers.insert(name, HeaderValue::try_from(value).expect("invariant: both are plain ASCII"));
    }
    response
}
