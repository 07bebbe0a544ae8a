//! The session that the leader asks on all the time: kept, since a pool asks the server again at each return.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{Postgres, pool::PoolConnection};

use super::Store;

/// Room for one session, shared by all clones of a [`Store`].
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    room: Option<Arc<Mutex<Option<PoolConnection<Postgres>>>>>,
}

impl Kept {
    /// Without room where the pool has no other session.
    pub fn beside(others: u32) -> Self {
        Self { room: (others > 0).then(Arc::default) }
    }

    /// Gives the session back to the pool.
    pub fn end(&self) {
        drop(self.take());
    }

    fn take(&self) -> Option<PoolConnection<Postgres>> {
        self.locked()?.take()
    }

    fn locked(&self) -> Option<MutexGuard<'_, Option<PoolConnection<Postgres>>>> {
        // Whole after any panic.
        Some(self.room.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// The session that is kept, or one of the pool where none is, or it is in use.
    pub(super) async fn kept_session(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        match self.kept.take() {
            Some(session) => Ok(session),
            None => self.pool.acquire().await,
        }
    }

    /// Keeps the session for the next time. Not for one on which a statement failed: the pool looks at it.
    pub(super) fn keep_session(&self, session: PoolConnection<Postgres>) {
        if let Some(mut room) = self.kept.locked()
            && !self.pool.is_closed()
        {
            *room = Some(session);
        }
    }
}
