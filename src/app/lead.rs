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

    pub(super) async fn give_up(&self, lease: Lease, keeper: Keeper) {
        keeper.task.abort();
        // Whoever comes next waits for the lease to expire where this fails.
        if let Err(error) = self.store.release_lease(&lease).await {
            warn!(error = telemetry::chain(&error), "the lead could not be given up; it expires by itself");
        }
    }
}

/// Renews the lease, and cancels the term when it is lost.
pub(super) struct Keeper {
    task: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn spawn(store: Store, lease: Lease, cancel: CancellationToken) -> Self {
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
        Self { task }
    }
}
