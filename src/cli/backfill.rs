//! `heymarket-sync backfill`: walks a window again on request.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::api::model::Stream;
use crate::app::App;
use crate::clock;
use crate::config::Settings;

use super::CliError;
use super::progress::Bars;

/// Walk a window again, whatever is recorded as held
///
/// A running daemon does the work, beside its other work; without one, this process does. A backfill that is cut
/// off is gone on with by whoever leads next.
#[derive(clap::Args)]
#[command(
    after_help = "Example: the messages of March again\n\n  heymarket-sync backfill --stream messages --from 2026-03-01 --to 2026-04-01"
)]
pub struct BackfillArgs {
    /// messages, conversations or contacts
    #[arg(long, value_name = "NAME")]
    stream: Stream,
    /// From this time on, such as 2026-03-01 or 2026-03-01T12:00:00Z; otherwise from the beginning
    #[arg(long, value_name = "T", value_parser = time)]
    from: Option<DateTime<Utc>>,
    /// Up to this time; otherwise up to now
    #[arg(long, value_name = "T", value_parser = time)]
    to: Option<DateTime<Utc>>,
}

impl BackfillArgs {
    fn check(&self, now: DateTime<Utc>) -> Result<(), CliError> {
        match (self.from, self.to) {
            (Some(from), to) if from >= to.unwrap_or(now) => Err(CliError::Usage(format!(
                "--from {} is not before {}",
                from.format("%FT%TZ"),
                to.map_or("now".to_owned(), |to| format!("--to {}", to.format("%FT%TZ"))),
            ))),
            _ => Ok(()),
        }
    }
}

pub async fn run(
    args: &BackfillArgs,
    settings: Settings,
    bars: &Bars,
    cancel: CancellationToken,
) -> Result<(), CliError> {
    args.check(clock::now())?;
    settings.api.require_credentials()?;
    let app = App::open(settings, "backfill", &cancel).await?;
    let bar = bars.share(args.stream.name());
    let done = app.backfill(args.stream, (args.from, args.to), &cancel, |progress| bar.tell(&progress)).await;
    bar.end();
    app.close().await;
    let rows = done?;
    println!("{}: {rows} rows read again", args.stream);
    Ok(())
}

/// An RFC 3339 time, or a day: its beginning in UTC.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    match DateTime::parse_from_rfc3339(text) {
        // PostgreSQL's resolution.
        Ok(time) => {
            Ok(time.to_utc() - TimeDelta::nanoseconds(i64::from(time.timestamp_subsec_nanos() % 1_000)))
        }
        Err(_) => Err("expected a time such as 2026-03-01T12:00:00Z, or a day such as 2026-03-01".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_day_or_rfc_3339() {
        let cases = [
            ("2026-03-01", Some("2026-03-01T00:00:00Z")),
            ("2026-03-01T12:00:00+02:00", Some("2026-03-01T10:00:00Z")),
            ("2026-03-01T12:00:00.1234567Z", Some("2026-03-01T12:00:00.123456Z")),
            ("2026-13-01", None),
            ("yesterday", None),
            ("2026-03-01T12:00:00", None),
        ];
        for (text, read) in cases {
            assert_eq!(time(text).ok(), read.map(|read| read.parse().unwrap()), "{text}");
        }
    }
}
