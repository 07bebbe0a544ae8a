//! `heymarket-sync sandbox`: the sandbox API alone, for building against.

use std::{io::Write, net::SocketAddr, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::sandbox::{
    CursorFields, DefaultView, IdRule, OtherwiseGets, Paging, Precision, RateLimit, Sandbox,
    SandboxCredentials, SandboxError, SandboxOptions, Slips, TEAM_ID, TeamOptions, UpdatedOrder, WantedId,
};

/// Serve a made-up Heymarket team on this machine.
#[derive(Clone, clap::Args)]
#[command(after_help = "\
Example: a team of a million messages with ten events a second, every answer 100 ms away

  heymarket-sync sandbox --messages 1000000 --rate 10 --latency 100ms

It prints the environment variables that point heymarket-sync at it.")]
pub struct SandboxArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// Messages to make up
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub messages: usize,
    /// Conversations to make up
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub conversations: usize,
    /// Contacts to make up
    #[arg(long, value_name = "N", default_value_t = 4_000)]
    pub contacts: usize,
    /// The team's id
    #[arg(long, value_name = "ID", default_value_t = TEAM_ID)]
    pub team_id: i64,
    /// The same seed makes the same team
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How far back the rows reach
    #[arg(long, value_name = "DURATION", default_value = "180d", value_parser = humantime::parse_duration)]
    pub span: Duration,
    /// Live events a second: messages, delivery statuses, closing, edits, late arrivals
    #[arg(long, value_name = "EVENTS", default_value_t = 0.0, value_parser = rate)]
    pub rate: f64,
    /// Added to every answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub latency: Duration,
    /// Requests let in per credential in any 60 s; 0 is without limit
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub requests_per_minute: u32,
    /// With which probability a request fails: 429, 500, 503, hang, reset, cut off, HTML
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    pub faults: f64,
    /// Compress answers for clients that accept it
    #[arg(long)]
    pub gzip: bool,
    /// Rows of a page at most, whatever the client asks for
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = page_cap)]
    pub page_cap: usize,
    /// Which conversations are listed where a request leaves the closed state out
    #[arg(long, value_enum, default_value_t = DefaultView::Both)]
    pub conversations_default: DefaultView,
    /// The API secret's id that is accepted
    #[arg(long, value_name = "ID", default_value = SandboxCredentials::DEMO_SECRET_ID)]
    pub secret_id: String,
    /// The API secret's key that is accepted; whoever lists processes sees it, so don't take a real one
    #[arg(long, value_name = "KEY", default_value = SandboxCredentials::DEMO_SECRET_KEY)]
    pub secret_key: String,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// What the vendor's documents leave open.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "What the vendor's documents leave open")]
pub struct ReadingArgs {
    /// Pages hold rows at the cursor, too
    #[arg(long)]
    pub cursor_inclusive: bool,
    /// What of the cursor is compared
    #[arg(long, value_enum, default_value_t = Precision::Exact)]
    pub cursor_precision: Precision,
    /// Which fields messages heed as the cursor
    #[arg(long, value_enum, default_value_t = CursorFields::Both)]
    pub message_cursor: CursorFields,
    /// What `order: updated_at` does to messages
    #[arg(long, value_enum, default_value_t = UpdatedOrder::Honoured)]
    pub updated_order: UpdatedOrder,
    /// Every page has 30 rows, whatever the client asks for
    #[arg(long)]
    pub ignore_limit: bool,
    /// `page` counts for nothing
    #[arg(long)]
    pub ignore_page: bool,
    /// Which `id` a request for conversations must bear
    #[arg(long, value_enum, default_value_t = WantedId::Any)]
    pub conversations_id: WantedId,
    /// What a request for conversations with another `id` gets
    #[arg(long, value_enum, default_value_t = OtherwiseGets::BadData)]
    pub conversations_id_else: OtherwiseGets,
    /// A member's id lists the conversations of that member's inboxes alone
    #[arg(long)]
    pub conversations_own_inboxes: bool,
    /// Closed conversations are listed only where the request names inboxes
    #[arg(long)]
    pub closed_by_inbox: bool,
    /// Of closed conversations, only those that changed within this time are listed unasked
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub closed_within: Option<Duration>,
    /// The number of the first page
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub first_page: u8,
    /// With which probability a page is wrong though it looks right: rows repeated, outdated or in disorder,
    /// rows above the cursor, nothing at all
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    pub slips: f64,
    /// Rows are listed up to so long after their time
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub late: Duration,
}

impl From<&SandboxArgs> for SandboxOptions {
    fn from(args: &SandboxArgs) -> Self {
        Self {
            listen: args.listen,
            team: TeamOptions {
                id: args.team_id,
                messages: args.messages,
                conversations: args.conversations,
                contacts: args.contacts,
                seed: args.seed,
                span: args.span,
                end: None,
            },
            paging: Paging {
                cap: args.page_cap,
                conversations: args.conversations_default,
                heeds_limit: !args.reading.ignore_limit,
                first_page: args.reading.first_page.into(),
                heeds_page: !args.reading.ignore_page,
                inclusive: args.reading.cursor_inclusive,
                precision: args.reading.cursor_precision,
                message_cursor: args.reading.message_cursor,
                updated_order: args.reading.updated_order,
                closed_since: args.reading.closed_within.map(|within| clock::now() - within),
                closed_by_inbox: args.reading.closed_by_inbox,
                conversation_id: IdRule {
                    wanted: args.reading.conversations_id,
                    otherwise: args.reading.conversations_id_else,
                    own_inboxes_only: args.reading.conversations_own_inboxes,
                    ..IdRule::default()
                },
                ..Paging::default()
            },
            credentials: SandboxCredentials {
                team_key: SandboxCredentials::default().team_key,
                ..SandboxCredentials::secret(&args.secret_id, &args.secret_key)
            },
            rate_limit: RateLimit {
                per_minute: Some(args.requests_per_minute).filter(|&limit| limit > 0),
                ..RateLimit::default()
            },
            live_rate: args.rate,
            latency: args.latency,
            fault_probability: args.faults,
            slips: Slips {
                probability: args.reading.slips,
                most: u32::MAX,
                late: args.reading.late,
                ..Slips::default()
            },
            gzip: args.gzip,
        }
    }
}

