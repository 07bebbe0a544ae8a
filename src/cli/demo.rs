//! `heymarket-sync demo`: everything with nothing set up.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::Row;
use tokio_util::sync::CancellationToken;

use crate::api::model::Stream;
use crate::app::{App, AppError};
use crate::config::{Credentials, SecretSource, Settings};
use crate::sandbox::{RateLimit, Sandbox, SandboxOptions, TeamOptions};
use crate::store::SchemaState;

use super::CliError;
use super::progress::Bars;

/// Events a second, once it is live.
const LIVE_RATE: f64 = 2.0;
/// Requests a minute: more than Heymarket's 500, so that nobody has to wait for made-up rows.
const SANDBOX_QUOTA: u32 = 6_000;
const NEWEST_EVERY: Duration = Duration::from_secs(5);

/// A sandbox API, an embedded PostgreSQL, the sync, and queries to try
#[derive(clap::Args)]
#[command(after_help = "Example: catch up, show what arrived, and end\n\n  heymarket-sync demo --once")]
pub struct DemoArgs {
    /// End after catching up
    #[arg(long)]
    once: bool,
    /// Messages of the made-up team
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    messages: usize,
}

struct Query {
    title: &'static str,
    sql: &'static str,
}

const QUERIES: [Query; 3] = [
    Query {
        title: "What has arrived",
        sql: "SELECT (SELECT count(*) FROM heymarket.messages) AS messages, \
              (SELECT count(*) FROM heymarket.conversations) AS conversations, \
              (SELECT count(*) FROM heymarket.contacts) AS contacts",
    },
    Query {
        title: "Messages by delivery status in the last 30 days",
        sql: "SELECT coalesce(status, 'none') AS status, count(*) AS messages FROM heymarket.messages \
              WHERE date > now() - interval '30 days' GROUP BY 1 ORDER BY 2 DESC LIMIT 5",
    },
    Query {
        title: "The busiest conversations",
        sql: "SELECT c.id AS conversation, c.inbox, c.status, count(*) AS messages, max(m.date)::timestamp(0) AS last \
              FROM heymarket.messages m JOIN heymarket.conversations c ON c.id = m.conversation_id \
              GROUP BY c.id ORDER BY 4 DESC, 1 LIMIT 5",
    },
];

pub async fn run(
    args: &DemoArgs,
    mut settings: Settings,
    bars: &Bars,
    cancel: CancellationToken,
) -> Result<(), CliError> {
    let sandbox = Sandbox::start(SandboxOptions {
        team: TeamOptions {
            messages: args.messages,
            conversations: (args.messages / 10).max(1),
            contacts: (args.messages / 12).max(1),
            span: Duration::from_secs(180 * 86_400),
            ..TeamOptions::default()
        },
        rate_limit: RateLimit { per_minute: Some(SANDBOX_QUOTA), ..RateLimit::default() },
        ..SandboxOptions::default()
    })
    .await?;
    settings.api.requests_per_minute = SANDBOX_QUOTA * 9 / 10;
    println!("A sandbox API with {} made-up messages is running at {}", args.messages, sandbox.base_url());
    let secret = sandbox.credentials().secrets.first().cloned();
    let secret = secret.ok_or_else(|| CliError::Failed("the sandbox has no credentials".to_owned()))?;
    settings.api.base_url = sandbox
        .base_url()
        .parse()
        .map_err(|error| CliError::Failed(format!("the sandbox's address: {error}")))?;
    let value = |text: String| SecretSource::Value(SecretString::from(text));
    settings.api.credentials = Some(Credentials::Secret { id: value(secret.id), key: value(secret.key) });
    // Its own database beside the user's: never the one that is configured for real use.
    settings.database.url = None;
    let data = settings.embedded.data_dir.take().or_else(crate::embedded::default_data_dir);
    settings.embedded.data_dir = data.map(|data| data.with_file_name("demo-postgres"));
    settings.http.listen.set_port(0);

    let app = App::open(settings, "demo", &cancel).await?;
    let outcome = live(args, &app, &sandbox, bars, &cancel).await;
    app.close().await;
    sandbox.stop().await;
    outcome
}

async fn live(
    args: &DemoArgs,
    app: &App,
    sandbox: &Sandbox,
    bars: &Bars,
    cancel: &CancellationToken,
) -> Result<(), CliError> {
    clear(app).await?;
    bars.show(&app.progress, &Stream::ALL, app.sync(&[], cancel)).await?;
    println!();
    for query in &QUERIES {
        show(app, query).await?;
    }
    if let Some(psql) = app.psql_command() {
        let when = if args.once { "during a demo without --once" } else { "while this runs" };
        println!("Look at it yourself, {when}:\n\n  {psql}\n");
    }
    if args.once {
        return Ok(());
    }
    println!("Live now: {LIVE_RATE} events a second arrive; Ctrl-C ends it.");
    sandbox.state().set_live_rate(LIVE_RATE);
    let show_newest = async {
        loop {
            tokio::time::sleep(NEWEST_EVERY).await;
            let newest = Query {
                title: "The newest messages",
                sql: "SELECT id, date::timestamp(0) AS date, status, _synced_at::timestamp(0) AS synced \
                      FROM heymarket.messages ORDER BY date DESC LIMIT 3",
            };
            if let Err(error) = show(app, &newest).await {
                tracing::warn!(
                    error = crate::telemetry::chain(&error),
                    "the newest messages could not be read"
                );
            }
        }
    };
    tokio::select! {
        outcome = app.run(cancel, |address| println!("Status, health and metrics: http://{address}/status\n")) => {
            Ok(outcome?)
        }
        () = show_newest => Ok(()),
    }
}

/// Each demo has a team of its own: what an earlier one left is dropped, by whichever version it was made.
async fn clear(app: &App) -> Result<(), CliError> {
    if matches!(app.store.schema_state().await, Ok(SchemaState::Current))
        && let Some(leader) = app.store.leader().await.map_err(AppError::from)?
    {
        return Err(CliError::Failed(format!("another demo is running: {}", leader.holder)));
    }
    sqlx::query("DROP SCHEMA IF EXISTS heymarket, heymarket_bi, heymarket_sync CASCADE")
        .execute(app.store.pool())
        .await
        .map_err(|error| CliError::Failed(format!("the demo's database could not be emptied: {error}")))?;
    Ok(())
}

async fn show(app: &App, query: &Query) -> Result<(), CliError> {
    let sql = format!("SELECT coalesce(json_agg(q), '[]')::text FROM ({}) q", query.sql);
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .fetch_one(app.store.pool())
        .await
        .map_err(|error| CliError::Failed(format!("{}: {error}", query.title)))?;
    let text: String = row.get(0);
    println!("{}\n\n  {}\n", query.title, query.sql);
    print!("{}", table(&text));
    println!();
    Ok(())
}

/// Rows of a JSON array of objects, as columns.
fn table(json: &str) -> String {
    let rows: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(json).unwrap_or_default();
    let Some(first) = rows.first() else { return "  (no rows)\n".to_owned() };
    let names: Vec<&String> = first.keys().collect();
    let cell = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut lines = vec![names.iter().map(|name| (*name).clone()).collect::<Vec<_>>()];
    lines.extend(
        rows.iter()
            .map(|row| names.iter().map(|name| row.get(*name).map(cell).unwrap_or_default()).collect()),
    );
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &format!("  {}\n", cells.join("  ").trim_end());
    }
    text
}
