//! The settings tree: where values come from, what they may be, and the secrets among them.
//!
//! `config/default.toml` is the list of keys: the type of a key's default is the type that the key takes. [`load`]
//! lays files, environment and flags over it, checks everything, and reports all problems together.

mod error;
mod load;
mod reader;
mod secret;
mod sources;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use reqwest::Url;
use secrecy::SecretString;

pub use error::{ConfigError, Problem};
pub use load::{Loaded, Origins, Shown, load};
pub use secret::SecretError;
pub use sources::{Flag, Origin, Sources};

use crate::api::model::Stream;

/// Everything that can be set; contract: `config/default.toml` documents every key.
#[derive(Clone, Debug)]
pub struct Settings {
    pub api: Api,
    pub database: Database,
    pub sync: Sync,
    pub streams: Streams,
    pub embedded: Embedded,
    pub http: Http,
    pub log: Log,
}

#[derive(Clone, Debug)]
pub struct Api {
    pub base_url: Url,
    /// `None` where no credential is set: fine for verbs that don't call the API.
    pub credentials: Option<Credentials>,
    pub page_size: u32,
    /// Our share of the key's quota, in requests in any 60 seconds; 1 to 10,000,000.
    pub requests_per_minute: u32,
    pub timeout: Duration,
    pub max_in_flight: usize,
    /// Bytes of a response body, after decompression.
    pub max_body: u64,
}

impl Api {
    /// The credentials, for verbs that call the API.
    ///
    /// # Errors
    /// Where none are set: what to set, and where in Heymarket it is made.
    pub fn require_credentials(&self) -> Result<&Credentials, ConfigError> {
        self.credentials.as_ref().ok_or_else(|| ConfigError::from(vec![Problem::NoCredentials]))
    }

    /// The API's host, where requests to it cross a network without encryption: everybody on the way reads texts,
    /// phone numbers and the token.
    pub fn unencrypted_host(&self) -> Option<&str> {
        let host = self.base_url.host_str().filter(|_| self.base_url.scheme() == "http")?;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_this_machine = match address {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        };
        (!is_this_machine).then_some(host)
    }
}

#[derive(Clone, Debug)]
pub enum Credentials {
    Secret {
        id: SecretSource,
        key: SecretSource,
    },
    /// The legacy team key, sent as a plain bearer token \[V\].
    TeamKey(SecretSource),
}

/// A secret, or the file that holds it (read again when it changes).
#[derive(Clone, Debug)]
pub enum SecretSource {
    Value(SecretString),
    File(PathBuf),
}

#[derive(Clone, Debug)]
pub struct Database {
    /// `None`: the embedded PostgreSQL.
    pub url: Option<SecretString>,
    /// The file that `url` was read from; read again when the server refuses the login.
    pub url_file: Option<SecretSource>,
    pub max_connections: u32,
    /// Whether each transaction with rows waits until it is on disk.
    pub synchronous_commit: bool,
}

#[derive(Clone, Debug)]
pub struct Sync {
    pub settle_margin: Duration,
    /// How far apart two empty answers lie at least before a list is believed to end there.
    pub empty_apart: Duration,
    /// How long `sync` retries what stays open.
    pub patience: Duration,
}

#[derive(Clone, Debug)]
pub struct Streams {
    pub messages: StreamSettings,
    pub conversations: StreamSettings,
    pub contacts: StreamSettings,
}

impl Streams {
    pub fn of(&self, stream: Stream) -> &StreamSettings {
        match stream {
            Stream::Messages => &self.messages,
            Stream::Conversations => &self.conversations,
            Stream::Contacts => &self.contacts,
        }
    }

    /// The streams that are enabled.
    pub fn enabled(&self) -> Vec<Stream> {
        Stream::ALL.into_iter().filter(|stream| self.of(*stream).enabled).collect()
    }

    /// The same, at least one.
    ///
    /// # Errors
    /// Where none is: what to set.
    pub fn require_enabled(&self) -> Result<Vec<Stream>, ConfigError> {
        let enabled = self.enabled();
        if enabled.is_empty() { Err(ConfigError::from(vec![Problem::NoStream])) } else { Ok(enabled) }
    }
}

#[derive(Clone, Debug)]
pub struct StreamSettings {
    pub enabled: bool,
    pub interval: Duration,
    /// `None`: everything.
    pub history_start: Option<chrono::DateTime<chrono::Utc>>,
    pub recheck: Vec<Recheck>,
}

/// Rows of the last `window` are read again every `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recheck {
    pub window: Duration,
    pub every: Duration,
}

#[derive(Clone, Debug)]
pub struct Embedded {
    pub data_dir: Option<PathBuf>,
    pub bin_dir: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Http {
    pub listen: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
}
