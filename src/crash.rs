//! Points at which a test has the process die, as a power cut would end it: no code of ours runs any more.
//!
//! Compiled in only with the feature `crash-points`, which the tests alone switch on; without it a point is
//! nothing. `HEYMARKET_SYNC_CRASH_AT=before-commit:3` kills the process when it passes that point for the third
//! time.

/// A place between two steps that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    /// The schema was just applied; nothing has used it.
    Migrated,
    /// The lead was just acquired; nothing has been done with it.
    LeadAcquired,
    /// A page was read and not handed to the writer.
    PageRead,
    /// The writer has taken pages from the queue and begun nothing with them.
    PageQueued,
    /// The rows of a transaction are written, their proof is not.
    RowsWritten,
    /// Rows and proof are written, the lead was not checked.
    BeforeLeaseCheck,
    /// Everything is written and checked, nothing committed.
    BeforeCommit,
    /// The commit has happened; nobody has been told.
    AfterCommit,
    /// A recheck has begun a new round; nothing was read for it.
    RecheckRestarted,
    /// A test of the API contradicts what was found before: the first half of taking back and writing down is done.
    Contradicted,
}

#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn pass(_: CrashPoint) {}

#[cfg(feature = "crash-points")]
pub(crate) use armed::pass;

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use rustix::process::{Signal, getpid, kill_process};

    use super::CrashPoint;

    const VARIABLE: &str = "HEYMARKET_SYNC_CRASH_AT";

    /// Where to die, and the passages that are left until then.
    static ARMED: LazyLock<Option<(CrashPoint, AtomicU64)>> = LazyLock::new(|| {
        let armed = std::env::var(VARIABLE).ok()?;
        let parsed = armed.split_once(':').and_then(|(name, nth)| {
            let point = ALL.into_iter().find(|(_, known)| *known == name)?.0;
            Some((point, AtomicU64::new(nth.parse().ok().filter(|nth| *nth > 0)?)))
        });
        Some(parsed.unwrap_or_else(|| panic!("{VARIABLE}={armed}: expected NAME:NTH, with NAME of {ALL:?}")))
    });

    const ALL: [(CrashPoint, &str); 10] = [
        (CrashPoint::Migrated, "migrated"),
        (CrashPoint::LeadAcquired, "lead-acquired"),
        (CrashPoint::PageRead, "page-read"),
        (CrashPoint::PageQueued, "page-queued"),
        (CrashPoint::RowsWritten, "rows-written"),
        (CrashPoint::BeforeLeaseCheck, "before-lease-check"),
        (CrashPoint::BeforeCommit, "before-commit"),
        (CrashPoint::AfterCommit, "after-commit"),
        (CrashPoint::RecheckRestarted, "recheck-restarted"),
        (CrashPoint::Contradicted, "contradicted"),
    ];

    /// Kills the process here if this is the point and the passage that were asked for.
    pub(crate) fn pass(point: CrashPoint) {
        let Some((armed, left)) = &*ARMED else { return };
        if *armed == point && left.fetch_sub(1, Relaxed) == 1 {
            // Only a process that may not signal itself would go on; the test sees that it lives.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}
