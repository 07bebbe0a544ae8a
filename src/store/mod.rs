//! PostgreSQL: the mirror, the coverage ledger and the lead. Knows nothing of HTTP.
//!
//! Rows and the intervals that they prove go in together, through [`Store::commit`], in one
//! transaction that ends by checking that this process still leads.

mod address;
mod availability;
mod batch;
mod commit;
mod connect;
mod contacts;
mod contradictions;
mod conversations;
mod copy;
mod coverage;
mod error;
mod kept;
mod lease;
mod messages;
mod migration;
mod page_rejects;
mod reach;
mod readings;
mod refusal;
mod rejects;
mod requests;
mod retries;
mod rights;
mod runs;
mod schema;
mod sessions;
mod settings;
mod settled;
mod status;
mod team;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::api::model::Stream;

use self::{availability::Availability, kept::Kept, sessions::Sessions, settled::Stamps};

pub use self::{
    availability::Outage,
    batch::{Batch, Tally},
    commit::Committed,
    connect::{Reread, ServerInfo, connect, connect_rereading},
    contradictions::{Sighted, Sighting},
    coverage::PassState,
    error::{Cause, StoreError},
    lease::{Holder, LEASE_POLL, LEASE_RENEWAL, LEASE_TTL, Lease},
    page_rejects::UnreadablePage,
    reach::{Reach, covered_to},
    readings::{Reading, UNDECIDED},
    rejects::HeldReject,
    requests::Asked,
    retries::{Requested, RetryOutcome},
    rights::Rights,
    runs::{Run, RunError},
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
    pool: Sessions,
    /// For rows alone: a session for each stream, if there are enough.
    writer: Sessions,
    /// The session that the leader asks on all the time.
    asking: Kept,
    /// The sessions that rows are written on.
    writing: Kept,
    /// As many as there are of those: whoever waited for one in the pool would not get one that is kept.
    turns: Arc<Semaphore>,
    availability: Availability,
    /// Of the transactions that write rows.
    stamps: Stamps,
    over_unix_socket: bool,
    /// Whether rows wait for the disk.
    synchronous_commit: bool,
}

impl Store {
    /// A store over connections that the caller made; see [`connect`] for those made from an address.
    pub fn from_pool(pool: PgPool) -> Self {
        let over_unix_socket = connect::is_unix_socket(&pool.connect_options());
        let pool = Sessions::of(pool, None);
        let none = Kept::of(pool.clone(), 0);
        Self {
            asking: none.clone(),
            writing: none,
            turns: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            over_unix_socket,
            writer: pool.clone(),
            pool,
            availability: Availability::default(),
            stamps: Stamps::default(),
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
        let closed = self.pool().close();
        self.asking.end();
        let writers_closed = self.writer.pool().close();
        self.writing.end();
        writers_closed.await;
        closed.await;
    }

    /// The connections, but for those that rows are written with. What is asked of them here has no bound on this
    /// side.
    pub fn pool(&self) -> &PgPool {
        self.pool.pool()
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
