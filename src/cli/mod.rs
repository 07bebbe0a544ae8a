//! Arguments, exit codes, one file per verb.

mod backfill;
mod check;
pub mod config;
mod demo;
mod healthcheck;
mod progress;
mod rejects;
mod run;
pub mod sandbox;
mod status;
mod sync;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{App, AppError};
use crate::config::{ConfigError, Flag, Loaded, Settings, Sources};
use crate::telemetry;

/// It failed at its work.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const MISUSED: u8 = 2;

/// Mirrors a Heymarket team's messages, conversations and contacts into PostgreSQL and keeps them current.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "\
Example: everything with nothing set up

  heymarket-sync demo

Example: the daemon

  export HEYMARKET_API_SECRET_ID=... HEYMARKET_API_SECRET_KEY=...
  export DATABASE_URL=postgres://user:password@host/database
  heymarket-sync run"
)]
struct Cli {
    /// A configuration file; otherwise /etc/heymarket-sync/config.toml and, over it, config/local.toml, if present
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration, such as --set sync.settle_margin=5m
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The daemon: reads, upserts and checkpoints, for ever
    #[command(
        after_help = "Example:\n\n  heymarket-sync run\n\nSIGTERM and SIGINT end it cleanly within 10 s; a second signal at once."
    )]
    Run,
    Sync(sync::SyncArgs),
    Backfill(backfill::BackfillArgs),
    Status(status::StatusArgs),
    /// Configuration, database, rights, credentials, team and clock, each with a verdict and what to do
    #[command(after_help = "Example:\n\n  heymarket-sync check")]
    Check,
    /// Apply the schema and exit
    #[command(
        after_help = "Example: with a role that may create tables\n\n  DATABASE_URL=postgres://owner@host/database heymarket-sync migrate"
    )]
    Migrate,
    Rejects(rejects::RejectsArgs),
    /// The configuration in force, each value with where it came from, secrets hidden
    #[command(after_help = "Example:\n\n  heymarket-sync config")]
    Config,
    Demo(demo::DemoArgs),
    Sandbox(Box<sandbox::SandboxArgs>),
    /// Ask a running daemon's /readyz; exit status 0 when it is ready (for container health checks)
    #[command(after_help = "Example:\n\n  heymarket-sync healthcheck")]
    Healthcheck,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    App(Box<AppError>),
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    #[error("the output could not be written")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
}

impl From<AppError> for CliError {
    fn from(error: AppError) -> Self {
        Self::App(Box::new(error))
    }
}

impl CliError {
    fn status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Usage(_) => MISUSED,
            Self::App(error) if matches!(**error, AppError::OtherTeam(_)) => MISUSED,
            _ => FAILED,
        }
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime could not be started: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    // What a blocked thread holds is not waited for: everything that matters has been committed.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", telemetry::chain(&error));
            ExitCode::from(error.status())
        }
    }
}

/// What is logged beside progress bars: warnings, and where the embedded PostgreSQL is.
const QUIET: &str = "warn,heymarket_sync::app=info";

async fn dispatch(cli: Cli) -> Result<(), CliError> {
    let cancel = stop_signals()?;
    if let Verb::Sandbox(args) = &cli.verb {
        return Ok(sandbox::run(args, cancel).await?);
    }
    let loaded = load(&cli)?;
    let level = match cli.verb {
        Verb::Sync(_) | Verb::Backfill(_) if io::stderr().is_terminal() => QUIET,
        Verb::Demo(_) if io::stderr().is_terminal() => "warn",
        _ => "info",
    };
    let bars = progress::Bars::new();
    telemetry::init(loaded.settings.log.format, level, bars.log());
    match &cli.verb {
        Verb::Config => Ok(config::print(&loaded, &mut io::stdout().lock())?),
        Verb::Run => run::run(loaded.settings, cancel).await,
        Verb::Sync(args) => sync::run(args, loaded.settings, &bars, cancel).await,
        Verb::Backfill(args) => backfill::run(args, loaded.settings, &bars, cancel).await,
        Verb::Status(args) => status::run(args, loaded.settings, cancel).await,
        Verb::Check => check::run(loaded.settings, cancel).await,
        Verb::Migrate => migrate(loaded.settings, cancel).await,
        Verb::Rejects(args) => rejects::run(args, loaded.settings, cancel).await,
        Verb::Demo(args) => demo::run(args, loaded.settings, &bars, cancel).await,
        Verb::Healthcheck => healthcheck::run(&loaded.settings).await,
        Verb::Sandbox(_) => Ok(()),
    }
}

fn load(cli: &Cli) -> Result<Loaded, CliError> {
    let flags = cli
        .set
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => {
                Ok(Flag { key: key.to_owned(), value: value.to_owned(), name: "--set".to_owned() })
            }
            None => Err(CliError::Usage(format!("--set {pair:?}: expected KEY=VALUE"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(crate::config::load(&Sources::from_process(cli.config.clone(), flags))?)
}

async fn migrate(settings: Settings, cancel: CancellationToken) -> Result<(), CliError> {
    let app = App::open(settings, "migrate", &cancel).await?;
    let applied = app.migrate(&cancel).await;
    app.close().await;
    match applied? {
        0 => println!("the schema is current"),
        applied => println!("applied {applied} migrations; the schema is current"),
    }
    Ok(())
}

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process at once.
fn stop_signals() -> Result<CancellationToken, CliError> {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for signals in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if signals > 0 {
                std::process::exit(i32::from(FAILED));
            }
            tracing::info!("stopping; a second signal ends it at once");
            token.cancel();
            tokio::spawn(async {
                tokio::time::sleep(STOP_WITHIN).await;
                tracing::warn!("not stopped in time; ending");
                std::process::exit(i32::from(FAILED));
            });
        }
    });
    Ok(cancel)
}

/// After a signal, the process ends within this time whatever still hangs; the contract says 10 s.
const STOP_WITHIN: std::time::Duration = std::time::Duration::from_secs(9);
