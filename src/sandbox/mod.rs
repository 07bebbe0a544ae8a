//! The sandbox API: a server that behaves like Heymarket's, over a team made up from a seed.
//!
//! Used by the `sandbox` and `demo` verbs and, in-process, by tests and benchmarks. Its JSON is written from
//! the vendor's endpoint pages \[S\] with types of its own, never from `api::model`. A [`SandboxState`] gives
//! tests the truth to compare with, and the levers to change and disturb it.

mod auth;
mod connection;
mod corpus;
mod endpoint;
mod fault;
mod generate;
mod json;
mod observe;
mod paging;
mod quota;
mod reading;
mod rows;
mod script;
mod server;
mod slips;
mod state;
mod table;
mod team;
mod traffic;
mod truth;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::connection::{Connection, Door};
pub use self::{
    auth::{SandboxCredentials, SandboxSecret},
    endpoint::Endpoint,
    fault::Fault,
    generate::TeamOptions,
    observe::Counters,
    paging::PageRead,
    quota::RateLimit,
    reading::{CursorFields, DefaultView, IdRule, OtherwiseGets, Paging, Precision, UpdatedOrder, WantedId},
    rows::{CLOSED, Contact, Conversation, Member, Message, Note, OPEN, Row},
    slips::{Slip, Slips},
    state::SandboxState,
    team::{Inbox, TEAM_ID},
    traffic::Event,
};

/// How often live traffic is applied.
const LIVE_TICK: Duration = Duration::from_millis(20);
/// How long requests in the house may take to leave at a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How the sandbox is set up.
#[derive(Clone)]
pub struct SandboxOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub team: TeamOptions,
    pub paging: Paging,
    pub credentials: SandboxCredentials,
    pub rate_limit: RateLimit,
    /// Events a second.
    pub live_rate: f64,
    /// Added to every request that was let in.
    pub latency: Duration,
    /// With which each request meets one of [`Fault::BY_CHANCE`].
    pub fault_probability: f64,
    pub slips: Slips,
    /// Compresses answers for clients that accept it.
    pub gzip: bool,
}

impl Default for SandboxOptions {
    /// A small team on a free port of this machine: documented limits, nothing moves, nothing fails.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            team: TeamOptions::default(),
            paging: Paging::default(),
            credentials: SandboxCredentials::default(),
            rate_limit: RateLimit::default(),
            live_rate: 0.0,
            latency: Duration::ZERO,
            fault_probability: 0.0,
            slips: Slips::default(),
            gzip: false,
        }
    }
}

#[derive(Debug, Error)]
pub enum SandboxError {
    #[error("the sandbox could not listen on {address}: choose another address, or port 0 for a free one")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the sandbox's team could not be generated")]
    Generate(#[source] tokio::task::JoinError),
    #[error("the sandbox's settings could not be printed")]
    Print(#[source] io::Error),
}

/// A running sandbox. Dropping it stops it without waiting.
pub struct Sandbox {
    address: SocketAddr,
    state: SandboxState,
    stopped: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Generates the team and serves it; it answers as soon as this returns.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let listen = options.listen;
        let generated = tokio::task::spawn_blocking(move || SandboxState::generate(&options)).await;
        Self::resume(generated.map_err(SandboxError::Generate)?, listen).await
    }

    /// Serves a team that exists already, as after an outage.
    pub async fn resume(state: SandboxState, listen: SocketAddr) -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stopped = CancellationToken::new();
        let service: IntoMakeServiceWithConnectInfo<_, Connection> =
            server::router(&state, &stopped).into_make_service_with_connect_info();
        let serving = axum::serve(Door(listener), service)
            .with_graceful_shutdown(stopped.clone().cancelled_owned())
            .into_future();
        let serving = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the sandbox's server failed");
            }
        });
        let live = tokio::spawn(run_live(state.clone(), stopped.clone()));
        Ok(Self { address, state, stopped, tasks: vec![serving, live] })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and the address, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn credentials(&self) -> SandboxCredentials {
        self.state.credentials()
    }

    pub fn state(&self) -> &SandboxState {
        &self.state
    }

    /// Ends requests and connections; within five seconds.
    pub async fn stop(mut self) {
        self.stopped.cancel();
        let deadline = tokio::time::Instant::now() + STOP_GRACE;
        for task in &mut self.tasks {
            if tokio::time::timeout_at(deadline, &mut *task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

async fn run_live(state: SandboxState, stopped: CancellationToken) {
    let mut rate = state.live_rate();
    loop {
        let moving = *rate.borrow_and_update() > 0.0;
        let pause = async {
            if moving {
                tokio::time::sleep(LIVE_TICK).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = stopped.cancelled() => return,
            changed = rate.changed() => if changed.is_err() { return },
            () = pause => {
                state.tick(state.now());
            }
        }
    }
}
