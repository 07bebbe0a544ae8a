//! What can be wrong with a configuration, in words for the person who wrote it.

use std::{fmt, io, path::PathBuf};

use super::{secret::SecretError, sources::Origin};

/// Everything that is wrong with the configuration, one problem a line. Never holds a secret.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems, in the order they were found; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Vec<Problem>> for ConfigError {
    fn from(problems: Vec<Problem>) -> Self {
        Self { problems }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line_break = if index > 0 { "\n" } else { "" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong with the configuration. `Display` is a whole line: the causes are in it, since
/// [`ConfigError`] lists problems side by side and has no one source.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("can't read the configuration file {}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },

    #[error("{} is not valid TOML: line {line}, column {column}: {reason}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, reason: String },

    #[error("environment variable {name}: its value is not valid UTF-8")]
    NotUtf8 { name: String },

    #[error("unknown key {} ({origin}){}", key.escape_debug(), did_you_mean(suggestion))]
    UnknownKey { key: String, origin: Origin, suggestion: Option<String> },

    #[error("{key} ({origin}) is a section: give it a table of keys")]
    NotASection { key: String, origin: Origin },

    /// `value` is `None` where the value may be a secret, or is missing.
    #[error("{key}{} ({origin}): {reason}; accepted: {form}", equals(value))]
    BadValue { key: String, value: Option<String>, origin: Origin, reason: String, form: String },

    #[error("{key} ({origin}): {error}")]
    Secret { key: String, origin: Origin, error: SecretError },

    #[error("{} ({}) and {} ({}) are both set, and only one may be: take one of them away", .0.0, .0.1, .1.0, .1.1)]
    Conflict((String, Origin), (String, Origin)),

    #[error(
        "{missing} is not set, but {set} is ({origin}): set {variable} or {variable}_FILE in the environment, \
         or {missing} in a configuration file"
    )]
    HalfSet { set: String, origin: Origin, missing: String, variable: String },

    #[error(
        "no Heymarket API credentials: set HEYMARKET_API_SECRET_ID and HEYMARKET_API_SECRET_KEY (each also as ..._FILE) \
         in the environment, or api.secret_id and api.secret_key in a configuration file; they are made in the \
         Heymarket app under Settings > Integrations > API"
    )]
    NoCredentials,

    #[error(
        "no stream is enabled: set streams.messages.enabled, streams.conversations.enabled or \
         streams.contacts.enabled to true"
    )]
    NoStream,
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(String::new, |name| format!(": did you mean {name}?"))
}

fn equals(value: &Option<String>) -> String {
    value.as_ref().map_or_else(String::new, |value| format!(" = {value}"))
}
