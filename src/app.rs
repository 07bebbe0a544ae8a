//! The composition root: builds everything from the settings, and owns the lead.

mod backfill;
mod guard;
mod lead;
mod rejects;
pub mod team;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::client::Client;
use crate::api::error::ApiError;
use crate::api::model::Stream;
use crate::config::{Database, Settings};
use crate::crash::{self, CrashPoint};
use crate::embedded::{Durability, Embedded, EmbeddedError, EmbeddedOptions};
use crate::http::{self, HttpError, Service};
use crate::store::{self, Holder, LEASE_POLL, Lease, Reread, Rights, SchemaState, Store, StoreError};
use crate::sync::progress::Progress;
use crate::sync::scheduler::{SyncError, Term};
use crate::telemetry;

use self::guard::Guard;
use self::lead::{Keeper, LEAD_WAIT};
use self::team::OtherTeam;

pub use self::backfill::{BackfillProgress, Window};

/// How long a leader may take over the next of what it was asked to do.
const TAKE_UP: Duration = Duration::from_secs(60);
/// How long `run` rests before it asks a database again that failed, and after a term that ended with an error.
const REST: Duration = Duration::from_secs(1);
/// The longest rest; it doubles with each term that trying again at once did not help.
const REST_MOST: Duration = Duration::from_secs(60);
/// How often a daemon looks whether a newer program has changed the schema.
const SCHEMA_LOOK: Duration = Duration::from_secs(2);
/// Errors of one outage of the database that are told in the log.
const TOLD_MOST: usize = 8;
/// How long HTTP clients may take for the rest of their requests once the daemon stops.
const HTTP_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the embedded PostgreSQL could not be used")]
    Embedded(#[from] EmbeddedError),
    #[error("the database could not be used")]
    Store(#[from] StoreError),
    #[error("the API client could not be built")]
    Api(#[from] ApiError),
    #[error("the HTTP server could not be started")]
    Http(#[from] HttpError),
    #[error("the sync failed")]
    Sync(#[from] SyncError),
    #[error(
        "{} leads since {} and did not give the lead up within {} s; stop it, or wait until it has ended",
        .0.holder, .0.acquired_at, LEAD_WAIT.as_secs()
    )]
    Led(Holder),
    #[error(
        "{} leads and did not take up {what} within {} s; see its log, or stop it and try again",
        .holder.holder, TAKE_UP.as_secs()
    )]
    Unheeded { holder: Holder, what: String },
    #[error(
        "all of that is younger than sync.settle_margin ({}), which `run` reads again all the time and `sync` each \
         time", humantime::format_duration(*.0)
    )]
    Unsettled(Duration),
    #[error("{} leads, and left a part of it open, which it tries again from time to time: {outcome}", .holder.holder)]
    BackfillOpen { holder: Holder, outcome: String },
    #[error("the schema is not up to date; run `heymarket-sync migrate` with a role that may create tables")]
    NotMigrated,
    #[error("{0}; let the schema's owner run: {grants}", grants = .0.grants())]
    Rights(Box<Rights>),
    #[error(
        "the schema is to be brought up to date, and role {} may not do that; run `heymarket-sync migrate` as {}",
        .0.role, .0.owner.as_deref().unwrap_or("a role that may create schemas in the database")
    )]
    NotOwner(Box<Rights>),
    #[error(transparent)]
    OtherTeam(Arc<OtherTeam>),
    #[error("{0}; try again, and ask Heymarket's support if it stays so")]
    TeamUndecided(Arc<str>),
    #[error("the team of the API key could not be found out")]
    TeamUnchecked(#[source] Arc<SyncError>),
}

/// Settings, database and what is counted while the process runs.
pub struct App {
    pub settings: Arc<Settings>,
    pub store: Store,
    pub progress: Arc<Progress>,
    embedded: Option<Embedded>,
    holder: String,
}

