//! `heymarket-sync run`: the daemon.

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Settings;

use super::CliError;

pub async fn run(settings: Settings, cancel: CancellationToken) -> Result<(), CliError> {
    settings.api.require_credentials()?;
    settings.streams.require_enabled()?;
    let app = match App::open(settings, "run", &cancel).await {
        // It was told to end before it had begun anything.
        Err(_) if cancel.is_cancelled() => return Ok(()),
        opened => opened?,
    };
    let outcome = app.run(&cancel, |_| {}).await;
    app.close().await;
    Ok(outcome?)
}
