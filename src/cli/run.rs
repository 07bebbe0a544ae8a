//! `heymarket-sync run`: the daemon.

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Settings;

use super::CliError;

pub async fn run(settings: Settings, cancel: CancellationToken) -> Result<(), CliError> {
    settings.api.require_credentials()?;
    let app = App::open(settings, "run", &cancel).await?;
    let outcome = app.run(&cancel, |_| {}).await;
    app.close().await;
    Ok(outcome?)
}
