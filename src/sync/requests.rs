//! Takes up what other processes ask for, as long as this process leads.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::{Lease, Store, StoreError};
use crate::telemetry;

use super::retry;

/// How often it is looked for requests.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is looked for rejects that are to be deleted, once there are none.
const LOOK_FOR_OLD: Duration = Duration::from_secs(600);

/// The task of a term that looks for requests: it tries rejects again by itself, and tells the lines of backfills. It
/// also deletes rejects that were resolved long ago.
pub struct Requests {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Requests {
    /// The receiver tells whether there are backfills.
    pub fn spawn(store: Store, lease: Lease, cancel: &CancellationToken) -> (Self, watch::Receiver<bool>) {
        let cancel = cancel.child_token();
        let token = cancel.clone();
        let (backfills, told) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut failing = false;
            let mut old_due = Instant::now();
            loop {
                match look(&store, &lease, &backfills, &mut old_due, &token).await {
                    Ok(()) => failing = false,
                    // The term ends by itself.
                    Err(StoreError::LeadLost) => return,
                    Err(error) => {
                        if !failing {
                            warn!(
                                error = telemetry::chain(&error),
                                "what others ask for could not be taken up"
                            );
                        }
                        failing = true;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = token.cancelled() => return,
                }
            }
        });
        (Self { cancel, task }, told)
    }

    /// Ends the task once what it has in hand is committed.
    pub async fn stop(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn look(
    store: &Store,
    lease: &Lease,
    backfills: &watch::Sender<bool>,
    old_due: &mut Instant,
    cancel: &CancellationToken,
) -> Result<(), StoreError> {
    if Instant::now() >= *old_due && store.delete_old_rejects().await? {
        *old_due = Instant::now() + LOOK_FOR_OLD;
    }
    let asked = store.asked().await?;
    backfills.send_if_modified(|told| std::mem::replace(told, asked.backfills) != asked.backfills);
    if asked.retries { retry::work_off(store, lease, cancel).await } else { Ok(()) }
}
