//! Another try at rejects on request, as long as this process leads.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::lenient;
use crate::api::model::Rows;
use crate::store::{Lease, Store, StoreError};
use crate::telemetry;

use super::line::Line;

/// How often it is looked for requests.
const LOOK: Duration = Duration::from_secs(2);

/// The task of a term that takes up what `rejects retry` asks for.
pub struct Retries {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Retries {
    pub fn spawn(store: Store, lease: Lease, cancel: &CancellationToken) -> Self {
        let cancel = cancel.child_token();
        let token = cancel.clone();
        let task = tokio::spawn(async move {
            let mut failing = false;
            loop {
                match work_off(&store, &lease, &token).await {
                    Ok(()) => failing = false,
                    // The term ends by itself.
                    Err(StoreError::LeadLost) => return,
                    Err(error) => {
                        if !failing {
                            warn!(error = telemetry::chain(&error), "rejects could not be tried again");
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
        Self { cancel, task }
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

/// Tries everything that waits for another try, until nothing does or it is cancelled.
///
/// # Errors
/// As of [`Store::settle_retries`].
pub async fn work_off(store: &Store, lease: &Lease, cancel: &CancellationToken) -> Result<(), StoreError> {
    while !cancel.is_cancelled() {
        let requested = store.requested_retries().await?;
        if requested.is_empty() {
            break;
        }
        let count = requested.len();
        let tried = requested
            .into_iter()
            .map(|request| {
                let mut rows = Rows::default();
                let placed_by = Line::main(request.stream).field;
                lenient::read_row(request.stream, Some(placed_by), &request.payload, &mut rows);
                (request, rows)
            })
            .collect();
        store.settle_retries(lease, tried).await?;
        info!(rejects = count, "tried again on request");
    }
    Ok(())
}