impl App {
    /// Connects to the database; starts the embedded one where none is configured. `verb` names this process to
    /// others. Fails when cancelled.
    pub async fn open(settings: Settings, verb: &str, cancel: &CancellationToken) -> Result<Self, AppError> {
        let (url, embedded) = match &settings.database.url {
            Some(url) => (url.clone(), None),
            None => {
                let options = EmbeddedOptions {
                    data_dir: settings.embedded.data_dir.clone(),
                    bin_dir: settings.embedded.bin_dir.clone(),
                    durability: Durability::Durable,
                };
                let embedded = Embedded::start(&options, cancel).await?;
                info!(
                    data = %embedded.data_dir().display(),
                    "no DATABASE_URL or database.url is set: using an embedded PostgreSQL"
                );
                (SecretString::from(embedded.url()), Some(embedded))
            }
        };
        let opened = async {
            let Database { max_connections, synchronous_commit, .. } = settings.database;
            let file = settings.database.url_file.clone();
            let again = file.map(|file| -> Reread { Arc::new(move || file.read().ok()) });
            let store = store::connect_rereading(&url, max_connections, again).await?;
            let store = store.synchronous_commit(synchronous_commit);
            store.check_server().await?;
            Ok::<_, AppError>(store)
        };
        let opened = tokio::select! {
            opened = opened => opened,
            () = cancel.cancelled() => Err(SyncError::Stopped.into()),
        };
        let store = match opened {
            Ok(store) => store,
            Err(error) => {
                stop(embedded).await;
                return Err(error);
            }
        };
        Ok(Self {
            settings: Arc::new(settings),
            store,
            progress: Arc::default(),
            embedded,
            holder: format!("{} (pid {}, {verb})", host(), std::process::id()),
        })
    }

    /// The command that opens the database in psql, where it is the embedded one.
    pub fn psql_command(&self) -> Option<String> {
        self.embedded.as_ref().map(Embedded::psql_command)
    }

    /// Applies the schema where it is behind. A schema newer than this program is refused.
    ///
    /// # Errors
    /// [`SyncError::Stopped`] where it is cancelled before: a migration may wait for others for long.
    pub async fn migrate(&self, cancel: &CancellationToken) -> Result<usize, AppError> {
        tokio::select! {
            applied = self.bring_up_to_date() => Ok(applied?),
            () = cancel.cancelled() => Err(SyncError::Stopped.into()),
        }
    }

    /// Sees that the schema is current and that the role may work with it, before anything else is done.
    ///
    /// # Errors
    /// [`AppError::Rights`] and [`AppError::NotOwner`], which say what to do.
    async fn prepare(&self, cancel: &CancellationToken) -> Result<(), AppError> {
        let rights = self.store.rights().await?;
        // Without them, not even the schema's version can be read.
        if !rights.schemas.is_empty() {
            return Err(AppError::Rights(Box::new(rights)));
        }
        match self.store.schema_state().await? {
            SchemaState::Current => {}
            SchemaState::Pending(_) if !rights.can_migrate => {
                return Err(AppError::NotOwner(Box::new(rights)));
            }
            _ => {
                self.migrate(cancel).await?;
                return Ok(());
            }
        }
        if rights.suffice() { Ok(()) } else { Err(AppError::Rights(Box::new(rights))) }
    }

    async fn bring_up_to_date(&self) -> Result<usize, StoreError> {
        match self.store.schema_state().await? {
            SchemaState::Current => Ok(0),
            _ => {
                let applied = self.store.migrate().await?;
                crash::pass(CrashPoint::Migrated);
                Ok(applied)
            }
        }
    }

    /// Catches up once with `streams` (none: all that are enabled).
    pub async fn sync(&self, streams: &[Stream], cancel: &CancellationToken) -> Result<(), AppError> {
        self.prepare(cancel).await?;
        let client = self.client()?;
        let guard = Guard::spawn(&client, &self.store, false, cancel);
        loop {
            let lease = self.wait_for_lead(cancel).await?;
            let (term, keeper) = self.term(&client, lease.clone(), cancel);
            let outcome = guard.during(&lease, &term.cancel.clone(), term.catch_up(streams)).await;
            self.give_up(lease, keeper).await;
            match outcome {
                Err(AppError::Sync(SyncError::Store(error @ StoreError::ServerRestarted))) => {
                    warn!(%error, "reading again")
                }
                outcome => return outcome,
            }
        }
    }

