//! A door to the sandbox that answers some requests itself.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Response};
use serde_json::Value;
use tokio::net::TcpListener;

/// Bytes of a request's body.
const REQUEST_MAX: usize = 1 << 20;

/// What an answer bears that the server did not give.
pub const REQUEST_ID: &str = "r-front";

/// The status that a request to `path` with this body is answered with, in place of the server's answer.
pub trait Rule: Fn(&str, &Value) -> Option<u16> + Clone + Send + Sync + 'static {}

impl<F: Fn(&str, &Value) -> Option<u16> + Clone + Send + Sync + 'static> Rule for F {}

/// Serves before the server at `base_url`; returns its own address. What it answers itself bears
/// [`REQUEST_ID`] and asks for no pause.
pub async fn front(base_url: String, rule: impl Rule) -> SocketAddr {
    // Fails only where a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let handler = move |request: Request| {
        let (client, base_url, rule) = (client.clone(), base_url.clone(), rule.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, REQUEST_MAX).await.unwrap();
            let asked = serde_json::from_slice(&body).unwrap_or_default();
            if let Some(status) = rule(parts.uri.path(), &asked) {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = status.try_into().unwrap();
                for (name, value) in [("x-request-id", REQUEST_ID), ("retry-after", "0")] {
                    answer.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                return answer;
            }
            let request = client
                .request(parts.method, format!("{base_url}{}", parts.uri))
                .headers(parts.headers)
                .body(body);
            // A server that is away is as a door that is closed.
            let Ok(answer) = request.send().await else {
                let mut answer = Response::new(Body::empty());
                *answer.status_mut() = 502.try_into().unwrap();
                return answer;
            };
            let (status, headers) = (answer.status(), answer.headers().clone());
            let mut relayed = Response::new(Body::from(answer.bytes().await.unwrap_or_default()));
            *relayed.status_mut() = status;
            *relayed.headers_mut() = headers;
            relayed
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}
