//! The HTTP client below the API client: TLS, connections, time limits.

use std::{net::IpAddr, time::Duration};

use reqwest::{Url, redirect::Policy};

use crate::config;

const MAX_CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a connection is kept with nothing to send.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Builds it; HTTP/1.1 with kept connections, rustls on ring, no redirects, no retries of its own.
pub(super) fn http_client(settings: &config::Api) -> reqwest::Result<reqwest::Client> {
    // Fails only where a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("heymarket-sync/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .gzip(true)
        .tcp_nodelay(true)
        .timeout(settings.timeout)
        .connect_timeout(settings.timeout.min(MAX_CONNECT_TIME))
        .pool_idle_timeout(MAX_IDLE)
        .pool_max_idle_per_host(settings.max_in_flight)
        .referer(false)
        // Every request is to pass the limiter, and credentials go to no other host.
        .redirect(Policy::none())
        .retry(reqwest::retry::never());
    // A proxy that the environment names cannot know our loopback.
    let builder = if is_loopback(&settings.base_url) { builder.no_proxy() } else { builder };
    builder.build()
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}
