//! The configuration through its one door, `load`: layers, bad input, secrets. The process's own environment and
//! files are never looked at.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Duration,
};

use heymarket_sync::{
    cli,
    config::{
        ConfigError, Credentials, Flag, Loaded, LogFormat, Origin, Recheck, SecretSource, Sources, load,
    },
};
use secrecy::ExposeSecret;
use tempfile::TempDir;

const DEFAULTS: &str = include_str!("../config/default.toml");

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
fn a_stronger_layer_wins() {
    let mut scene = Scene::new();
    let mut expect = |page_size: u32, origin: Origin, step: fn(Scene) -> Scene| {
        scene = step(std::mem::replace(&mut scene, Scene::new()));
        let loaded = scene.loaded();
        assert_eq!(loaded.settings.api.page_size, page_size);
        let origin = match origin {
            Origin::File(name) => Origin::File(scene.dir.path().join(name)),
            other => other,
        };
        assert_eq!(loaded.origins.of("api.page_size"), Some(&origin));
    };
    expect(200, Origin::Default, |scene| scene);
    expect(11, Origin::File("system.toml".into()), |s| s.file("system.toml", "[api]\npage_size = 11"));
    expect(12, Origin::File("config/local.toml".into()), |s| s.local("[api]\npage_size = 12"));
    // A named file is read instead of the two usual ones.
    expect(13, Origin::File("mine.toml".into()), |s| {
        s.file("mine.toml", "[api]\npage_size = 13").config_file("mine.toml")
    });
    expect(14, Origin::Environment("HEYMARKET_SYNC__API__PAGE_SIZE".into()), |s| {
        s.env("HEYMARKET_SYNC__API__PAGE_SIZE", "14")
    });
    expect(15, Origin::Flag("--page-size".into()), |s| s.flag("--page-size", "api.page_size", "15"));
}

#[test]
fn both_usual_files_are_read_and_a_named_one_replaces_both() {
    let scene =
        Scene::new().file("system.toml", "[http]\nlisten = \"0.0.0.0:1\"").local("[api]\npage_size = 12");
    let settings = scene.loaded().settings;
    assert_eq!((settings.http.listen.port(), settings.api.page_size), (1, 12));

    let scene = scene.file("mine.toml", "").config_file("mine.toml");
    let settings = scene.loaded().settings;
    assert_eq!((settings.http.listen.port(), settings.api.page_size), (8080, 200));
}

#[test]
fn the_namespaced_variable_wins_over_the_well_known_one() {
    let scene = Scene::new().local("[api]\nbase_url = \"http://file\"");
    let scene = scene.env("HEYMARKET_API_BASE_URL", "http://known");
    assert_eq!(scene.loaded().settings.api.base_url.as_str(), "http://known/");
    let scene = scene.env("heymarket_sync__Api__base_URL", "http://own");
    assert_eq!(scene.loaded().settings.api.base_url.as_str(), "http://own/");
}

#[test]
fn an_empty_variable_unsets() {
    // A well-known one counts as not set, so the file's value stays.
    let scene = Scene::new().local("[database]\nurl = \"postgres://file/db\"").env("DATABASE_URL", "");
    assert!(scene.loaded().settings.database.url.is_some());
    // A key's own variable says "", which is "not set" for the key.
    let scene = scene.env("HEYMARKET_SYNC__DATABASE__URL", "");
    assert!(scene.loaded().settings.database.url.is_none());
}

#[test]
fn other_variables_are_ignored() {
    let scene =
        Scene::new().env("HEYMARKET_SYNC_PAGE_SIZE", "x").env("HEYMARKET_SYNCHRONOUS", "x").env("PATH", "x");
    assert!(scene.loaded().origins.iter().all(|shown| shown.origin == Origin::Default));
}

