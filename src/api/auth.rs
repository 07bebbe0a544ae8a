//! Who we are to the source: a short-lived JWT, or the legacy team key \[S, V\].

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::config::{Credentials, SecretError, SecretSource};

/// How long a token is used. It dies 5 minutes after its `iat` \[S\].
const TOKEN_LIFE: Duration = Duration::from_secs(240);

/// How far `iat` stays behind the server's clock as we know it; an `iat` in its future may be refused \[V\].
const IAT_MARGIN: TimeDelta = TimeDelta::seconds(1);

/// How often secret files are looked at for a change.
const FILE_CHECK: Duration = Duration::from_secs(1);

/// A secret that cannot be used. Names the file, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("no credentials are set; set api.secret_id and api.secret_key, or api.key")]
    Unset,
    #[error("the {name} cannot be used")]
    Secret { name: &'static str, source: SecretError },
    #[error("the secret file {} is gone", path.display())]
    Gone { path: PathBuf, source: io::Error },
    #[error("the team key holds characters that a header cannot carry")]
    Unsendable,
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// The value of the `Authorization` header, and which one of its kind it is.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// Marked sensitive.
    pub header: HeaderValue,
    /// Grows with each new token.
    pub generation: u64,
    /// Which secret it was made from: grows with each secret that differs from the one before.
    pub secret: u64,
}

/// Makes and keeps the token.
pub struct Auth {
    credentials: Credentials,
    state: Mutex<State>,
}

struct State {
    generation: u64,
    token: Option<Token>,
    secret: Option<Secret>,
}

struct Token {
    header: HeaderValue,
    made: Instant,
}

/// What the credentials say, as last read.
struct Secret {
    kind: SecretKind,
    text: SecretString,
    /// See [`Authorization::secret`].
    number: u64,
    stamp: Stamp,
    checked: Instant,
    /// The last look failed, and that was said.
    unreadable: bool,
}

enum SecretKind {
    Signing { id: String, key: EncodingKey },
    TeamKey(SecretString),
}

/// What shows that a secret file changed: modification time and length of each.
type Stamp = Vec<(Option<SystemTime>, u64)>;

impl Auth {
    pub fn new(credentials: Credentials) -> Self {
        let state = State { generation: 0, token: None, secret: None };
        Self { credentials, state: Mutex::new(state) }
    }

    /// The header for a request that leaves at `now`, by the server's clock as far as it is known. Changed secret files are noticed within
    /// a second; one that cannot be read just then leaves the last secret in use.
    pub fn authorization(&self, now: DateTime<Utc>) -> Result<Authorization, CredentialsError> {
        let mut state = self.state();
        self.look(&mut state)?;
        state.current(now)
    }

    /// The number of the secret that the next request would be signed with; looks at the files as
    /// [`Self::authorization`] does.
    pub fn secret(&self) -> Result<u64, CredentialsError> {
        self.look(&mut self.state())
    }

    /// After a 401 to the token of `generation`: reads the secrets again and makes a fresh token, unless
    /// another caller already did. Tells whether the next request will bear another token than the refused.
    pub fn renew(&self, generation: u64) -> Result<bool, CredentialsError> {
        let mut state = self.state();
        if state.generation != generation {
            return Ok(true);
        }
        let fresh = self.read(state.secret.as_ref())?;
        let same = match (&fresh.kind, state.secret.as_ref().map(|secret| &secret.kind)) {
            (SecretKind::TeamKey(new), Some(SecretKind::TeamKey(old))) => {
                new.expose_secret() == old.expose_secret()
            }
            _ => false,
        };
        state.secret = Some(fresh);
        if !same {
            state.token = None;
        }
        Ok(!same)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is an assignment of a whole value, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, state: &mut State) -> Result<u64, CredentialsError> {
        let Some(secret) = &mut state.secret else {
            let secret = state.secret.insert(self.read(None)?);
            return Ok(secret.number);
        };
        if secret.checked.elapsed() < FILE_CHECK {
            return Ok(secret.number);
        }
        secret.checked = Instant::now();
        match self.read_if_changed(secret) {
            Ok(None) => secret.unreadable = false,
            Ok(Some(changed)) => {
                *secret = changed;
                state.token = None;
            }
            Err(error) if secret.unreadable => {
                tracing::debug!(%error, "credentials still unreadable")
            }
            Err(error) => {
                secret.unreadable = true;
                tracing::warn!(%error, "keeping the credentials read before");
            }
        }
        Ok(secret.number)
    }

