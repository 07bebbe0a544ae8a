//! What all measurements use: the sandbox in this process, the server, and the program as a child.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use heymarket_sync::clock;
use heymarket_sync::sandbox::{
    Counters, Endpoint, RateLimit, Sandbox, SandboxOptions, SandboxState, TeamOptions,
};

use crate::Outcome;
use crate::daemon::{Daemon, Spent};
use crate::options::Options;
use crate::server::{Database, Server};

/// Rows asked for in one request.
pub const PAGE_SIZE: usize = 200;
/// As good as none.
const NO_LIMIT: u32 = 10_000_000;

pub struct Rig {
    pub server: Server,
    binary: PathBuf,
    /// With the messages of its team, and how long ago the newest came.
    sandbox: Option<((usize, Duration), Sandbox)>,
}

/// How the API is to be and how the daemon is told to use it.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub latency: Duration,
    /// What the daemon may send in a minute.
    pub requests_per_minute: u32,
    /// What the sandbox answers in a minute.
    pub admitted_per_minute: Option<u32>,
    pub page_size: usize,
    /// How long ago the newest row came.
    pub team_rests: Duration,
}

impl Conditions {
    /// No latency, no limit.
    pub const OPEN: Self = Self {
        latency: Duration::ZERO,
        requests_per_minute: NO_LIMIT,
        admitted_per_minute: None,
        page_size: PAGE_SIZE,
        team_rests: Duration::ZERO,
    };

    /// The daemon's default share of the documented limit.
    pub const DEFAULT: Self = Self { requests_per_minute: 450, admitted_per_minute: Some(500), ..Self::OPEN };

    pub fn with_latency(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    /// Nothing has come for longer than the settle margin.
    pub fn at_rest(self) -> Self {
        Self { team_rests: Duration::from_secs(600), ..self }
    }
}

/// A first fill that has ended.
pub struct Fill {
    pub rows: u64,
    pub spent: Spent,
    pub counters: Counters,
}

impl Fill {
    pub fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.spent.seconds
    }

    /// For the pages of the three streams.
    pub fn page_requests(&self) -> u64 {
        page_requests(&self.counters)
    }
}

impl Rig {
    pub async fn new(options: &Options) -> Outcome<Self> {
        let binary = options.binary()?;
        let server = Server::start(options.data_dir.as_deref()).await?;
        Ok(Self { server, binary, sandbox: None })
    }

    pub fn binary(&self) -> &PathBuf {
        &self.binary
    }

    /// Serves a team of so many messages under `conditions`, with nothing counted yet.
    pub async fn serve(&mut self, messages: usize, conditions: Conditions) -> Outcome<SandboxState> {
        let wanted = (messages, conditions.team_rests);
        if self.sandbox.as_ref().is_none_or(|(served, _)| *served != wanted) {
            self.forget_team().await;
            let team = TeamOptions { end: Some(clock::now() - conditions.team_rests), ..team(messages) };
            let options = SandboxOptions { team, ..SandboxOptions::default() };
            self.sandbox = Some((wanted, Sandbox::start(options).await?));
        }
        let (_, sandbox) = self.sandbox.as_ref().ok_or("no sandbox")?;
        let state = sandbox.state();
        state.set_latency(conditions.latency);
        state
            .set_rate_limit(RateLimit { per_minute: conditions.admitted_per_minute, ..RateLimit::default() });
        state.reset_observations();
        Ok(state.clone())
    }

    /// The team was changed: whoever comes next gets a new one.
    pub async fn forget_team(&mut self) {
        if let Some((_, sandbox)) = self.sandbox.take() {
            sandbox.stop().await;
        }
    }

    /// Starts the program on `database` and the sandbox.
    pub fn start(
        &self,
        arguments: &[&str],
        database: &Database,
        conditions: Conditions,
        settings: &[(&str, &str)],
    ) -> Outcome<Daemon> {
        let (_, sandbox) = self.sandbox.as_ref().ok_or("no sandbox")?;
        let mut environment = Options::sandbox_credentials();
        let rate = conditions.requests_per_minute.to_string();
        let page_size = conditions.page_size.to_string();
        environment.push(("HEYMARKET_SYNC__API__REQUESTS_PER_MINUTE".to_owned(), rate.into()));
        environment.push(("HEYMARKET_SYNC__API__PAGE_SIZE".to_owned(), page_size.into()));
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
        environment.extend(settings);
        self.start_on(arguments, database, &sandbox.base_url(), environment)
    }

    /// Starts the program on `database` and the API at `base_url`.
    pub fn start_on(
        &self,
        arguments: &[&str],
        database: &Database,
        base_url: &str,
        mut environment: Vec<(String, OsString)>,
    ) -> Outcome<Daemon> {
        environment.push(("HEYMARKET_API_BASE_URL".to_owned(), base_url.into()));
        environment.push(("DATABASE_URL".to_owned(), database.url().into()));
        Daemon::start(&self.binary, arguments, &environment, self.server.dir())
    }

    /// Fills `database` with a team of so many messages by `sync`, and checks that every row has come.
    pub async fn fill(
        &mut self,
        database: &Database,
        messages: usize,
        conditions: Conditions,
    ) -> Outcome<Fill> {
        let state = self.serve(messages, conditions).await?;
        let spent = self.start(&["sync"], database, conditions, &[])?.finished().await?;
        let (rows, wanted) = (database.rows().await?, rows(messages));
        if rows != wanted {
            return Err(format!("{rows} rows came of {wanted}").into());
        }
        Ok(Fill { rows, spent, counters: state.counters() })
    }

    pub async fn stop(mut self) -> Outcome<()> {
        self.forget_team().await;
        self.server.stop().await
    }
}

/// A team as the sandbox makes it by default, in other numbers.
fn team(messages: usize) -> TeamOptions {
    TeamOptions {
        messages,
        conversations: messages / 10,
        contacts: messages / 12,
        span: Duration::from_secs(180 * 86_400),
        ..TeamOptions::default()
    }
}

/// Rows of a team of so many messages.
pub fn rows(messages: usize) -> u64 {
    let team = team(messages);
    (team.messages + team.conversations + team.contacts) as u64
}

/// The fewest requests that can bring all rows of such a team.
pub fn least_requests(messages: usize, page_size: usize) -> u64 {
    let team = team(messages);
    let pages = [team.messages, team.conversations, team.contacts].map(|rows| rows.div_ceil(page_size));
    pages.iter().sum::<usize>() as u64
}

/// Requests for the pages of the three streams.
pub fn page_requests(counters: &Counters) -> u64 {
    let listed = [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts];
    listed.map(|endpoint| counters.requests_to(endpoint)).iter().sum()
}
