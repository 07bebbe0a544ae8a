//! Credentials, clocks and the rate limit.

use chrono::{DateTime, TimeDelta};
use heymarket_sync::sandbox::{Endpoint, RateLimit, SandboxCredentials, SandboxOptions};
use reqwest::{StatusCode, header};
use serde_json::Value;

use crate::{Client, options, token};

#[tokio::test]
async fn credentials_are_checked() {
    let client = Client::new(options()).await;
    let now = heymarket_sync::clock::now();
    let (id, key) = (SandboxCredentials::DEMO_SECRET_ID, SandboxCredentials::DEMO_SECRET_KEY);
    let ask = async |bearer: &str| {
        let response = client.http.get(client.url("/v1/inboxes")).bearer_auth(bearer).send().await.unwrap();
        response.status()
    };
    let minutes = TimeDelta::minutes;
    for (bearer, status) in [
        (token(id, key, now), StatusCode::OK),
        (token(id, key, now - minutes(4)), StatusCode::OK),
        (token(id, key, now - minutes(6)), StatusCode::UNAUTHORIZED),
        (token(id, key, now + minutes(2)), StatusCode::UNAUTHORIZED),
        (token(id, "other", now), StatusCode::UNAUTHORIZED),
        (token("other", key, now), StatusCode::UNAUTHORIZED),
        (SandboxCredentials::DEMO_TEAM_KEY.to_owned(), StatusCode::OK),
        ("nonsense".to_owned(), StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(ask(&bearer).await, status);
    }
    let bare = client.http.get(client.url("/v1/inboxes")).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bare.json::<Value>().await.unwrap()["error"], "unauthorized");
    assert_eq!(client.state().counters().unauthorized, 6);

    client.state().set_credentials(SandboxCredentials::secret("new", "key"));
    assert_eq!(ask(&token(id, key, now)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&token("new", "key", now)).await, StatusCode::OK);
}

#[tokio::test]
async fn a_skewed_clock_shows_in_the_date_and_refuses_tokens() {
    let client = Client::new(options()).await;
    client.state().set_clock_skew(TimeDelta::hours(-2));
    let refused = client.get("/v1/inboxes").await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let date = refused.headers()[header::DATE].to_str().unwrap();
    let behind = heymarket_sync::clock::now() - DateTime::parse_from_rfc2822(date).unwrap().to_utc();
    assert!((TimeDelta::minutes(119)..TimeDelta::minutes(121)).contains(&behind), "{behind}");
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused() {
    let rate_limit = RateLimit { per_minute: Some(3), retry_after: true };
    let client = Client::new(SandboxOptions { rate_limit, ..options() }).await;
    for _ in 0..3 {
        assert_eq!(client.get("/v1/inboxes").await.status(), StatusCode::OK);
    }
    let refused = client.get("/v1/inboxes").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"], "rate_limited");

    client.state().set_rate_limit(RateLimit { retry_after: false, ..rate_limit });
    let refused = client.get("/v1/inboxes").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(!refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(client.state().counters().rate_limited, 2);
    assert_eq!(client.state().counters().requests_to(Endpoint::Inboxes), 5);

    client.state().set_rate_limit(RateLimit { per_minute: None, retry_after: true });
    assert_eq!(client.get("/v1/inboxes").await.status(), StatusCode::OK);
}
