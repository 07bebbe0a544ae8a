//! The lead: taken, kept, and given up.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::{Holder, LEASE_POLL, LEASE_RENEWAL, LEASE_TTL, Lease, Store, StoreError};
use crate::sync::scheduler::SyncError;
use crate::telemetry;

use super::{App, AppError, rest};

/// How long `sync` waits for the lead.
pub(super) const LEAD_WAIT: Duration = Duration::from_secs(30);
/// How long the database may say nothing to writes, while it lets the lead be renewed, until the lead is given up: a
/// transaction may take a minute, and the next is on a new session.
const WRITES_SILENT: Duration = Duration::from_secs(75);
/// How long a leader that gave up leaves the lead to others, each of which looks every [`LEASE_POLL`].
const LEFT_TO_OTHERS: Duration = Duration::from_secs(2);

impl App {
    /// Takes the lead if it is free. The schema is looked at before: since this process looked last, a newer program
    /// may have changed it, or the database may have been made anew.
    pub(super) async fn try_lead(&self) -> Result<Result<Lease, Holder>, StoreError> {
        match self.store.leader().await {
            Ok(Some(present)) => {
                self.store.forget_outage();
                return Ok(Err(present));
            }
            Err(error) if !error.is_undefined() => return Err(error),
            _ => {}
        }
        self.bring_up_to_date().await?;
        self.store.acquire_lease(&self.holder).await
    }

    pub(super) async fn wait_for_lead(&self, cancel: &CancellationToken) -> Result<Lease, AppError> {
        let deadline = Instant::now() + LEAD_WAIT;
        loop {
            match self.store.acquire_lease(&self.holder).await? {
                Ok(lease) => return Ok(lease),
                Err(holder) if Instant::now() >= deadline => return Err(AppError::Led(holder)),
                Err(_) if cancel.is_cancelled() => return Err(SyncError::Stopped.into()),
                Err(_) => rest(LEASE_POLL, cancel).await,
            }
        }
    }

    /// Ends a term: gives the lead back. Returns how long it should be left to others.
    pub(super) async fn give_up(&self, lease: Lease, keeper: Keeper) -> Duration {
        keeper.task.abort();
        if keeper.gave_up.is_cancelled() {
            return LEFT_TO_OTHERS;
        }
        // Whoever comes next waits for the lease to expire where this fails.
        if let Err(error) = self.store.release_lease(&lease).await {
            warn!(error = telemetry::chain(&error), "the lead could not be given up; it expires by itself");
        }
        Duration::ZERO
    }
}

/// Renews the lease, and cancels the term when it is lost, or when the lead is of no use: then it gives it up at once,
/// while the term may still wait for its last statement.
pub(super) struct Keeper {
    task: JoinHandle<()>,
    gave_up: CancellationToken,
}

impl Keeper {
    pub(super) fn spawn(store: Store, lease: Lease, cancel: CancellationToken) -> Self {
        let gave_up = CancellationToken::new();
        let given_up = gave_up.clone();
        let task = tokio::spawn(async move {
            let mut renewed = Instant::now();
            let mut told = false;
            loop {
                tokio::time::sleep(LEASE_RENEWAL).await;
                match tokio::time::timeout(LEASE_TTL, store.renew_lease(&lease)).await {
                    Ok(Ok(())) => {
                        if told {
                            info!("the lead is renewed again");
                        }
                        told = false;
                        renewed = Instant::now();
                        let Some(silent) = store.silent_for().filter(|silent| *silent > WRITES_SILENT) else {
                            continue;
                        };
                        warn!(
                            seconds = silent.as_secs(),
                            "the database renews the lead and does not answer writes; giving the lead up for another \
                             process to try"
                        );
                        given_up.cancel();
                        // It expires by itself where this fails.
                        let _ = tokio::time::timeout(LEASE_TTL, store.release_lease(&lease)).await;
                        cancel.cancel();
                        return;
                    }
                    Ok(Err(StoreError::LeadLost)) => {
                        warn!("the lead was lost to another process");
                        cancel.cancel();
                        return;
                    }
                    // Each writing transaction checks the epoch: writing on is safe, whoever leads.
                    failed if renewed.elapsed() > LEASE_TTL && !told => {
                        let error = match failed {
                            Ok(Err(error)) => telemetry::chain(&error),
                            _ => format!("the database does not answer within {} s", LEASE_TTL.as_secs()),
                        };
                        warn!(error, "the lead could not be renewed; trying on");
                        told = true;
                    }
                    _ => {}
                }
            }
        });
        Self { task, gave_up }
    }
}
