//! Rejects tried again on request, by whoever leads.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Holder, LEASE_POLL, RetryOutcome};
use crate::sync::retry;
use crate::sync::scheduler::SyncError;

use super::lead::Keeper;
use super::{App, AppError, TAKE_UP, rest};

impl App {
    /// Tries the rejects `ids` again: hands them to the leader, or leads itself where there is none. `told` hears
    /// who leads, where another does, and how many still wait.
    pub async fn retry_rejects(
        &self,
        ids: &[i64],
        cancel: &CancellationToken,
        mut told: impl FnMut(Option<&Holder>, usize),
    ) -> Result<RetryOutcome, AppError> {
        let mut fewest = usize::MAX;
        let mut moved = Instant::now();
        loop {
            let waiting = self.store.waiting_retries(ids).await?;
            if waiting == 0 {
                return Ok(self.store.retry_outcome(ids).await?);
            }
            if waiting < fewest {
                fewest = waiting;
                moved = Instant::now();
            }
            if cancel.is_cancelled() {
                return Err(SyncError::Stopped.into());
            }
            match self.store.acquire_lease(&self.holder).await? {
                Ok(lease) => {
                    told(None, waiting);
                    let cancel = cancel.child_token();
                    let keeper = Keeper::spawn(self.store.clone(), lease.clone(), cancel.clone());
                    let done = retry::work_off(&self.store, &lease, &cancel).await;
                    self.give_up(lease, keeper).await;
                    done?;
                }
                Err(holder) if moved.elapsed() > TAKE_UP => {
                    return Err(AppError::Unheeded { holder, what: format!("{waiting} rejects") });
                }
                Err(holder) => {
                    told(Some(&holder), waiting);
                    rest(LEASE_POLL, cancel).await;
                }
            }
        }
    }
}
