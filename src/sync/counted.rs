//! What the inboxes count, beside what is held: where no request lists all conversations, no list shows what is in no
//! inbox.

use tracing::{info, warn};

use crate::api::model::Stream;
use crate::store::STANDING;

use super::line::Line;
use super::scheduler::{Engine, SyncError};

/// The entry in `heymarket_sync.readings`.
const QUESTION: &str = "how many conversations the inboxes count";

impl Engine {
    /// Compares the sum of what the lines' inboxes count with what is held, once all of the lines is held. A difference
    /// is recorded and logged; it is no error, since counts may differ from lists for reasons of their own.
    pub(super) async fn compare_counts(&self, stream: Stream, lines: &[Line]) -> Result<(), SyncError> {
        let ids = self.reader.readings.of(stream).ids;
        if !ids.are_members() {
            return Ok(());
        }
        let mut counted = 0;
        for line in lines {
            let held = self.store.pass(&line.key(STANDING)).await?;
            let whole = held.is_some_and(|state| {
                state.covered.len() == 1 && state.covered[0].start() <= state.wanted_from
            });
            if !whole {
                return Ok(());
            }
            match self.reader.probe(&ids).total(line).await? {
                Some(rows) => counted += rows,
                None => return Ok(()),
            }
        }
        let held = self.store.held_rows(stream).await?;
        let evidence = format!("{held} are held");
        self.store.put_reading(stream, QUESTION, &counted.to_string(), &evidence).await?;
        if counted == held {
            info!(counted, held, "the inboxes count as many conversations as are held");
        } else {
            warn!(
                counted,
                held,
                "the inboxes count another number of conversations than are held: those in no inbox, or in one \
                 without a member, are not listed; what two lists show is counted twice"
            );
        }
        Ok(())
    }
}
