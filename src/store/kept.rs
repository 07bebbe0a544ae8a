//! Sessions that are in use all the time: kept, since a pool asks the server when it gives a session and again when
//! it takes it back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{PgPool, Postgres, pool::PoolConnection};

/// Some sessions of a pool, shared by all clones of a [`Store`](super::Store).
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pool: PgPool,
    /// How many are kept at most.
    room: usize,
    sessions: Arc<Mutex<Vec<PoolConnection<Postgres>>>>,
}

impl Kept {
    pub fn of(pool: PgPool, room: usize) -> Self {
        Self { pool, room, sessions: Arc::default() }
    }

    /// A session that was kept, or one of the pool where none is, or all are in use. It ends unless it is kept.
    pub async fn session(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        // Not in a match: the lock must not be held while waiting for the pool.
        let kept = self.locked().pop();
        let mut session = match kept {
            Some(session) => session,
            None => self.pool.acquire().await?,
        };
        // The pool would ask the server whether it is still there, and wait for the answer for ever.
        session.close_on_drop();
        Ok(session)
    }

    /// Keeps the session for the next time. Not for one on which a statement failed.
    pub fn keep(&self, session: PoolConnection<Postgres>) {
        let mut sessions = self.locked();
        if sessions.len() < self.room && !self.pool.is_closed() {
            sessions.push(session);
        }
    }

    /// Ends the sessions.
    pub fn end(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        // Whole after any panic.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
