//! What a value may be, and how a bad one is told.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use heymarket_sync::config::{LogFormat, Recheck};

use crate::{Scene, seconds, variable};

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
        ("sync.empty_apart", &["0s", "1h"], &["61m", "-1s"]),
        ("sync.patience", &["0s", "1d"], &["25h", "-1s"]),
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
