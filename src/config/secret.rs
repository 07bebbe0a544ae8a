//! Secrets: read from a value or a file, checked at load, and hidden wherever values are shown.

use std::{io, path::PathBuf};

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use toml::Value;

use super::{
    Credentials, SecretSource,
    error::Problem,
    reader::{Reader, text},
    sources::{Origin, read_text},
};

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "***";

/// Secrets are short; a larger file is a mistake, such as a device.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;

const DATABASE_URL: &str = "database.url";

/// Keys whose values are shown nowhere, with the variable that everyone sets.
const CREDENTIALS: [(&str, &str); 3] = [
    ("api.secret_id", "HEYMARKET_API_SECRET_ID"),
    ("api.secret_key", "HEYMARKET_API_SECRET_KEY"),
    ("api.key", "HEYMARKET_API_KEY"),
];

/// Why a secret can't be used. Never holds it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("can't read the file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is empty", place(.0))]
    Empty(Option<PathBuf>),
    #[error("{} holds more than one line or a control character, not a secret alone", place(.0))]
    NotOneLine(Option<PathBuf>),
}

fn place(file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(|| "the value".to_owned(), |path| format!("the file {}", path.display()))
}

impl SecretSource {
    /// The secret as it is now, without white space around it. Reads the file each time, blocking for as long as
    /// the file system takes; at most 64 KiB.
    ///
    /// # Errors
    /// Where the file can't be read, or what is there is empty or holds control characters.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let (text, path) = match self {
            Self::Value(secret) => (secret.clone(), None),
            Self::File(path) => {
                let text = read_text(path, MAX_SECRET_FILE_BYTES)
                    .map_err(|error| SecretError::Unreadable { path: path.clone(), error })?;
                (SecretString::from(text), Some(path.clone()))
            }
        };
        let secret = text.expose_secret().trim();
        if secret.is_empty() {
            return Err(SecretError::Empty(path));
        }
        if secret.contains(char::is_control) {
            return Err(SecretError::NotOneLine(path));
        }
        Ok(SecretString::from(secret))
    }
}

impl Reader<'_> {
    /// The API's credentials: the secret's id and key, or the legacy team key; `None` where nothing is set.
    pub fn credentials(&mut self) -> Option<Credentials> {
        let [id, key, team_key] = CREDENTIALS.map(|(name, _)| self.secret(name));
        if let (Some((_, set)), Some((_, team_key))) = (id.as_ref().or(key.as_ref()), &team_key) {
            self.conflict(set.clone(), team_key.clone());
        }
        match (id, key) {
            (Some((id, _)), Some((key, _))) => Some(Credentials::Secret { id, key }),
            (None, None) => team_key.map(|(source, _)| Credentials::TeamKey(source)),
            (Some((_, set)), None) => self.half_set(set, CREDENTIALS[1], team_key.is_some()),
            (None, Some((_, set))) => self.half_set(set, CREDENTIALS[0], team_key.is_some()),
        }
    }

    /// The database's address, from `database.url` or the file that `database.url_file` names (then the file too);
    /// `None` where neither is set.
    pub fn database_url(&mut self) -> Option<(SecretString, Option<PathBuf>)> {
        let (source, set_by) = self.secret(DATABASE_URL)?;
        let url = source.read().ok()?;
        if let Err(reason) = check_database_url(url.expose_secret()) {
            self.problems.push(Problem::BadValue {
                origin: self.layers.given(&set_by).origin.clone(),
                key: set_by,
                value: None,
                reason,
                form: "postgres://user:password@host:port/database (or postgresql://), \
                       with / ? # @ and the like in user and password percent-encoded"
                    .into(),
            });
        }
        let file = match source {
            SecretSource::File(path) => Some(path),
            SecretSource::Value(_) => None,
        };
        Some((url, file))
    }

    /// A secret given as `key` or as `key_file`, and which of the two it was.
    fn secret(&mut self, key: &str) -> Option<(SecretSource, String)> {
        let file_key = format!("{key}_file");
        let value = self.read(key, "text", |value| Ok(SecretString::from(text(value)?)));
        let file = self.path(&file_key);
        let is_set = |key: &str| self.layers.given(key).value.as_str() != Some("");
        // Set but refused by its type: reported already, and not to be taken for missing.
        let file = file.or_else(|| is_set(&file_key).then(PathBuf::new));
        let (source, set_by) = match (is_set(key), file) {
            (true, None) => (SecretSource::Value(value), key.to_owned()),
            (false, Some(path)) => (SecretSource::File(path), file_key),
            (true, Some(_)) => {
                self.conflict(key.to_owned(), file_key.clone());
                return Some((SecretSource::Value(value), key.to_owned()));
            }
            (false, None) => return None,
        };
        let origin = self.layers.given(&set_by).origin.clone();
        if self.layers.given(&set_by).value.is_str()
            && let Err(error) = source.read()
        {
            self.problems.push(Problem::Secret { key: set_by.clone(), origin, error });
        }
        Some((source, set_by))
    }

    fn half_set(
        &mut self,
        set: String,
        (missing, variable): (&str, &str),
        beside_team_key: bool,
    ) -> Option<Credentials> {
        // Beside a team key there is a conflict already; its cure may be to take this half away.
        if !beside_team_key {
            self.problems.push(Problem::HalfSet {
                origin: self.layers.given(&set).origin.clone(),
                set,
                missing: missing.to_owned(),
                variable: variable.to_owned(),
            });
        }
        None
    }

    fn conflict(&mut self, first: String, second: String) {
        let [first, second] = [first, second].map(|key| {
            let origin: Origin = self.layers.given(&key).origin.clone();
            (key, origin)
        });
        self.problems.push(Problem::Conflict(first, second));
    }
}

/// `value` of `key` with its secrets hidden.
pub(super) fn hide(key: &str, value: &Value) -> Value {
    match value.as_str() {
        Some("") => value.clone(),
        Some(url) if key == DATABASE_URL => Value::String(hide_in_url(url)),
        _ if may_show_secret(key, value) => Value::String(HIDDEN.to_owned()),
        _ => value.clone(),
    }
}

/// Whether showing a value of `key` as it was given could give a secret away.
pub(super) fn may_show_secret(key: &str, value: &Value) -> bool {
    let suspicious = || value.as_str().is_some_and(|text| text.contains(['@', '?', '#']));
    key == DATABASE_URL
        || CREDENTIALS.iter().any(|(secret, _)| *secret == key)
        // People do put credentials into addresses; the reader refuses them, and must not repeat them.
        || key == "api.base_url" && suspicious()
}

/// The address with `***` for its password, in the authority as in the query.
pub(super) fn hide_in_url(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return HIDDEN.to_owned() };
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let hidden = name.to_ascii_lowercase().contains("password");
                let value = if hidden { HIDDEN.to_owned() } else { value.into_owned() };
                (name.into_owned(), value)
            })
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.into()
}

fn check_database_url(url: &str) -> Result<(), String> {
    let parsed = Url::parse(url).map_err(|error| error.to_string())?;
    if !matches!(parsed.scheme(), "postgres" | "postgresql") {
        return Err("not a postgres:// or postgresql:// address".into());
    }
    // A password with a bare / or ? or # ends the authority early: the rest of it, and the @ before the host, would
    // be taken for path or query, and shown as such.
    if parsed.fragment().is_some()
        || parsed.path().contains('@')
        || parsed.query().is_some_and(|query| query.contains('@'))
    {
        return Err("a bare #, or an @ after the host: percent-encode them".into());
    }
    Ok(())
}
