//! `heymarket-sync rejects`: what was set aside, and another try at it.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _, stdout};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::model::Stream;
use crate::app::{App, AppError};
use crate::config::Settings;
use crate::store::{HeldReject, RetryOutcome, SchemaState};

use super::CliError;

/// Rejects that stay open and are listed after a retry.
const LISTED_OPEN: usize = 20;

/// What could not be read and was set aside, and another try at it
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example: what is open, one of them as it came, and another try after an upgrade\n\n  \
                  heymarket-sync rejects\n  heymarket-sync rejects show 17\n  heymarket-sync rejects retry"
)]
pub struct RejectsArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(clap::Subcommand)]
enum What {
    /// List them (the default)
    #[command(
        after_help = "Example:\n\n  heymarket-sync rejects list --stream contacts --json | jq '.[].reason'"
    )]
    List(ListArgs),
    /// One of them: what is known of it, and its bytes as they came
    #[command(after_help = "Example:\n\n  heymarket-sync rejects show 17 | less")]
    Show {
        /// Its number in the list
        id: i64,
    },
    /// Read them again with this version and write those that are readable now
    ///
    /// A running daemon does the work; without one, this process does.
    #[command(
        after_help = "Example: all that are open, or some\n\n  heymarket-sync rejects retry\n  heymarket-sync rejects retry 17 18"
    )]
    Retry {
        /// Their numbers in the list; none: all that are open
        ids: Vec<i64>,
    },
}

#[derive(clap::Args)]
struct ListArgs {
    /// Only of this stream: messages, conversations or contacts
    #[arg(long, value_name = "NAME")]
    stream: Option<Stream>,
    /// Resolved ones, too
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &RejectsArgs, settings: Settings, cancel: CancellationToken) -> Result<(), CliError> {
    let app = App::open(settings, "rejects", &cancel).await?;
    let done = answer(args, &app, &cancel).await;
    app.close().await;
    done
}

async fn answer(args: &RejectsArgs, app: &App, cancel: &CancellationToken) -> Result<(), CliError> {
    if app.store.schema_state().await.map_err(AppError::from)? != SchemaState::Current {
        return Err(AppError::NotMigrated.into());
    }
    match &args.what {
        None => list(&args.list, app).await,
        Some(What::List(args)) => list(args, app).await,
        Some(What::Show { id }) => show(*id, app).await,
        Some(What::Retry { ids }) => retry(ids, app, cancel).await,
    }
}

async fn list(args: &ListArgs, app: &App) -> Result<(), CliError> {
    let mut after = 0;
    let mut listed = 0;
    loop {
        let rejects = app.store.list_rejects(after, args.stream, args.all).await.map_err(AppError::from)?;
        let Some(last) = rejects.last() else { break };
        after = last.id;
        let mut text = String::new();
        for reject in &rejects {
            if args.json {
                text += if listed == 0 { "[\n" } else { ",\n" };
                text += &as_json(reject).to_string();
            } else {
                if listed == 0 {
                    text += HEADING;
                }
                text += &line(reject);
            }
            listed += 1;
        }
        stdout().write_all(text.as_bytes())?;
    }
    let end = match (args.json, listed) {
        (true, 0) => "[]\n",
        (true, _) => "\n]\n",
        (false, 0) => "no rejects\n",
        (false, _) => "",
    };
    Ok(stdout().write_all(end.as_bytes())?)
}

const HEADING: &str =
    "    id  stream         source id             what     times  last seen            reason\n";

fn line(reject: &HeldReject) -> String {
    let resolved = if reject.resolved_at.is_some() { "(resolved) " } else { "" };
    format!(
        "{:>6}  {:13}  {:20}  {:7}  {:>5}  {}  {resolved}{}\n",
        reject.id,
        reject.stream,
        reject.source_id.as_deref().unwrap_or("unknown"),
        if reject.partial { "partial" } else { "whole" },
        reject.times,
        reject.last_seen.format("%F %T"),
        reject.reason,
    )
}

fn as_json(reject: &HeldReject) -> Value {
    json!({
        "id": reject.id,
        "stream": reject.stream,
        "source_id": reject.source_id,
        "partial": reject.partial,
        "reason": reject.reason,
        "bytes": reject.bytes,
        "kept": reject.kept,
        "first_seen": reject.first_seen,
        "last_seen": reject.last_seen,
        "times": reject.times,
        "resolved_at": reject.resolved_at,
        "retry_requested_at": reject.retry_requested_at,
    })
}

