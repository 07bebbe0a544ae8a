//! What can go wrong when the source is asked.

use std::{fmt, sync::Arc};

use super::model::UnreadableBody;

/// Longest text of the server's that an error repeats, in characters.
const MAX_SERVER_TEXT: usize = 200;

/// Why a call of the API failed. Decides whether another try can help (see `retry`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A 4xx answer that has no kind of its own: the request is wrong.
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    RateLimited,
    /// A 5xx answer.
    Server,
    Timeout,
    /// No connection: refused, unreachable, name not found.
    Connect,
    Tls,
    /// The connection broke, or the body ended early or could not be decompressed.
    Body,
    /// A 2xx answer whose body is not the JSON value that the endpoint gives.
    NotJson,
    /// The body is larger than `api.max_body`.
    TooLarge,
    /// A 3xx answer; redirects are not followed.
    Redirect,
    /// The caller asked to stop.
    Cancelled,
    /// A credential is not set, or cannot be read or sent.
    Credentials,
    /// The HTTP client could not be built.
    Setup,
}

impl ErrorKind {
    /// The name used in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::Server => "server",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Body => "body",
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
            Self::Redirect => "redirect",
            Self::Cancelled => "cancelled",
            Self::Credentials => "credentials",
            Self::Setup => "setup",
        }
    }

    /// What failed, and what to do where somebody can do something.
    fn explanation(self) -> &'static str {
        match self {
            Self::BadRequest => "the API refused the request as wrong",
            Self::Unauthorized => {
                "the API refused the credentials; check that api.secret_id and api.secret_key (or api.key) \
                 are current and belong together, and that this machine's clock is right"
            }
            Self::Forbidden => "these credentials may not use this endpoint; ask for access in Heymarket",
            Self::NotFound => "the API knows nothing at this address; check api.base_url",
            Self::RateLimited => {
                "the API's rate limit is used up; lower api.requests_per_minute if others share the key"
            }
            Self::Server => "the API failed",
            Self::Timeout => "no complete answer within api.timeout",
            Self::Connect => "no connection; check api.base_url, name resolution and the network",
            Self::Tls => "the TLS connection failed; check api.base_url, proxies and trusted certificates",
            Self::Body => "the answer broke off or could not be decoded",
            Self::NotJson => "the answer is not the JSON that this endpoint gives",
            Self::TooLarge => "the answer is larger than api.max_body",
            Self::Redirect => "the API redirects, which is not followed; check api.base_url",
            Self::Cancelled => "cancelled",
            Self::Credentials => "the API credentials cannot be used",
            Self::Setup => "the HTTP client could not be set up",
        }
    }
}

/// A failed call. Holds neither secrets nor anything of the request's content; `Display` is one level,
/// the rest is in `source()`.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ApiError {
    kind: ErrorKind,
    endpoint: &'static str,
    status: Option<u16>,
    request_id: Option<String>,
    attempts: u32,
    server_message: Option<Box<str>>,
    redirect_host: Option<Box<str>>,
    body: Option<Arc<UnreadableBody>>,
    outage: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl ApiError {
    pub(super) fn new(kind: ErrorKind, endpoint: &'static str) -> Self {
        Self {
            kind,
            endpoint,
            status: None,
            request_id: None,
            attempts: 0,
            server_message: None,
            redirect_host: None,
            body: None,
            outage: false,
            source: None,
        }
    }

    pub(super) fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    pub(super) fn with_response(mut self, status: u16, request_id: Option<String>) -> Self {
        self.status = Some(status);
        self.request_id = request_id;
        self
    }

    pub(super) fn with_server_message(mut self, message: Option<String>) -> Self {
        self.server_message = message.map(Into::into);
        self
    }

    pub(super) fn with_redirect_host(mut self, host: Option<String>) -> Self {
        self.redirect_host = host.map(Into::into);
        self
    }

    pub(super) fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    pub(super) fn with_body(mut self, body: UnreadableBody) -> Self {
        self.body = Some(Arc::new(body));
        self
    }

    pub(super) fn with_outage(mut self, outage: bool) -> Self {
        self.outage = outage;
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Nobody is served, or not with these credentials: another request would fail as well. Otherwise the endpoint
    /// answers, and the failure is this request's own.
    pub fn is_outage(&self) -> bool {
        self.outage
    }

    /// Method and path, without ids; `"setup"` before the first request.
    pub fn endpoint(&self) -> &'static str {
        self.endpoint
    }

    /// The HTTP status of the last attempt, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// The server's `X-Request-Id` of the last attempt; the vendor's support asks for it \[V\].
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// How many requests were sent for this call.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The body of the last attempt, where there was a whole one that is not what the endpoint gives.
    pub fn body(&self) -> Option<&UnreadableBody> {
        self.body.as_deref()
    }

    /// The `error` and `message` fields of the server's answer, at most 200 characters.
    pub fn server_message(&self) -> Option<&str> {
        self.server_message.as_deref()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.kind.explanation())?;
        let mut facts = Vec::new();
        facts.extend(self.status.map(|status| format!("status {status}")));
        facts.extend(self.server_message.as_ref().map(|message| format!("server says {message:?}")));
        facts.extend(self.redirect_host.as_ref().map(|host| format!("to host {host:?}")));
        facts.extend(self.request_id.as_ref().map(|id| format!("request id {id}")));
        if self.attempts > 1 {
            facts.push(format!("{} attempts", self.attempts));
        }
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

/// The short code fields of a JSON error body, fit for an error message; `None` where there are none.
pub(super) fn server_message(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let fields: Vec<&str> = ["error", "message"].into_iter().filter_map(|name| body[name].as_str()).collect();
    Some(printable(&fields.join(": "))).filter(|message| !message.is_empty())
}

/// `text` without control characters, cut to a length that a log line bears.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SERVER_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_endpoint_status_message_request_id_and_attempts() {
        let error = ApiError::new(ErrorKind::Server, "GET /v1/inboxes")
            .with_response(503, Some("r-1".into()))
            .with_server_message(Some("over \"load\"".into()))
            .with_attempts(4);
        assert_eq!(
            error.to_string(),
            "GET /v1/inboxes: the API failed (status 503, server says \"over \\\"load\\\"\", request id r-1, \
             4 attempts)"
        );
    }

    #[test]
    fn an_error_with_no_answer_is_plain() {
        let error = ApiError::new(ErrorKind::Cancelled, "GET /v1/team").with_attempts(1);
        assert_eq!(error.to_string(), "GET /v1/team: cancelled");
    }

    #[test]
    fn a_server_message_is_only_short_code_fields() {
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(500));
        let cases: [(&str, Option<String>); 8] = [
            (r#"{"error":"bad_data"}"#, Some("bad_data".into())),
            (r#"{"message":"No","error":"bad_data","text":"hi Ann"}"#, Some("bad_data: No".into())),
            (r#"{"error":{"text":"hi Ann"}}"#, None),
            (r#"{"error":"a\nb\u0007"}"#, Some("ab".into())),
            (r#"["error"]"#, None),
            ("<html>", None),
            ("", None),
            (&long, Some("x".repeat(MAX_SERVER_TEXT))),
        ];
        for (body, message) in cases {
            assert_eq!(server_message(body.as_bytes()), message, "{body}");
        }
    }
}