    /// The daemon: serves HTTP, stands by for the lead, and keeps the mirror current while leading. Returns when
    /// cancelled. `listening` is told the address of the HTTP server.
    ///
    /// # Errors
    /// [`StoreError::SchemaTooNew`] where a newer program brings the schema to its version meanwhile: the lead is given
    /// up, and a newer program is to be started in place of this one.
    pub async fn run(
        &self,
        cancel: &CancellationToken,
        listening: impl FnOnce(SocketAddr),
    ) -> Result<(), AppError> {
        match self.prepare(cancel).await {
            Err(AppError::Sync(SyncError::Stopped)) => return Ok(()),
            prepared => prepared?,
        }
        let stop = cancel.child_token();
        let outgrown = async {
            let error = self.outgrown().await;
            // Whatever is under way ends as at a signal.
            stop.cancel();
            error
        };
        let mut outgrown = std::pin::pin!(outgrown);
        let mut working = std::pin::pin!(self.work(&stop, listening));
        let mut error = None;
        loop {
            tokio::select! {
                worked = &mut working => return worked.and(error.map_or(Ok(()), |error| Err(AppError::Store(error)))),
                too_new = &mut outgrown, if error.is_none() => error = Some(too_new),
            }
        }
    }

    /// Returns once the schema is newer than this program: its statements may do harm there.
    async fn outgrown(&self) -> StoreError {
        loop {
            tokio::time::sleep(SCHEMA_LOOK).await;
            // What else may be wrong with the database is found out by those who use it.
            if let Ok(SchemaState::Newer(found)) = self.store.schema_state().await {
                return StoreError::too_new(found);
            }
        }
    }

    async fn work(
        &self,
        cancel: &CancellationToken,
        listening: impl FnOnce(SocketAddr),
    ) -> Result<(), AppError> {
        let client = self.client()?;
        let guard = Guard::spawn(&client, &self.store, true, cancel);
        let standing = guard.standing();
        let objection = Arc::new(move || standing.borrow().reason());
        let progress = Arc::clone(&self.progress);
        let service = Service::new(self.store.clone(), progress, client.availability(), objection);
        let (address, mut server) =
            http::serve(self.settings.http.listen, service.clone(), cancel.clone()).await?;
        listening(address);
        info!(%address, "listening");
        let mut standing_by = false;
        let mut outage = OutageLog::default();
        let mut delay = REST;
        let ended = loop {
            if let Some((other, from_start)) = guard.refusal() {
                if from_start {
                    break Err(AppError::OtherTeam(other));
                }
                tokio::select! {
                    () = guard.accepts() => {}
                    () = cancel.cancelled() => break Ok(()),
                }
            }
            let acquired = tokio::select! {
                acquired = self.try_lead() => acquired,
                () = cancel.cancelled() => break Ok(()),
            };
            match acquired {
                Ok(Ok(lease)) => {
                    crash::pass(CrashPoint::LeadAcquired);
                    outage.over();
                    info!(epoch = lease.epoch(), "leading");
                    standing_by = false;
                    let begun = Instant::now();
                    service.leads(true);
                    let (term, keeper) = self.term(&client, lease.clone(), cancel);
                    let outcome = guard.during(&lease, &term.cancel.clone(), term.run()).await;
                    service.leads(false);
                    let left_to_others = self.give_up(lease, keeper).await;
                    rest(left_to_others, cancel).await;
                    if begun.elapsed() > REST_MOST {
                        delay = REST;
                    }
                    match outcome {
                        // What the guard says is logged by itself.
                        Ok(()) | Err(AppError::Sync(SyncError::Stopped) | AppError::OtherTeam(_)) => {}
                        Err(error) => {
                            warn!(error = telemetry::chain(&error), "the term ended; trying again");
                            rest(delay, cancel).await;
                            if !matches!(&error, AppError::Sync(error) if passes(error)) {
                                delay = (delay * 2).min(REST_MOST);
                            }
                        }
                    }
                }
                Ok(Err(holder)) => {
                    outage.over();
                    if !standing_by {
                        info!(leader = holder.holder, "standing by");
                        guard.stands_by();
                    }
                    standing_by = true;
                    tokio::select! {
                        () = rest(LEASE_POLL, cancel) => {}
                        () = guard.refuses() => {}
                    }
                }
                // Told by the program's end.
                Err(StoreError::SchemaTooNew { .. }) => rest(REST, cancel).await,
                // A daemon that has begun outlives whatever befalls the database: a password that is rotated, a
                // database that is made anew, a role that loses its rights. Whoever mends that need not restart it.
                Err(error) => {
                    // The pool only tells that it has waited.
                    let error = tokio::select! {
                        probed = self.store.probe() => probed.err().unwrap_or(error),
                        () = cancel.cancelled() => break Ok(()),
                    };
                    outage.tell(&error);
                    rest(REST, cancel).await;
                }
            }
        };
        if ended.is_err() {
            server.abort();
            return ended;
        }
        // The server ends with the token; a panic in it is not lost, and a client that does not finish is not
        // waited for.
        match tokio::time::timeout(HTTP_GRACE, &mut server).await {
            Ok(Err(error)) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
            Ok(Ok(())) => {}
            Err(_) => server.abort(),
        }
        Ok(())
    }

