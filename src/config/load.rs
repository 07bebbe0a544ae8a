//! From sources to settings.

use std::time::Duration;

use secrecy::ExposeSecret;
use toml::Value;

use super::{
    Api, Database, Embedded, Http, Log, SecretSource, Settings, StreamSettings, Streams, Sync,
    error::ConfigError,
    reader::Reader,
    secret,
    sources::{Layers, Origin, Sources},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The settings in force, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub origins: Origins,
}

/// Every key, by name, with its value in force and where that came from. Holds no secrets.
#[derive(Clone, Debug)]
pub struct Origins(Vec<Shown>);

/// A key's value in force, fit to be shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// `section.key`.
    pub key: String,
    /// As it was given; `***` in place of secrets.
    pub value: Value,
    pub origin: Origin,
}

impl Origins {
    /// Every key there is, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Shown> {
        self.0.iter()
    }

    /// Where the value of `key` came from; `None` where there is no such key.
    pub fn of(&self, key: &str) -> Option<&Origin> {
        self.0.iter().find(|shown| shown.key == key).map(|shown| &shown.origin)
    }
}

/// Reads and checks the whole configuration. Touches nothing but the files that `sources` and the keys name.
///
/// # Errors
/// All problems at once, each with key, value (unless it may be secret), where it came from and what is accepted.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let (layers, problems) = Layers::collect(sources);
    let mut reader = Reader { layers: &layers, working_dir: &sources.working_dir, problems };

    let api = Api {
        base_url: reader.base_url("api.base_url"),
        credentials: reader.credentials(),
        page_size: reader.integer("api.page_size", 1..=10_000),
        requests_per_minute: reader.integer("api.requests_per_minute", 1..=10_000_000),
        timeout: reader.duration("api.timeout", SECOND..=10 * MINUTE),
        max_in_flight: reader.integer("api.max_in_flight", 1..=1024) as usize,
        max_body: reader.body_size("api.max_body"),
    };
    let (url, url_file) = reader.database_url().unzip();
    let url_file = url_file.flatten();
    let database = Database {
        url,
        url_file: url_file.clone().map(SecretSource::File),
        max_connections: reader.integer("database.max_connections", 2..=100),
        synchronous_commit: reader.boolean("database.synchronous_commit"),
    };
    let sync = Sync {
        settle_margin: reader.duration("sync.settle_margin", Duration::ZERO..=HOUR),
        empty_apart: reader.duration("sync.empty_apart", Duration::ZERO..=HOUR),
        patience: reader.duration("sync.patience", Duration::ZERO..=DAY),
    };
    let streams = Streams {
        messages: stream(&mut reader, "streams.messages"),
        conversations: stream(&mut reader, "streams.conversations"),
        contacts: stream(&mut reader, "streams.contacts"),
    };
    let embedded =
        Embedded { data_dir: reader.path("embedded.data_dir"), bin_dir: reader.path("embedded.bin_dir") };
    let http = Http { listen: reader.socket_address("http.listen") };
    let log = Log { format: reader.log_format("log.format") };

    if !reader.problems.is_empty() {
        return Err(ConfigError::from(reader.problems));
    }
    let mut shown: Vec<Shown> = layers
        .iter()
        .map(|(key, given)| Shown {
            key: key.clone(),
            value: secret::hide(key, &given.value),
            origin: given.origin.clone(),
        })
        .collect();
    if let (Some(url), Some(path)) = (&database.url, url_file)
        && let Some(shown) = shown.iter_mut().find(|shown| shown.key == "database.url")
    {
        shown.value = Value::String(secret::hide_in_url(url.expose_secret()));
        shown.origin = Origin::File(path);
    }
    let settings = Settings { api, database, sync, streams, embedded, http, log };
    Ok(Loaded { settings, origins: Origins(shown) })
}

fn stream(reader: &mut Reader<'_>, section: &str) -> StreamSettings {
    let key = |name| format!("{section}.{name}");
    StreamSettings {
        enabled: reader.boolean(&key("enabled")),
        interval: reader.duration(&key("interval"), SECOND..=DAY),
        history_start: reader.time(&key("history_start")),
        recheck: reader.rechecks(&key("recheck")),
    }
}
