//! The settings of an engine that a test runs itself.

use std::ffi::OsString;
use std::path::PathBuf;

use heymarket_sync::config::{self, Settings, Sources};
use heymarket_sync::sandbox::{Sandbox, SandboxSecret};

use super::database::TestDatabase;

/// What `environment` alone makes of the settings.
pub fn of_environment<T: Into<OsString>>(environment: impl IntoIterator<Item = (T, String)>) -> Settings {
    let nowhere = PathBuf::from("nowhere");
    let sources = Sources {
        config_file: None,
        working_dir: nowhere.clone(),
        system_file: nowhere,
        environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        flags: Vec::new(),
    };
    config::load(&sources).unwrap().settings
}

/// Those of an engine between `sandbox` and `database`, without a limit of requests; `own` variables are added.
pub fn between(sandbox: &Sandbox, database: &TestDatabase, own: &[(String, String)]) -> Settings {
    let SandboxSecret { id, key } = sandbox.credentials().secrets[0].clone();
    let well_known = [
        ("HEYMARKET_API_BASE_URL", sandbox.base_url()),
        ("HEYMARKET_API_SECRET_ID", id),
        ("HEYMARKET_API_SECRET_KEY", key),
        ("DATABASE_URL", database.url().to_owned()),
        ("HEYMARKET_SYNC__API__REQUESTS_PER_MINUTE", "10000000".to_owned()),
        // What is open is no fault that passes, and what is empty stays so, unless a test says otherwise.
        ("HEYMARKET_SYNC__SYNC__EMPTY_APART", "0s".to_owned()),
        ("HEYMARKET_SYNC__SYNC__PATIENCE", "0s".to_owned()),
    ];
    let well_known = well_known.map(|(name, value)| (name.to_owned(), value));
    let left = well_known.into_iter().filter(|(name, _)| !own.iter().any(|(set, _)| set == name));
    of_environment(left.chain(own.iter().cloned()))
}
