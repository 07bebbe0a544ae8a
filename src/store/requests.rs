//! What other processes ask whoever leads to do.

use super::{BACKFILL, Store, StoreError};

/// What waits for whoever leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Rejects wait for another try.
    pub retries: bool,
    /// There are backfills, in work or not.
    pub backfills: bool,
}

impl Store {
    /// Looks for all of them at once: it is asked all the time.
    pub async fn asked(&self) -> Result<Asked, StoreError> {
        let failed = || StoreError::query("looking for requests");
        let mut session = self.asking.session().await.map_err(failed())?;
        let asked = sqlx::query_as!(
            Asked,
            r#"
            SELECT EXISTS (SELECT FROM heymarket_sync.rejects
                           WHERE retry_requested_at IS NOT NULL AND resolved_at IS NULL) AS "retries!",
                   EXISTS (SELECT FROM heymarket_sync.coverage WHERE starts_with(pass, $1)) AS "backfills!"
            "#,
            BACKFILL,
        )
        .fetch_one(&mut session)
        .await
        .map_err(failed())?;
        self.asking.keep(session);
        Ok(asked)
    }
}
