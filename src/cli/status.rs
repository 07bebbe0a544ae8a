//! `heymarket-sync status`: reads the database alone.

use std::io::{Write, stdout};

use tokio_util::sync::CancellationToken;

use crate::app::{App, AppError};
use crate::config::Settings;
use crate::http::Report;
use crate::store::SchemaState;

use super::CliError;

/// What is held, how far behind, rejects, last errors; reads the database alone
#[derive(clap::Args)]
#[command(after_help = "Example:\n\n  heymarket-sync status --json | jq .streams")]
pub struct StatusArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &StatusArgs, settings: Settings, cancel: CancellationToken) -> Result<(), CliError> {
    let app = App::open(settings, "status", &cancel).await?;
    let report = read(&app).await;
    app.close().await;
    let report = report?;
    let text = if args.json {
        serde_json::to_string_pretty(&report).map_err(|error| CliError::Failed(error.to_string()))? + "\n"
    } else {
        report.to_string()
    };
    stdout().write_all(text.as_bytes())?;
    Ok(())
}

async fn read(app: &App) -> Result<Report, AppError> {
    if app.store.schema_state().await? != SchemaState::Current {
        return Err(AppError::NotMigrated);
    }
    Ok(Report::read(&app.store).await?)
}