#[test]
fn values_are_read_in_all_their_forms() {
    let scene = Scene::new()
        .env("HEYMARKET_SYNC__STREAMS__MESSAGES__RECHECK", r#"[{window="1h", every="5m"}, {window="7d", every="6h"}]"#)
        .env("HEYMARKET_SYNC__STREAMS__CONTACTS", r#"{enabled = false, interval = "5m", recheck = []}"#)
        .env("HEYMARKET_SYNC__STREAMS__CONTACTS__INTERVAL", "1s")
        .env("HEYMARKET_SYNC__STREAMS__MESSAGES__HISTORY_START", "2024-01-31T08:00:00.1234567+01:00")
        .env("HEYMARKET_SYNC__STREAMS__CONTACTS__HISTORY_START", "2024-01-31")
        .env("HEYMARKET_SYNC__API__MAX_BODY", "1 MB")
        .env("HEYMARKET_SYNC__EMBEDDED__DATA_DIR", "data")
        .local("[streams.conversations]\nhistory_start = 2024-02-29\n[api]\nmax_in_flight = 1024\n[log]\nformat = \"json\"");
    let dir = scene.path("data");
    let settings = scene.loaded().settings;
    let recheck = |window, every| Recheck { window: seconds(window), every: seconds(every) };
    assert_eq!(settings.streams.messages.recheck, [recheck(3600, 300), recheck(7 * 86_400, 6 * 3600)]);
    assert!(!settings.streams.contacts.enabled);
    assert_eq!(settings.streams.contacts.interval, seconds(1), "a key's own variable is more specific");
    assert_eq!(settings.streams.contacts.recheck, []);
    let start =
        |settings: &heymarket_sync::config::StreamSettings| settings.history_start.unwrap().to_rfc3339();
    assert_eq!(start(&settings.streams.messages), "2024-01-31T07:00:00.123456+00:00");
    assert_eq!(start(&settings.streams.contacts), "2024-01-31T00:00:00+00:00");
    assert_eq!(start(&settings.streams.conversations), "2024-02-29T00:00:00+00:00");
    assert_eq!(settings.api.max_body, 1_000_000);
    assert_eq!(settings.api.max_in_flight, 1024);
    assert_eq!(settings.embedded.data_dir, Some(dir));
    assert_eq!(settings.log.format, LogFormat::Json);
}

#[test]
fn ranges_include_their_ends_and_nothing_beyond() {
    for (key, accepted, refused) in [
        (
            "api.page_size",
            &["1", "10000"][..],
            &["0", "10001", "-1", "x", "1.5", "", "99999999999999999999"][..],
        ),
        ("api.requests_per_minute", &["1", "10000000"], &["0", "10000001"]),
        ("api.timeout", &["1s", "10m"], &["999ms", "601s", "0", "-5s", "30", "", "soon"]),
        ("api.max_in_flight", &["1", "1024"], &["0", "1025"]),
        (
            "api.max_body",
            &["64KiB", "65536", "1GiB"],
            &["65535", "64kB", "2GiB", "1073741825", "MiB", "32Mib", "1.5MiB", "-1"],
        ),
        ("database.max_connections", &["2", "100"], &["1", "101"]),
        ("database.synchronous_commit", &["true", "false"], &["off", "1", ""]),
        ("sync.settle_margin", &["0s", "1h"], &["61m", "-1s"]),
        ("streams.messages.enabled", &["true", "false"], &["yes", "1", ""]),
        ("streams.messages.interval", &["1s", "1d"], &["0s", "999ms", "25h"]),
        (
            "streams.contacts.history_start",
            &["", "2024-02-29"],
            &["2023-02-29", "2024-01-31T08:00:00", "yesterday"],
        ),
        ("streams.contacts.recheck", &["[]"], &["[", "1h", "[1]", r#"{window="1h",every="1m"}"#]),
        (
            "http.listen",
            &["0.0.0.0:0", "[::1]:8080"],
            &["localhost:8080", ":8080", "127.0.0.1", "1.2.3.4:65536"],
        ),
        ("log.format", &["auto", "json", "text"], &["JSON", "xml", ""]),
        (
            "api.base_url",
            &["http://localhost:9", "https://x/base"],
            &["", "x", "ftp://x", "https://", "https://x/?a=1", "https://x/#a"],
        ),
        (
            "database.url",
            &["postgres://h/d", "postgresql:///d?host=/run"],
            &["mysql://h/d", "h/d", "postgres://h:x/d"],
        ),
    ] {
        for value in accepted {
            Scene::new().env(&variable(key), value).loaded();
        }
        for value in refused {
            let error = Scene::new().env(&variable(key), value).refused();
            let line = error.to_string();
            assert!(line.starts_with(key), "{key} {value}: {line}");
            assert!(line.contains(&format!("(environment variable {})", variable(key))), "{line}");
            assert!(line.contains("; accepted: "), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }
}

#[test]
fn a_bad_value_is_named_with_its_source_and_what_is_accepted() {
    let local = |text: &str| Scene::new().local(text);
    for (scene, expected) in [
        (
            local("[api]\npage_size = 0"),
            "api.page_size = 0 (file DIR/config/local.toml): out of range; accepted: a whole number from 1 to 10000",
        ),
        (
            local("[api]\npage_size = \"200\""),
            "api.page_size = \"200\" (file DIR/config/local.toml): not a whole number; \
             accepted: a whole number from 1 to 10000",
        ),
        (
            Scene::new().env("HEYMARKET_SYNC__API__TIMEOUT", "soon\nish"),
            "api.timeout = \"soon\\nish\" (environment variable HEYMARKET_SYNC__API__TIMEOUT): not a duration; \
             accepted: a duration from \"1s\" to \"10m\", like \"30s\", \"15m\", \"2h\" or \"1d\"",
        ),
        (
            Scene::new().flag("--listen", "http.listen", "localhost"),
            "http.listen = \"localhost\" (flag --listen): not an IP address and port; accepted: IP address and port, \
             like \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::1]:8080\"; port 0 takes a free one",
        ),
        (
            Scene::new().env("HEYMARKET_API_BASE_URL", "ftp://files"),
            "api.base_url = \"ftp://files\" (environment variable HEYMARKET_API_BASE_URL): not an http or https \
             address; accepted: an http or https address without user and password, like \"https://api.heymarket.com\"",
        ),
        (
            Scene::new().env("HEYMARKET_SYNC__STREAMS__MESSAGES__RECHECK", r#"[{window="1h", evry="1m"}]"#),
            "unknown key streams.messages.recheck[0].evry \
             (environment variable HEYMARKET_SYNC__STREAMS__MESSAGES__RECHECK): did you mean every?\n\
             streams.messages.recheck[0].every (environment variable HEYMARKET_SYNC__STREAMS__MESSAGES__RECHECK): \
             missing; accepted: a duration from \"1s\" to \"1year\", like \"30s\", \"15m\", \"2h\" or \"1d\"",
        ),
        (local("api = 3"), "api (file DIR/config/local.toml) is a section: give it a table of keys"),
        (
            local("[api]\npage_sise = 3"),
            "unknown key api.page_sise (file DIR/config/local.toml): did you mean api.page_size?",
        ),
        (
            local("page_size = 3"),
            "unknown key page_size (file DIR/config/local.toml): did you mean api.page_size?",
        ),
        (
            local("[stream.messages]\ninterval = \"1s\""),
            "unknown key stream (file DIR/config/local.toml): did you mean streams?",
        ),
        (local("[weather]\nsun = true"), "unknown key weather (file DIR/config/local.toml)"),
        (
            Scene::new().env("HEYMARKET_SYNC__API_PAGE_SIZE", "3"),
            "unknown key api_page_size (environment variable HEYMARKET_SYNC__API_PAGE_SIZE): \
             did you mean HEYMARKET_SYNC__API__PAGE_SIZE?",
        ),
        (
            Scene::new()
                .env("HEYMARKET_SYNC__LOG__FORMAT", "text")
                .env("heymarket_sync__log__format", "json"),
            "log.format (environment variable HEYMARKET_SYNC__LOG__FORMAT) and log.format (environment variable \
             heymarket_sync__log__format) are both set, and only one may be: take one of them away",
        ),
        (
            Scene::new().config_file("missing.toml"),
            "can't read the configuration file DIR/missing.toml: No such file or directory (os error 2)",
        ),
        (
            local("[api]\nsecret_key = \"hush-hush"),
            "DIR/config/local.toml is not valid TOML: line 2, column 24: invalid basic string, expected `\"`",
        ),
    ] {
        let expected = expected.replace("DIR", &scene.dir.path().display().to_string());
        assert_eq!(scene.refused().to_string(), expected);
    }
}

#[test]
fn all_problems_are_told_together() {
    let error = Scene::new()
        .local("[api]\npage_size = 0\ntimeout = 30\nsecret_id = \"id\"\n[nonsense]")
        .env("DATABASE_URL", "mysql://u:hush-hush@h/d")
        .env("HEYMARKET_SYNC__SYNC__MARGIN", "1s")
        .flag("--listen", "http.listen", "x")
        .refused();
    let starts = [
        "unknown key nonsense",
        "unknown key sync.margin",
        "api.secret_key is not set",
        "api.page_size",
        "api.timeout",
        "database.url (environment variable DATABASE_URL)",
        "http.listen",
    ];
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), starts.len(), "{text}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn credentials_are_whole_or_refused() {
    let id = |scene: Scene| scene.env("HEYMARKET_API_SECRET_ID", "id");
    let key = |scene: Scene| scene.env("HEYMARKET_API_SECRET_KEY", "hush-hush");
    let team = |scene: Scene| scene.env("HEYMARKET_API_KEY", "hush-hush");
    for (scene, expected) in [
        (
            id(Scene::new()),
            "api.secret_key is not set, but api.secret_id is (environment variable HEYMARKET_API_SECRET_ID): \
             set HEYMARKET_API_SECRET_KEY or HEYMARKET_API_SECRET_KEY_FILE in the environment, \
             or api.secret_key in a configuration file",
        ),
        (
            key(Scene::new().env("HEYMARKET_API_SECRET_ID", "")),
            "api.secret_id is not set, but api.secret_key is (environment variable HEYMARKET_API_SECRET_KEY): \
             set HEYMARKET_API_SECRET_ID or HEYMARKET_API_SECRET_ID_FILE in the environment, \
             or api.secret_id in a configuration file",
        ),
        (
            team(id(key(Scene::new()))),
            "api.secret_id (environment variable HEYMARKET_API_SECRET_ID) and api.key (environment variable \
             HEYMARKET_API_KEY) are both set, and only one may be: take one of them away",
        ),
        (
            team(key(Scene::new())),
            "api.secret_key (environment variable HEYMARKET_API_SECRET_KEY) and api.key (environment variable \
             HEYMARKET_API_KEY) are both set, and only one may be: take one of them away",
        ),
        (
            team(Scene::new().file("key", "x")).env("HEYMARKET_API_KEY_FILE", "key"),
            "api.key (environment variable HEYMARKET_API_KEY) and api.key_file (environment variable \
             HEYMARKET_API_KEY_FILE) are both set, and only one may be: take one of them away",
        ),
        (
            Scene::new().env("HEYMARKET_API_KEY_FILE", "gone"),
            "api.key_file (environment variable HEYMARKET_API_KEY_FILE): can't read the file DIR/gone: \
             No such file or directory (os error 2)",
        ),
        (
            Scene::new().file("key", "\n").env("HEYMARKET_API_KEY_FILE", "key"),
            "api.key_file (environment variable HEYMARKET_API_KEY_FILE): the file DIR/key is empty",
        ),
        (
            Scene::new().env("HEYMARKET_API_KEY", "hush\nhush"),
            "api.key (environment variable HEYMARKET_API_KEY): the value holds more than one line or a control \
             character, not a secret alone",
        ),
        (
            Scene::new().file("big", &"x".repeat(65_537)).env("HEYMARKET_API_KEY_FILE", "big"),
            "api.key_file (environment variable HEYMARKET_API_KEY_FILE): can't read the file DIR/big: \
             it is larger than 65536 bytes",
        ),
    ] {
        let expected = expected.replace("DIR", &scene.dir.path().display().to_string());
        assert_eq!(scene.refused().to_string(), expected);
    }
}

#[test]
fn credentials_come_from_values_and_files() {
    let scene = Scene::new()
        .env("HEYMARKET_API_SECRET_ID", "id")
        .file("run/key", "first\n")
        .env("HEYMARKET_API_SECRET_KEY_FILE", "run/key");
    let settings = scene.loaded().settings;
    let Credentials::Secret { id, key } = settings.api.require_credentials().unwrap() else {
        panic!("not a secret");
    };
    assert_eq!(id.read().unwrap().expose_secret(), "id");
    assert_eq!(key.read().unwrap().expose_secret(), "first");
    assert!(matches!(key, SecretSource::File(path) if *path == scene.path("run/key")));
    // Rotated in place: the next reading has it.
    fs::write(scene.path("run/key"), "second").unwrap();
    assert_eq!(key.read().unwrap().expose_secret(), "second");
    fs::remove_file(scene.path("run/key")).unwrap();
    assert!(key.read().unwrap_err().to_string().contains("run/key"));

    // Keys of digits alone stay text.
    let settings = Scene::new().env("HEYMARKET_API_KEY", "0123").loaded().settings;
    let Some(Credentials::TeamKey(key)) = settings.api.credentials else { panic!("not a team key") };
    assert_eq!(key.read().unwrap().expose_secret(), "0123");
}

#[test]
fn missing_credentials_are_asked_for_with_where_to_get_them() {
    let error = Scene::new().loaded().settings.api.require_credentials().unwrap_err().to_string();
    for part in ["HEYMARKET_API_SECRET_ID", "HEYMARKET_API_SECRET_KEY", "Settings > Integrations > API"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_database_url_comes_from_a_value_or_a_file() {
    let scene = Scene::new().file("url", "postgres://u:hush-hush@h/d\n").env("DATABASE_URL_FILE", "url");
    let loaded = scene.loaded();
    assert_eq!(loaded.settings.database.url.as_ref().unwrap().expose_secret(), "postgres://u:hush-hush@h/d");
    assert_eq!(loaded.origins.of("database.url"), Some(&Origin::File(scene.path("url"))));
    assert!(printed(&loaded).contains("url = \"postgres://u:***@h/d\""));

    let error = scene.env("DATABASE_URL", "postgres://h/d").refused().to_string();
    assert!(
        error.starts_with("database.url (environment variable DATABASE_URL) and database.url_file"),
        "{error}"
    );

    let error = Scene::new().file("url", "mysql://h").env("DATABASE_URL_FILE", "url").refused().to_string();
    assert!(
        error.starts_with("database.url_file (environment variable DATABASE_URL_FILE): not a postgres"),
        "{error}"
    );
}

#[test]
fn text_that_is_not_utf_8_is_refused_in_our_variables_alone() {
    let garbage = || OsString::from_vec(vec![0xff, 0xfe]);
    let mut scene = Scene::new();
    scene.sources.environment.push(("SOMEONES".into(), garbage()));
    scene.sources.environment.push((garbage(), garbage()));
    scene.loaded();
    for name in ["DATABASE_URL", "HEYMARKET_SYNC__LOG__FORMAT"] {
        let mut scene = Scene::new();
        scene.sources.environment.push((name.into(), garbage()));
        let error = scene.refused().to_string();
        assert_eq!(error, format!("environment variable {name}: its value is not valid UTF-8"));
    }
}

#[test]
fn secrets_are_shown_nowhere() {
    const SECRET: &str = "hush-hush";
    let good = |scene: Scene| {
        scene
            .env("HEYMARKET_API_SECRET_ID", "hush-hush-id")
            .file("key", SECRET)
            .env("HEYMARKET_API_SECRET_KEY_FILE", "key")
            .env(
                "DATABASE_URL",
                "postgres://u:hush-hush@h/d?sslmode=require&password=hush-hush&sslpassword=hush-hush",
            )
    };
    let scene = good(Scene::new());
    let loaded = scene.loaded();
    let text = printed(&loaded);
    for shown in [text.clone(), format!("{loaded:?}"), format!("{loaded:#?}")] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["api"]["secret_id"].as_str(), Some("***"));
    let url = table["database"]["url"].as_str().unwrap();
    assert_eq!(url, "postgres://u:***@h/d?sslmode=require&password=***&sslpassword=***");
    let team_key = printed(&Scene::new().env("HEYMARKET_API_KEY", SECRET).loaded());
    assert!(team_key.contains("key = \"***\"  # environment variable HEYMARKET_API_KEY\n"), "{team_key}");

    for scene in [
        Scene::new().env("DATABASE_URL", "mysql://u:hush-hush@h/d"),
        Scene::new().env("DATABASE_URL", "postgres://u:hush-hush@h:x/d"),
        Scene::new().env("DATABASE_URL", "postgres://u:1/hush-hush@h/d"),
        Scene::new().env("DATABASE_URL", "postgres://u:1?hush-hush@h/d"),
        Scene::new().env("DATABASE_URL", "postgres://u:1#hush-hush@h/d"),
        Scene::new().env("HEYMARKET_API_BASE_URL", "https://u:hush-hush@h"),
        Scene::new().env("HEYMARKET_API_BASE_URL", "u:hush-hush@h"),
        Scene::new().env("HEYMARKET_API_BASE_URL", "https://h/?key=hush-hush"),
        Scene::new().env("HEYMARKET_API_KEY", "hush-hush\nx"),
        Scene::new().env("HEYMARKET_API_SECRET_KEY", SECRET),
        Scene::new().env("HEYMARKET_SYNC__API", "{key = \"hush-hush\", x"),
        Scene::new().env("HEYMARKET_SYNC__API__SECRET", SECRET),
        Scene::new().local("[api]\nkey = [\"hush-hush\"]"),
        Scene::new().local("[api]\nkey = \"hush-hush"),
        Scene::new().local("[api]\nkey = hush-hush"),
    ] {
        let error = scene.refused();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(SECRET), "{shown}");
        }
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

#[test]
fn a_usual_file_that_can_not_be_read_is_an_error() {
    let scene = Scene::new().file("config/local.toml/x", "");
    let error = scene.refused().to_string();
    assert!(error.starts_with(&format!(
        "can't read the configuration file {}",
        scene.path("config/local.toml").display()
    )));
    // Where `config` is a file, there is no local.toml.
    Scene::new().file("config", "").loaded();
}

#[test]
fn relative_files_start_at_the_working_directory() {
    let scene = Scene::new().file("sub/mine.toml", "[embedded]\nbin_dir = \"bin\"\ndata_dir = \"/data\"");
    let scene = scene.config_file("sub/mine.toml");
    let embedded = scene.loaded().settings.embedded;
    assert_eq!(embedded.bin_dir, Some(scene.path("bin")));
    assert_eq!(embedded.data_dir.as_deref(), Some(Path::new("/data")));
}
