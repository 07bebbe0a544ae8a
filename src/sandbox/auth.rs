//! Who may ask: signed tokens \[S\], or the legacy team key \[V\].

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

/// A token is dead this long after its `iat` \[S\].
const TOKEN_LIFETIME: TimeDelta = TimeDelta::minutes(5);
/// How far in the server's future an `iat` may lie; the documents name no figure.
const FUTURE_LEEWAY: TimeDelta = TimeDelta::seconds(60);

/// An API secret of the team.
#[derive(Clone, PartialEq, Eq)]
pub struct SandboxSecret {
    pub id: String,
    pub key: String,
}

/// What the sandbox accepts: any of the secrets (two are live during a rotation \[V\]), or the team key.
#[derive(Clone, PartialEq, Eq)]
pub struct SandboxCredentials {
    pub secrets: Vec<SandboxSecret>,
    pub team_key: Option<String>,
}

impl SandboxCredentials {
    pub const DEMO_SECRET_ID: &'static str = "sandbox-id";
    pub const DEMO_SECRET_KEY: &'static str = "sandbox-key-for-trying-things-out";
    pub const DEMO_TEAM_KEY: &'static str = "sandbox-team-key";

    /// One secret and no team key.
    pub fn secret(id: impl Into<String>, key: impl Into<String>) -> Self {
        Self { secrets: vec![SandboxSecret { id: id.into(), key: key.into() }], team_key: None }
    }

    /// Which credential the value of an `Authorization` header proves; `None` refuses it.
    pub(super) fn accept(&self, authorization: &str, now: DateTime<Utc>) -> Option<Key> {
        let bearer = authorization.strip_prefix("Bearer ")?;
        if self.team_key.as_deref() == Some(bearer) {
            return Some(Key::Team);
        }
        self.secrets.iter().position(|secret| secret.signed(bearer, now)).map(Key::Secret)
    }
}

impl Default for SandboxCredentials {
    /// The demo credentials; their values are public.
    fn default() -> Self {
        Self {
            team_key: Some(Self::DEMO_TEAM_KEY.to_owned()),
            ..Self::secret(Self::DEMO_SECRET_ID, Self::DEMO_SECRET_KEY)
        }
    }
}

/// A credential that was accepted: each has a quota of its own \[V\].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Secret(usize),
    Team,
}

impl SandboxSecret {
    fn signed(&self, token: &str, now: DateTime<Utc>) -> bool {
        let secret = format!("{}||{}", self.id, self.key);
        let mut rules = Validation::new(Algorithm::HS256);
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.set_issuer(&[&self.id]);
        let Ok(token) = decode::<Claims>(token, &DecodingKey::from_secret(secret.as_bytes()), &rules) else {
            return false;
        };
        let Some(issued) = DateTime::from_timestamp(token.claims.iat, 0) else {
            return false;
        };
        token.claims.iss == self.id && now - issued < TOKEN_LIFETIME && issued - now <= FUTURE_LEEWAY
    }
}

#[derive(Clone, Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    // Signed with "id||key" by an independent HMAC-SHA256: header {"alg":"HS256","typ":"JWT"}, claims
    // {"iss":"id","iat":1700000000}.
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJpZCIsImlhdCI6MTcwMDAwMDAwMH0.klRsFMq7yW6h9CIFiEqIoKJF-res44Asoj_0mBhvTKQ";

    #[test]
    fn tokens_are_checked() {
        let right =
            SandboxCredentials { team_key: Some("team".into()), ..SandboxCredentials::secret("id", "key") };
        let bearer = format!("Bearer {TOKEN}");
        for (authorization, seconds, accepted) in [
            (bearer.as_str(), 0, Some(Key::Secret(0))),
            (bearer.as_str(), 299, Some(Key::Secret(0))),
            (bearer.as_str(), 300, None),
            (bearer.as_str(), -60, Some(Key::Secret(0))),
            (bearer.as_str(), -61, None),
            (TOKEN, 0, None),
            ("Bearer team", 0, Some(Key::Team)),
            ("Bearer other", 0, None),
            ("Bearer ", 0, None),
        ] {
            let now = DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap();
            assert_eq!(right.accept(authorization, now), accepted, "{authorization} at {seconds}");
        }
    }

    #[test]
    fn another_secret_refuses_the_token() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let bearer = format!("Bearer {TOKEN}");
        for (id, key) in [("id", "other"), ("other", "key"), ("", "key")] {
            assert_eq!(SandboxCredentials::secret(id, key).accept(&bearer, now), None);
        }
        let mut rotated = SandboxCredentials::secret("new", "new key");
        rotated.secrets.push(SandboxSecret { id: "id".into(), key: "key".into() });
        assert_eq!(rotated.accept(&bearer, now), Some(Key::Secret(1)));
    }
}
