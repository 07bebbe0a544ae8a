//! How the API reads what its documentation leaves open, as far as tests have shown: shared by all walks.

use std::sync::{PoisonError, RwLock};

use futures::FutureExt;
use tokio::sync::Notify;

use crate::api::endpoints::CursorField;
use crate::api::model::Stream;

use super::ids::Ids;

/// The readings in force. Changed when a test finds another; what is asked next follows it.
#[derive(Debug, Default)]
pub struct Readings {
    streams: [StreamReadings; 3],
}

#[derive(Debug, Default)]
struct StreamReadings {
    found: RwLock<Found>,
    doubted: Notify,
}

/// What was found about a stream; the default is what the documentation says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The field that carries the cursor, where it is not the documented one.
    pub cursor: Option<CursorField>,
    /// Rows that the API gives a page at most.
    pub page_rows: Option<u32>,
    /// Every change of a row shows on a time line.
    pub changes_are_seen: bool,
    /// The endpoint's own list leaves out rows that other views show.
    pub views_are_hidden: bool,
    /// The ids that requests for conversations bear.
    pub ids: Ids,
}

impl Readings {
    pub fn of(&self, stream: Stream) -> Found {
        self.streams[stream as usize].found.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A walk met pages that contradict what is in force: it is to be tested anew.
    pub(super) fn doubt(&self, stream: Stream) {
        self.streams[stream as usize].doubted.notify_one();
    }

    pub(super) async fn doubted(&self, stream: Stream) {
        self.streams[stream as usize].doubted.notified().await;
    }

    /// Whether a walk has doubted since this or [`Readings::doubted`] was asked last.
    pub(super) fn is_doubted(&self, stream: Stream) -> bool {
        self.doubted(stream).now_or_never().is_some()
    }

    pub(super) fn put(&self, stream: Stream, found: Found) {
        *self.streams[stream as usize].found.write().unwrap_or_else(PoisonError::into_inner) = found;
    }
}
