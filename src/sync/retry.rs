//! Another try at rejects, on request.

use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::lenient;
use crate::api::model::Rows;
use crate::store::{Lease, Store, StoreError};

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
                lenient::read_row(request.stream, &request.payload, &mut rows);
                (request, rows)
            })
            .collect();
        store.settle_retries(lease, tried).await?;
        info!(rejects = count, "tried again on request");
    }
    Ok(())
}
