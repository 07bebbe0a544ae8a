//! The mark for incremental readers, and the stamps of the transactions that write rows.
//!
//! A transaction takes one stamp when it begins and writes it into `_synced_at` of all its rows. Readers take the rows
//! below the mark, `heymarket.settled_at()`, so no rows may appear below a mark that somebody has read:
//!
//! 1. A stamp is never below the mark, nor below an earlier stamp's successor, even if the database's clock steps back.
//! 2. The leader advances the mark up to the least stamp of its open transactions.
//! 3. At its end, a transaction locks the mark until it has committed, and fails if its stamp is below. An advance
//!    cannot pass that lock.
//!
//! The third rule alone is enough, whoever else writes and whatever becomes of a transaction whose answer was lost. The
//! first two keep transactions from failing.
//!
//! The mark is advanced by a transaction that begins after those below it have committed, so the log, and each replica,
//! has it after their rows. It waits for the disk even where rows do not: what a crash of the server undoes lies
//! above each mark that was visible, unless the server itself is set not to wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::StoreError;

/// The stamps of this process's open transactions. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamps {
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// No stamp taken from now on is below it; `None`: the database's clock is not known yet.
    floor: Option<DateTime<Utc>>,
    /// For each open transaction its stamp, or the floor when it asked for one.
    stamps: BTreeMap<u64, Option<DateTime<Utc>>>,
    /// Number of the next transaction.
    next: u64,
}

/// The stamp of one transaction, which counts as open until this is dropped.
#[derive(Debug)]
pub(super) struct Stamp {
    at: DateTime<Utc>,
    _place: Place,
}

/// A transaction's place among the open ones.
#[derive(Debug)]
struct Place {
    stamps: Stamps,
    number: u64,
}

impl Stamps {
    /// Takes a stamp for the transaction of `connection`: the database's time, or the mark where that is later.
    pub async fn take(&self, connection: &mut PgConnection) -> Result<Stamp, StoreError> {
        let (place, floor) = self.enter();
        let at = sqlx::query_scalar!(
            r#"SELECT greatest(clock_timestamp(), settled_at, $1) AS "at!" FROM heymarket.settled"#,
            floor,
        )
        .fetch_one(connection)
        .await
        .map_err(StoreError::query("taking a stamp"))?;
        let mut open = self.locked();
        open.stamps.insert(place.number, Some(at));
        open.floor = open.floor.max(Some(at + TimeDelta::microseconds(1)));
        drop(open);
        Ok(Stamp { at, _place: place })
    }

    /// How far the mark may be advanced: below it, no transaction of this process is open or will begin. `None`:
    /// nothing is known yet.
    pub fn settled(&self) -> Option<DateTime<Utc>> {
        let open = self.locked();
        // None, the least, wins.
        open.stamps.values().copied().chain([open.floor]).min().flatten()
    }

    /// Notes a time that the database's clock has shown.
    pub fn learn(&self, clock: DateTime<Utc>) {
        let mut open = self.locked();
        open.floor = open.floor.max(Some(clock));
    }

    fn enter(&self) -> (Place, Option<DateTime<Utc>>) {
        let mut open = self.locked();
        let (number, floor) = (open.next, open.floor);
        open.next += 1;
        open.stamps.insert(number, floor);
        (Place { stamps: self.clone(), number }, floor)
    }

    fn locked(&self) -> MutexGuard<'_, Open> {
        // Whole after any panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stamp {
    /// What the transaction's rows have as `_synced_at`.
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// Locks the mark until the transaction ends. The last statement of each transaction that writes rows.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] where the mark is above the stamp: the transaction must not commit.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let holds = sqlx::query_scalar!(
            r#"SELECT settled_at <= $1 AS "holds!" FROM heymarket.settled FOR SHARE"#,
            self.at,
        )
        .fetch_one(connection)
        .await
        .map_err(StoreError::query("checking a stamp"))?;
        if holds { Ok(()) } else { Err(StoreError::Overtaken) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stamps.locked().stamps.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn the_mark_stays_below_each_open_transaction() {
        let stamps = Stamps::default();
        let (unknown, floor) = stamps.enter();
        assert_eq!(floor, None);
        stamps.learn(at(5));
        assert_eq!(stamps.settled(), None, "the first one may get any stamp");
        drop(unknown);
        assert_eq!(stamps.settled(), Some(at(5)));

        let (first, floor) = stamps.enter();
        assert_eq!(floor, Some(at(5)));
        stamps.learn(at(7));
        let (second, floor) = stamps.enter();
        assert_eq!(floor, Some(at(7)));
        stamps.learn(at(6));
        stamps.learn(at(9));
        assert_eq!(stamps.settled(), Some(at(5)));
        drop(first);
        assert_eq!(stamps.settled(), Some(at(7)));
        drop(second);
        assert_eq!(stamps.settled(), Some(at(9)));
    }
}