    fn client(&self) -> Result<Client, AppError> {
        if let Some(host) = self.settings.api.unencrypted_host() {
            warn!(
                host,
                "api.base_url is plain http: texts, phone numbers and tokens cross the network unencrypted"
            );
        }
        Ok(Client::new(&self.settings.api)?)
    }

    /// Ends the connections, then the embedded database.
    pub async fn close(self) {
        self.store.close().await;
        stop(self.embedded).await;
    }

    fn term(&self, client: &Client, lease: Lease, cancel: &CancellationToken) -> (Term, Keeper) {
        let cancel = cancel.child_token();
        let keeper = Keeper::spawn(self.store.clone(), lease.clone(), cancel.clone());
        let term = Term {
            client: client.clone(),
            store: self.store.clone(),
            lease,
            holder: self.holder.clone(),
            settings: Arc::clone(&self.settings),
            progress: Arc::clone(&self.progress),
            cancel,
        };
        (term, keeper)
    }
}

/// What the log was told of an outage of the database: each error once, and its end.
#[derive(Default)]
struct OutageLog {
    told: Vec<String>,
}

impl OutageLog {
    fn tell(&mut self, error: &StoreError) {
        let error = telemetry::chain(error);
        if !self.told.contains(&error) && self.told.len() < TOLD_MOST {
            warn!(error, "the database cannot be used; trying on");
            self.told.push(error);
        }
    }

    fn over(&mut self) {
        if !std::mem::take(&mut self.told).is_empty() {
            info!("the database can be used again");
        }
    }
}

/// Whether a new term may well succeed at once after one that ended so.
fn passes(error: &SyncError) -> bool {
    let ends_a_lead =
        |error: &StoreError| matches!(error, StoreError::LeadLost | StoreError::ServerRestarted);
    matches!(error, SyncError::Store(error) if error.is_transient() || ends_a_lead(error))
}

async fn rest(time: Duration, cancel: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = cancel.cancelled() => {}
    }
}

async fn stop(embedded: Option<Embedded>) {
    if let Some(embedded) = embedded
        && let Err(error) = embedded.stop().await
    {
        warn!(error = telemetry::chain(&error), "the embedded PostgreSQL did not stop cleanly");
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
