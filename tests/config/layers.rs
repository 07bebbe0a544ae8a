//! Which layer wins, and which files are read.

use std::path::Path;

use heymarket_sync::config::Origin;

use crate::Scene;

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
