//! The embedded PostgreSQL: a server of our own for when no database is configured.
//!
//! It is reached by a Unix socket in a directory closed to other users, keeps its data in a lasting
//! directory, and ends with the program, however the program ends. Several processes may use one data
//! directory: the first runs the server, the others use it, and one of them takes over when the first ends.

mod access;
mod account;
mod cluster;
mod error;
mod keeper;
mod postmaster;
mod programs;
mod socket;

use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{cluster::Cluster, keeper::Hold, programs::Places};
pub use self::{cluster::default_data_dir, error::EmbeddedError, programs::OLDEST_MAJOR};

/// The database inside the server that belongs to this program.
pub const DATABASE: &str = "heymarket";

/// Where the server's data and programs are, and how careful it is with the data.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedOptions {
    /// `None`: `/var/lib/heymarket-sync/postgres` for root, else `heymarket-sync/postgres` in the user's
    /// data directory (`$XDG_DATA_HOME`, or `~/.local/share`).
    pub data_dir: Option<PathBuf>,
    /// Where `postgres` and `initdb` are. `None`: they are looked for where packages put them.
    pub bin_dir: Option<PathBuf>,
    pub durability: Durability,
}

/// What a committed transaction survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the machine.
    #[default]
    Durable,
    /// Nothing but a clean stop: for tests, whose data is thrown away.
    Fast,
}

/// A running server. Dropping it stops the server without waiting; [`Embedded::stop`] waits.
#[derive(Debug)]
pub struct Embedded {
    data_dir: PathBuf,
    url: String,
    psql_command: String,
    stopping: CancellationToken,
    keeper: JoinHandle<Result<(), EmbeddedError>>,
}

impl Embedded {
    /// Returns once the server takes connections and the database [`DATABASE`] exists in it.
    ///
    /// Creates the data directory if there is none, uses the server if another process already runs it, and
    /// starts it anew should it end before [`Embedded::stop`]. `cancel` ends only the start itself.
    pub async fn start(
        options: &EmbeddedOptions,
        cancel: &CancellationToken,
    ) -> Result<Embedded, EmbeddedError> {
        let data_dir = options.data_dir.clone().or_else(cluster::default_data_dir);
        let data_dir = data_dir.ok_or(EmbeddedError::NoHome)?;
        let mut cluster = Cluster::prepare(
            &data_dir,
            options.bin_dir.clone(),
            options.durability,
            Places::of_this_machine(),
        )
        .await?;
        let hold = Hold::take(&mut cluster, cancel).await?;
        let stopping = CancellationToken::new();
        Ok(Embedded {
            data_dir: cluster.data_dir().to_owned(),
            url: cluster.socket().url(DATABASE),
            psql_command: cluster.psql_command(),
            keeper: tokio::spawn(keeper::keep(cluster, hold, stopping.clone())),
            stopping,
        })
    }

    /// The address of the database, with neither password nor other secret in it. It holds for as long as
    /// this value lives, also when the server was started anew.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The command that opens the database in psql, for the user that started this program.
    pub fn psql_command(&self) -> String {
        self.psql_command.clone()
    }

    /// The data directory, as an absolute path.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Stops the server, if it is ours, and returns when it has ended; sessions still open are cut off.
    /// After 8 seconds it returns an error, and the server goes on ending by itself.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        self.stopping.cancel();
        (&mut self.keeper).await.unwrap_or(Err(EmbeddedError::Cancelled))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