/// Serves until cancelled; prints how to reach it on standard output.
pub async fn run(args: &SandboxArgs, cancel: CancellationToken) -> Result<(), SandboxError> {
    let sandbox = tokio::select! {
        started = Sandbox::start(args.into()) => started?,
        () = cancel.cancelled() => return Ok(()),
    };
    let told = print_access(&sandbox, args);
    if told.is_ok() {
        cancel.cancelled().await;
    }
    sandbox.stop().await;
    told.map_err(SandboxError::Print)
}

fn print_access(sandbox: &Sandbox, args: &SandboxArgs) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "Sandbox API on {}: {} messages, {} conversations, {} contacts. Ctrl-C ends it.\n",
        sandbox.base_url(),
        args.messages,
        args.conversations,
        args.contacts
    )?;
    writeln!(out, "HEYMARKET_API_BASE_URL={}", sandbox.base_url())?;
    writeln!(out, "HEYMARKET_API_SECRET_ID={}", quoted(&args.secret_id))?;
    writeln!(out, "HEYMARKET_API_SECRET_KEY={}", quoted(&args.secret_key))?;
    out.flush()
}

/// `value` as a shell reads it back.
fn quoted(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@%+=,".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=100_000.0).contains(&rate) { Ok(rate) } else { Err("from 0 to 100000".to_owned()) }
}

fn probability(text: &str) -> Result<f64, String> {
    let probability: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&probability) { Ok(probability) } else { Err("from 0 to 1".to_owned()) }
}

fn page_cap(text: &str) -> Result<usize, String> {
    let cap: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    if (1..=100_000).contains(&cap) { Ok(cap) } else { Err("from 1 to 100000".to_owned()) }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        sandbox: SandboxArgs,
    }

    fn options(arguments: &str) -> Result<SandboxOptions, clap::Error> {
        let words = std::iter::once("sandbox").chain(arguments.split_whitespace());
        Program::try_parse_from(words).map(|program| SandboxOptions::from(&program.sandbox))
    }

    #[test]
    fn flags_become_options() {
        let defaults = options("").unwrap();
        assert_eq!(defaults.listen.to_string(), "127.0.0.1:8090");
        assert_eq!(defaults.rate_limit, RateLimit::default());
        let set = options(
            "--messages 7 --span 2h --rate 1.5 --latency 20ms --requests-per-minute 0 --faults 0.25 --gzip \
             --page-cap 50 --conversations-default open --secret-id a --secret-key b --listen 127.0.0.1:0 \
             --cursor-inclusive --cursor-precision seconds --message-cursor date --updated-order ignored \
             --ignore-limit --ignore-page --first-page 0 --slips 0.5 --late 3s --conversations-id member \
             --conversations-id-else empty --conversations-own-inboxes --closed-within 1h --closed-by-inbox",
        )
        .unwrap();
        assert_eq!((set.team.messages, set.team.span), (7, Duration::from_secs(7_200)));
        assert_eq!((set.live_rate, set.fault_probability, set.gzip), (1.5, 0.25, true));
        assert_eq!(set.latency, Duration::from_millis(20));
        assert_eq!(set.rate_limit.per_minute, None);
        let reading = Paging {
            cap: 50,
            heeds_limit: false,
            first_page: 0,
            heeds_page: false,
            inclusive: true,
            precision: Precision::Seconds,
            message_cursor: CursorFields::Date,
            updated_order: UpdatedOrder::Ignored,
            conversations: DefaultView::Open,
            closed_since: set.paging.closed_since,
            closed_by_inbox: true,
            conversation_id: IdRule {
                wanted: WantedId::Member,
                otherwise: OtherwiseGets::Empty,
                own_inboxes_only: true,
                stands_for: None,
            },
            ..Paging::default()
        };
        assert!(set.paging.closed_since.is_some_and(|since| since < clock::now() - TimeDelta::minutes(59)));
        assert_eq!(set.paging, reading);
        assert_eq!(defaults.paging, Paging::default());
        assert_eq!((set.slips.probability, set.slips.late), (0.5, Duration::from_secs(3)));
        assert_eq!((&*set.credentials.secrets[0].id, &*set.credentials.secrets[0].key), ("a", "b"));
    }

    #[tokio::test]
    async fn a_taken_address_is_said() {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let arguments = ["sandbox", "--messages", "10", "--listen", &address.to_string()];
        let args = Program::try_parse_from(arguments).unwrap().sandbox;
        let error = run(&args, CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in
            ["--faults 2", "--faults NaN", "--rate -1", "--rate inf", "--page-cap 0", "--span soon"]
        {
            assert!(options(arguments).is_err(), "{arguments}");
        }
    }

    #[test]
    fn printed_values_can_be_pasted() {
        for (value, printed) in [("a-b.c", "a-b.c"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'")] {
            assert_eq!(quoted(value), printed);
        }
    }
}
