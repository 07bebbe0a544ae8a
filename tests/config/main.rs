//! The configuration through its one door, `load`: layers, bad input, secrets. The process's own environment and
//! files are never looked at.

mod layers;
mod secrets;
mod values;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use heymarket_sync::cli;
use heymarket_sync::config::{ConfigError, Flag, Loaded, LogFormat, Origin, Recheck, Sources, load};
use tempfile::TempDir;

const DEFAULTS: &str = include_str!("../../config/default.toml");

/// A working directory of its own, and sources that look nowhere else.
struct Scene {
    dir: TempDir,
    sources: Sources,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sources = Sources {
            config_file: None,
            working_dir: dir.path().to_owned(),
            system_file: dir.path().join("system.toml"),
            environment: Vec::new(),
            flags: Vec::new(),
        };
        Self { dir, sources }
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn local(self, text: &str) -> Self {
        self.file("config/local.toml", text)
    }

    fn config_file(mut self, name: &str) -> Self {
        self.sources.config_file = Some(PathBuf::from(name));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, name: &str, key: &str, value: &str) -> Self {
        self.sources.flags.push(Flag { key: key.into(), value: value.into(), name: name.into() });
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn loaded(&self) -> Loaded {
        load(&self.sources).unwrap_or_else(|error| panic!("refused: {error}"))
    }

    fn refused(&self) -> ConfigError {
        load(&self.sources).map(|_| ()).expect_err("accepted")
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Every `section.key` of the compiled defaults.
fn known_keys() -> Vec<String> {
    fn walk(path: &str, table: &toml::Table, keys: &mut Vec<String>) {
        for (name, value) in table {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match value {
                toml::Value::Table(table) => walk(&path, table, keys),
                _ => keys.push(path),
            }
        }
    }
    let mut keys = Vec::new();
    walk("", &DEFAULTS.parse().unwrap(), &mut keys);
    keys
}

fn variable(key: &str) -> String {
    format!("HEYMARKET_SYNC__{}", key.replace('.', "__").to_uppercase())
}

fn printed(loaded: &Loaded) -> String {
    let mut out = Vec::new();
    cli::config::print(loaded, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let scene = Scene::new();
    let Loaded { settings, origins } = scene.loaded();
    assert_eq!(settings.api.base_url.as_str(), "https://api.heymarket.com/");
    assert!(settings.api.credentials.is_none());
    assert_eq!(settings.api.page_size, 200);
    assert_eq!(settings.api.requests_per_minute, 450);
    assert_eq!(settings.api.timeout, seconds(30));
    assert_eq!(settings.api.max_in_flight, 16);
    assert_eq!(settings.api.max_body, 32 << 20);
    assert!(settings.database.url.is_none());
    assert_eq!(settings.database.max_connections, 8);
    assert!(!settings.database.synchronous_commit);
    assert_eq!(settings.sync.settle_margin, seconds(120));
    let recheck = |window, every| Recheck { window: seconds(window), every: seconds(every) };
    let (hour, day) = (3600, 86_400);
    let near = [recheck(hour, 60), recheck(2 * day, hour), recheck(30 * day, day)];
    for (stream, rechecks) in [
        (&settings.streams.messages, &near[..]),
        (&settings.streams.conversations, &near[..]),
        (&settings.streams.contacts, &near[1..]),
    ] {
        assert!(stream.enabled);
        assert_eq!(stream.interval, seconds(30));
        assert_eq!(stream.history_start, None);
        assert_eq!(stream.recheck, rechecks);
    }
    assert_eq!(settings.embedded.data_dir, None);
    assert_eq!(settings.embedded.bin_dir, None);
    assert_eq!(settings.http.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(settings.log.format, LogFormat::Auto);
    assert!(origins.iter().all(|shown| shown.origin == Origin::Default));
}

#[test]
fn every_key_is_documented_and_read() {
    let keys = known_keys();
    let loaded = Scene::new().loaded();
    assert_eq!(loaded.origins.iter().map(|shown| shown.key.clone()).collect::<Vec<_>>(), keys);
    for key in &keys {
        let name = variable(key);
        let documented = DEFAULTS
            .lines()
            .filter_map(|line| line.strip_prefix("# Environment: "))
            .flat_map(|line| line.split([' ', ',']))
            .any(|word| word == name);
        assert!(documented, "{name} is not in default.toml");

        // No key takes an empty table: a key that nobody reads would be accepted.
        let (section, last) = key.rsplit_once('.').unwrap();
        let error = Scene::new().local(&format!("[{section}]\n{last} = {{}}")).refused();
        assert!(error.to_string().starts_with(&format!("{key} ")), "{error}");
    }
}

#[test]
fn what_is_printed_loads_to_the_same_settings() {
    let scene = Scene::new()
        .local(
            "[streams.messages]\nhistory_start = 2024-02-29\nrecheck = [{ window = \"3h\", every = \"9m\" }]",
        )
        .env("HEYMARKET_SYNC__API__MAX_BODY", "1MiB")
        .flag("--listen", "http.listen", "0.0.0.0:0");
    let loaded = scene.loaded();
    let text = printed(&loaded);
    assert!(text.contains("listen = \"0.0.0.0:0\"  # flag --listen\n"), "{text}");
    assert!(text.contains("page_size = 200  # default\n"), "{text}");
    let again = Scene::new().local(&text).loaded();
    assert_eq!(format!("{:?}", again.settings), format!("{:?}", loaded.settings));
}
