//! Sessions that are in use all the time: kept, since a pool asks the server when it gives a session and again when
//! it takes it back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sessions::{Session, Sessions};

/// Some sessions of a pool, shared by all clones of a [`Store`](super::Store).
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pool: Sessions,
    /// How many are kept at most.
    room: usize,
    sessions: Arc<Mutex<Vec<Session>>>,
}

impl Kept {
    pub fn of(pool: Sessions, room: usize) -> Self {
        Self { pool, room, sessions: Arc::default() }
    }

    /// A session that was kept, or one of the pool where none is, or all are in use. It ends unless it is kept.
    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        // Not in a match: the lock must not be held while waiting for the pool.
        let kept = self.locked().pop();
        match kept {
            Some(session) => Ok(session),
            None => self.pool.session().await,
        }
    }

    /// Keeps the session for the next time. Not for one on which a statement failed.
    pub fn keep(&self, session: Session) {
        let mut sessions = self.locked();
        if sessions.len() < self.room && !self.pool.pool().is_closed() {
            sessions.push(session);
        } else {
            session.release();
        }
    }

    /// Ends the sessions that are kept now.
    pub fn end(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Session>> {
        // Whole after any panic.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
