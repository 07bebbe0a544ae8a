//! `heymarket-sync sync`: catches up once.

use tokio_util::sync::CancellationToken;

use crate::api::model::Stream;
use crate::app::App;
use crate::config::Settings;

use super::CliError;
use super::progress::Bars;

/// Catch up once with everything that is due, then exit
#[derive(clap::Args)]
#[command(
    after_help = "Example: from cron\n\n  */5 * * * * heymarket-sync sync --stream messages --stream contacts"
)]
pub struct SyncArgs {
    /// Only this stream: messages, conversations or contacts; may be repeated
    #[arg(long, value_name = "NAME")]
    stream: Vec<Stream>,
}

pub async fn run(
    args: &SyncArgs,
    settings: Settings,
    bars: &Bars,
    cancel: CancellationToken,
) -> Result<(), CliError> {
    settings.api.require_credentials()?;
    let streams = match args.stream.as_slice() {
        [] => settings.streams.require_enabled()?,
        asked => asked.to_vec(),
    };
    let app = App::open(settings, "sync", &cancel).await?;
    let outcome = bars.show(&app.progress, &streams, app.sync(&args.stream, &cancel)).await;
    app.close().await;
    Ok(outcome?)
}
