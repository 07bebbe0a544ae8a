//! The endpoints of the source that the daemon uses, as requests.

use chrono::{DateTime, Utc};

use super::model::Stream;

/// Which body field carries the page cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CursorField {
    /// `created_at`: messages [S, in the prose].
    CreatedAt,
    /// `date`: conversations and contacts [V]; in the body of all three [S].
    Date,
}

/// Which column a page is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// `order` is left out: the endpoint's own order.
    Default,
    /// `"order": "updated_at"` [V].
    UpdatedAt,
}

/// Which rows of a stream a request is to list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// What the endpoint lists unasked.
    Default,
    /// Closed conversations: `"id": 0, "filters": {"closed": true}` [V], with `"inboxes"` where given.
    Closed { inboxes: Vec<i64> },
    /// `"archived": true` [S].
    Archived,
}

/// One page of a stream: `POST /v1/messages/all`, `/v1/conversations` or `/v1/contacts` [S].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub stream: Stream,
    pub view: View,
    pub order: Order,
    /// Rows before this time; `None` asks for the newest.
    pub cursor: Option<DateTime<Utc>>,
    pub cursor_field: CursorField,
    pub limit: u32,
    /// `page` [S], sent as given; `None` leaves it out.
    pub page: Option<u32>,
}
