//! PostgreSQL: the mirror, the coverage ledger and the lead. Knows nothing of HTTP.
//!
//! Rows and the intervals that they prove go in together, through [`Store::commit`], in one
//! transaction that ends by checking that this process still leads.

mod availability;
mod batch;
mod commit;
mod connect;
mod contacts;
mod conversations;
mod copy;
mod coverage;
mod error;
mod kept;
mod lease;
mod messages;
mod page_rejects;
mod readings;
mod refusal;
mod rejects;
mod requests;
mod retries;
mod rights;
mod runs;
mod schema;
mod status;
mod team;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::api::model::Stream;

use self::{availability::Availability, kept::Kept};

pub use self::{
    availability::Outage,
    batch::{Batch, Tally},
    commit::Committed,
    connect::{ServerInfo, connect},
    coverage::PassState,
    error::{Cause, StoreError},
    lease::{Holder, LEASE_POLL, LEASE_RENEWAL, LEASE_TTL, Lease},
    page_rejects::UnreadablePage,
    readings::{Reading, UNDECIDED},
    rejects::HeldReject,
    requests::Asked,
    retries::{Requested, RetryOutcome},
    rights::Rights,
    runs::Run,
    schema::SchemaState,
    status::{Status, StreamStatus},
    team::BoundTeam,
};

/// The name of the pass that is the mirror itself; every other pass reads a window again.
pub const STANDING: &str = "standing";

/// How the names of passes begin that walk a window again on request.
pub const BACKFILL: &str = "backfill";

/// One database that holds one team's mirror. Cheap to clone: clones share the connections.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// For rows alone: a session for each stream, if there are enough.
    writer: PgPool,
    /// The session that the leader asks on all the time.
    asking: Kept,
    /// The sessions that rows are written on.
    writing: Kept,
    /// As many as there are of those: whoever waited for one in the pool would not get one that is kept.
    turns: Arc<Semaphore>,
    availability: Availability,
    over_unix_socket: bool,
    /// Whether rows wait for the disk.
    synchronous_commit: bool,
}

impl Store {
    /// A store over connections that the caller made; see [`connect`] for those made from an address.
    pub fn from_pool(pool: PgPool) -> Self {
        let none = Kept::of(pool.clone(), 0);
        Self {
            asking: none.clone(),
            writing: none,
            turns: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            over_unix_socket: connect::is_unix_socket(&pool.connect_options()),
            writer: pool.clone(),
            pool,
            availability: Availability::default(),
            synchronous_commit: false,
        }
    }

    /// Whether each transaction with rows waits until it is on disk, as the server's own settings tell (`false` at
    /// first: it does not). One that does not wait may be undone by a crash of the server within the next second, as a
    /// whole, and the rows are read again: see [`StoreError::ServerRestarted`].
    pub fn synchronous_commit(self, synchronous_commit: bool) -> Self {
        Self { synchronous_commit, ..self }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        // Closed first: no session is kept from here on, and none that is would let it end.
        let closed = self.pool.close();
        self.asking.end();
        let writers_closed = self.writer.close();
        self.writing.end();
        writers_closed.await;
        closed.await;
    }

    /// The connections, but for those that rows are written with.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// One time line of one stream in one pass: the key of a row of the coverage ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineKey {
    pub stream: Stream,
    /// The field that orders the line and, after a slash, the view where there are several.
    pub line: String,
    /// [`STANDING`], or the name of a pass that reads a window again.
    pub pass: String,
}