    fn read_if_changed(&self, known: &Secret) -> Result<Option<Secret>, CredentialsError> {
        if stamp(&self.credentials)? == known.stamp { Ok(None) } else { self.read(Some(known)).map(Some) }
    }

    fn read(&self, before: Option<&Secret>) -> Result<Secret, CredentialsError> {
        // Stamped before it is read: a change in between is then seen at the next look.
        let stamp = stamp(&self.credentials)?;
        let (kind, text) = match &self.credentials {
            Credentials::Secret { id, key } => {
                let (id, key) = (read("secret id", id)?, read("secret key", key)?);
                let text = SecretString::from(format!("{}||{}", id.expose_secret(), key.expose_secret()));
                let key = EncodingKey::from_secret(text.expose_secret().as_bytes());
                (SecretKind::Signing { id: id.expose_secret().to_owned(), key }, text)
            }
            Credentials::TeamKey(key) => {
                let key = read("team key", key)?;
                (SecretKind::TeamKey(key.clone()), key)
            }
        };
        let number = before.map_or(1, |before| {
            before.number + u64::from(before.text.expose_secret() != text.expose_secret())
        });
        Ok(Secret { kind, text, number, stamp, checked: Instant::now(), unreadable: false })
    }
}

impl State {
    fn current(&mut self, now: DateTime<Utc>) -> Result<Authorization, CredentialsError> {
        let secret = self.secret.as_ref().ok_or(CredentialsError::Unset)?;
        let number = secret.number;
        if let Some(token) = self.token.as_ref().filter(|token| token.made.elapsed() < TOKEN_LIFE) {
            return Ok(Authorization {
                header: token.header.clone(),
                generation: self.generation,
                secret: number,
            });
        }
        let bearer = match &secret.kind {
            SecretKind::Signing { id, key } => {
                let iat = (now - IAT_MARGIN).timestamp();
                sign(id, key, iat)?
            }
            SecretKind::TeamKey(key) => key.clone(),
        };
        let mut header = HeaderValue::try_from(format!("Bearer {}", bearer.expose_secret()))
            .map_err(|_| CredentialsError::Unsendable)?;
        header.set_sensitive(true);
        self.generation += 1;
        self.token = Some(Token { header: header.clone(), made: Instant::now() });
        Ok(Authorization { header, generation: self.generation, secret: number })
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
}

fn sign(id: &str, key: &EncodingKey, iat: i64) -> Result<SecretString, CredentialsError> {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &Claims { iss: id, iat }, key)
        .map(SecretString::from)
        .map_err(CredentialsError::Sign)
}

fn sources(credentials: &Credentials) -> Vec<&SecretSource> {
    match credentials {
        Credentials::Secret { id, key } => vec![id, key],
        Credentials::TeamKey(key) => vec![key],
    }
}

fn stamp(credentials: &Credentials) -> Result<Stamp, CredentialsError> {
    let files = sources(credentials).into_iter().filter_map(|source| match source {
        SecretSource::File(path) => Some(path),
        SecretSource::Value(_) => None,
    });
    files
        .map(|path| {
            fs::metadata(path)
                .map(|file| (file.modified().ok(), file.len()))
                .map_err(|source| CredentialsError::Gone { path: path.clone(), source })
        })
        .collect()
}