async fn show(id: i64, app: &App) -> Result<(), CliError> {
    let found = app.store.reject(id).await.map_err(AppError::from)?;
    let Some((reject, payload)) = found else {
        return Err(CliError::Failed(format!(
            "there is no reject {id}; `heymarket-sync rejects` lists them"
        )));
    };
    let source_id = reject.source_id.as_deref().unwrap_or("unknown");
    let what = match reject.partial {
        true => "partial: the row landed without what could not be read",
        false => "whole: set aside",
    };
    let state = match reject.resolved_at {
        Some(at) => format!("resolved {}", at.format("%F %T UTC")),
        None if reject.retry_requested_at.is_some() => "open, waits for another try".to_owned(),
        None => "open".to_owned(),
    };
    let (first, last) = (reject.first_seen.format("%F %T UTC"), reject.last_seen.format("%F %T UTC"));
    let facts = format!(
        "reject:     {id}\nstream:     {}\nsource id:  {source_id}\nwhat:       {what}\nreason:     {}\n\
         first seen: {first}\nlast seen:  {last}\ntimes:      {}\nstate:      {state}\nbytes:      {}{}\n\n",
        reject.stream,
        reject.reason,
        reject.times,
        reject.bytes,
        if reject.kept { "" } else { ", not kept" },
    );
    let mut out = stdout().lock();
    out.write_all(facts.as_bytes())?;
    if out.is_terminal() {
        // What a customer wrote must not steer the terminal.
        out.write_all(printable(&payload).as_bytes())?;
    } else {
        out.write_all(&payload)?;
    }
    Ok(out.write_all(b"\n")?)
}

/// `payload` with what a terminal would act on written out.
fn printable(payload: &[u8]) -> String {
    let mut text = String::new();
    for char in String::from_utf8_lossy(payload).chars() {
        match char {
            '\n' | '\t' => text.push(char),
            char if char.is_control() => text.extend(char.escape_default()),
            char => text.push(char),
        }
    }
    text
}

async fn retry(ids: &[i64], app: &App, cancel: &CancellationToken) -> Result<(), CliError> {
    let asked = (!ids.is_empty()).then_some(ids);
    let taken = app.store.request_retries(asked).await.map_err(AppError::from)?;
    let not_kept = app.store.rejects_not_kept(asked).await.map_err(AppError::from)?;
    let missing: Vec<_> = ids.iter().filter(|id| !taken.contains(id) && !not_kept.contains(id)).collect();
    let mut said = None;
    let outcome = app
        .retry_rejects(&taken, cancel, |leader, waiting| {
            if said != Some(waiting) {
                said = Some(waiting);
                match leader {
                    Some(leader) => eprintln!("{waiting} rejects wait for {}", leader.holder),
                    None => eprintln!("trying {waiting} rejects again"),
                }
            }
        })
        .await?;
    stdout().write_all(told(taken.len(), &outcome).as_bytes())?;
    let mut untried = Vec::new();
    if !not_kept.is_empty() {
        untried.push(format!(
            "not tried: {}; the bytes of each were not kept, since the open rejects take 1 GiB: it is read when the \
             API shows the row again",
            numbers(&not_kept)
        ));
    }
    if !missing.is_empty() {
        untried.push(format!(
            "not tried: {}; each is unknown, resolved already, or a whole page, which the daemon asks for again by \
             itself",
            numbers(missing)
        ));
    }
    if untried.is_empty() { Ok(()) } else { Err(CliError::Failed(untried.join("\n"))) }
}

/// The first of `ids`, and how many there are.
fn numbers<'a>(ids: impl IntoIterator<Item = &'a i64>) -> String {
    let mut ids = ids.into_iter();
    let first: Vec<_> = ids.by_ref().take(LISTED_OPEN).map(i64::to_string).collect();
    match ids.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn told(tried: usize, outcome: &RetryOutcome) -> String {
    let mut text =
        format!("{tried} tried, {} resolved, {} still open\n", outcome.resolved, outcome.open.len());
    for (id, reason) in outcome.open.iter().take(LISTED_OPEN) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{id:>6}  {reason}");
    }
    if outcome.open.len() > LISTED_OPEN {
        text += "  ...\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_payload_steers_the_terminal() {
        let cases: [(&[u8], &str); 4] = [
            (b"{\"text\":\"a\\nb\"}\n\t", "{\"text\":\"a\\nb\"}\n\t"),
            (b"\x1b[2J\x07", "\\u{1b}[2J\\u{7}"),
            ("é\u{9b}31m\r".as_bytes(), "é\\u{9b}31m\\r"),
            (b"\xff", "\u{fffd}"),
        ];
        for (payload, shown) in cases {
            assert_eq!(printable(payload), shown);
        }
    }
}
