//! The database's address where a file holds it: read again when the server refuses the login.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tracing::info;

use super::connect;

/// Reads the address again; `None` where that cannot be done. It may block.
pub type Reread = Arc<dyn Fn() -> Option<SecretString> + Send + Sync>;

/// An address that may change, and the connections that are made from it.
pub(super) struct Address {
    again: Reread,
    pools: [PgPool; 2],
    used: Mutex<Used>,
}

struct Used {
    url: SecretString,
    /// How many addresses there were before this one.
    change: u64,
}

/// An address that was read and can be used.
pub(super) struct Read {
    pub url: SecretString,
    pub options: PgConnectOptions,
}

impl Address {
    pub fn new(url: SecretString, again: Reread, pools: [PgPool; 2]) -> Self {
        Self { again, pools, used: Mutex::new(Used { url, change: 0 }) }
    }

    /// Which address is in use, for [`Address::is_other`].
    pub fn change(&self) -> u64 {
        self.locked().change
    }

    /// Reads the address again, and has new connections made from it; returns whether it is another one than that of
    /// `change`, which the server refused.
    pub async fn is_other(&self, change: u64) -> bool {
        let Some(read) = read(&self.again).await else { return false };
        let mut used = self.locked();
        if used.url.expose_secret() != read.url.expose_secret() {
            *used = Used { url: read.url, change: used.change + 1 };
            for pool in &self.pools {
                pool.set_connect_options(read.options.clone());
            }
            info!(
                "the server refused the login; the file of the database's address has another one, used from now on"
            );
        }
        used.change != change
    }

    fn locked(&self) -> MutexGuard<'_, Used> {
        // Whole after any panic.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address")
    }
}

/// Reads an address again; `None` where there is none that can be used.
pub(super) async fn read(again: &Reread) -> Option<Read> {
    let again = Arc::clone(again);
    // A file system may hang.
    let url = tokio::task::spawn_blocking(move || again()).await.ok()??;
    let options = connect::options(&url).ok()?;
    Some(Read { url, options })
}