fn read(name: &'static str, source: &SecretSource) -> Result<SecretString, CredentialsError> {
    source.read().map_err(|source| CredentialsError::Secret { name, source })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn value(text: &str) -> SecretSource {
        SecretSource::Value(SecretString::from(text))
    }

    fn signing() -> Auth {
        Auth::new(Credentials::Secret { id: value("ID"), key: value("KEY") })
    }

    fn claims(authorization: &Authorization, secret: &str) -> Value {
        let token = authorization.header.to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let key = DecodingKey::from_secret(secret.as_bytes());
        let decoded = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
        assert_eq!(serde_json::to_value(decoded.header).unwrap(), json!({"alg": "HS256", "typ": "JWT"}));
        decoded.claims
    }

    #[test]
    fn a_token_bears_the_documented_claims_and_signature() {
        let authorization = signing().authorization(at(1_000_000)).unwrap();
        assert_eq!(claims(&authorization, "ID||KEY"), json!({"iss": "ID", "iat": 999_999}));
        assert!(authorization.header.is_sensitive());
    }

    #[test]
    fn a_token_is_kept_until_renewed_and_renewed_once_for_all() {
        let auth = signing();
        let first = auth.authorization(at(1_000_000)).unwrap();
        let again = auth.authorization(at(1_000_100)).unwrap();
        assert_eq!((first.generation, &first.header), (again.generation, &again.header));
        assert!(auth.renew(first.generation).unwrap());
        let second = auth.authorization(at(1_000_100)).unwrap();
        assert_eq!(claims(&second, "ID||KEY")["iat"], 1_000_099);
        assert!(auth.renew(first.generation).unwrap());
        assert_eq!(auth.authorization(at(1_000_200)).unwrap().generation, second.generation);
    }

    #[test]
    fn a_team_key_goes_plain_and_cannot_be_renewed() {
        let auth = Auth::new(Credentials::TeamKey(value("team-key")));
        let authorization = auth.authorization(at(0)).unwrap();
        assert_eq!(authorization.header, "Bearer team-key");
        assert!(authorization.header.is_sensitive());
        assert!(!auth.renew(authorization.generation).unwrap());
    }

    #[test]
    fn a_changed_secret_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (id, key) = (folder.path().join("id"), folder.path().join("key"));
        fs::write(&id, "ID\n").unwrap();
        fs::write(&key, " KEY \n").unwrap();
        let auth = Auth::new(Credentials::Secret {
            id: SecretSource::File(id.clone()),
            key: SecretSource::File(key.clone()),
        });
        let first = auth.authorization(at(1_000_000)).unwrap();
        claims(&first, "ID||KEY");
        // As long as before, and maybe within the file system's clock tick.
        fs::write(&key, " NEW \n").unwrap();
        assert!(auth.renew(first.generation).unwrap());
        let second = auth.authorization(at(1_000_000)).unwrap();
        claims(&second, "ID||NEW");
        assert_eq!((first.secret, second.secret), (1, 2));
        // A file that is only written again holds the same secret.
        fs::write(&key, "NEW\n").unwrap();
        assert!(auth.renew(second.generation).unwrap());
        assert_eq!(auth.authorization(at(1_000_000)).unwrap().secret, 2);
    }

    #[test]
    fn secret_files_are_looked_at_each_second_and_outlive_a_moment_without_them() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        fs::write(&key, "old").unwrap();
        let auth = Auth::new(Credentials::TeamKey(SecretSource::File(key.clone())));
        let bearer_a_second_later = || {
            if let Some(secret) = &mut auth.state().secret {
                secret.checked -= FILE_CHECK;
            }
            auth.authorization(at(0)).unwrap().header
        };
        assert_eq!(bearer_a_second_later(), "Bearer old");
        fs::remove_file(&key).unwrap();
        assert_eq!(bearer_a_second_later(), "Bearer old");
        fs::write(&key, "newer").unwrap();
        assert_eq!(bearer_a_second_later(), "Bearer newer");
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_said_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let empty = folder.path().join("empty");
        fs::write(&empty, "\n").unwrap();
        let gone = format!("the secret file {} is gone", missing.display());
        let unusable = || "the team key cannot be used".to_owned();
        let cases = [
            (SecretSource::File(missing), gone),
            (SecretSource::File(empty), unusable()),
            (value(""), unusable()),
            (value("line\nbreak"), unusable()),
        ];
        for (source, text) in cases {
            let error = Auth::new(Credentials::TeamKey(source)).authorization(at(0)).unwrap_err();
            assert!(error.to_string().starts_with(&text), "{error}");
            assert!(!format!("{error:?}").contains("break"));
        }
    }
}
