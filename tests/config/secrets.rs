//! Secrets come from values and files, and are shown nowhere.

use std::fs;

use heymarket_sync::config::{Credentials, Origin, SecretSource};
use secrecy::ExposeSecret;

use crate::{Scene, printed};

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
