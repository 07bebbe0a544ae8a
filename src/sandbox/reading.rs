//! How the sandbox reads what the documents leave open: every reading that a client must live with.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// The reading of page requests. The default is the one that the documents make most likely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Rows where no `limit` is sent \[V\].
    pub default_limit: usize,
    /// Rows at most, whatever `limit` says.
    pub cap: usize,
    /// Whether `limit` is heeded; else every page has the default number of rows, or the cap where that is less.
    pub heeds_limit: bool,
    /// The number of the first page.
    pub first_page: usize,
    /// Whether `page` is heeded.
    pub heeds_page: bool,
    /// Whether descending pages hold rows at the cursor, too. Ascending ones always do \[C\].
    pub inclusive: bool,
    /// What of the cursor is compared.
    pub precision: Precision,
    /// The fields that messages heed as the cursor.
    pub message_cursor: CursorFields,
    /// The fields that conversations and contacts heed as the cursor.
    pub row_cursor: CursorFields,
    /// What `order: updated_at` does to messages.
    pub updated_order: UpdatedOrder,
    pub conversations: DefaultView,
    /// Of closed conversations, those that the endpoint lists unasked changed at this time or later; `None`: all.
    pub closed_since: Option<DateTime<Utc>>,
    /// Whether closed conversations that are asked for are listed only by inbox, and archived ones not at all.
    pub closed_by_inbox: bool,
    pub conversation_id: IdRule,
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            default_limit: 30,
            cap: 1_000,
            heeds_limit: true,
            first_page: 1,
            heeds_page: true,
            inclusive: false,
            precision: Precision::Exact,
            message_cursor: CursorFields::Both,
            row_cursor: CursorFields::Date,
            updated_order: UpdatedOrder::Honoured,
            conversations: DefaultView::Both,
            closed_since: None,
            closed_by_inbox: false,
            conversation_id: IdRule::default(),
        }
    }
}

impl Paging {
    /// Rows of a page that was asked for with `limit`.
    pub(super) fn page_rows(&self, limit: Option<usize>) -> usize {
        limit.filter(|_| self.heeds_limit).unwrap_or(self.default_limit).min(self.cap)
    }
}

/// What is left of a cursor before it is compared with the rows' times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    Exact,
    Milliseconds,
    Seconds,
}

impl Precision {
    pub(super) fn cut(self, time: DateTime<Utc>) -> DateTime<Utc> {
        let step = match self {
            Self::Exact => return time,
            Self::Milliseconds => TimeDelta::milliseconds(1),
            Self::Seconds => TimeDelta::seconds(1),
        };
        // Fails only for years that no row has.
        time.duration_trunc(step).unwrap_or(time)
    }
}

/// Which fields of a page request are heeded as its cursor; the others count for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CursorFields {
    /// `created_at`, or `date` where that is missing.
    Both,
    CreatedAt,
    Date,
    None,
}

impl CursorFields {
    pub(super) fn pick<T>(self, created_at: Option<T>, date: Option<T>) -> Option<T> {
        match self {
            Self::Both => created_at.or(date),
            Self::CreatedAt => created_at,
            Self::Date => date,
            Self::None => None,
        }
    }
}

/// What `order: updated_at` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UpdatedOrder {
    /// Sorts by `updated`, and the cursor compares with it.
    Honoured,
    /// Sorts by `updated`, while the cursor compares with `date`.
    CursorByDate,
    /// Nothing.
    Ignored,
}

/// Which conversations are listed where the closed state is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DefaultView {
    /// Open ones only.
    Open,
    /// Open and closed ones.
    Both,
}

/// What `id` means in a request for conversations, and for their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRule {
    pub wanted: WantedId,
    /// What a request with another `id` gets.
    pub otherwise: OtherwiseGets,
    /// Whether a member's id lists the inboxes of that member alone.
    pub own_inboxes_only: bool,
    /// The member in whose place requests without a member's id are answered; `None`: they list all inboxes.
    pub stands_for: Option<i64>,
}

/// Which `id` a request for conversations must bear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WantedId {
    /// Whatever it bears is right.
    #[default]
    Any,
    /// It must bear none.
    None,
    /// It must bear 0.
    Zero,
    /// It must bear the user id of a member of an inbox.
    Member,
}

/// What a request with the wrong `id` gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OtherwiseGets {
    /// Status 400.
    #[default]
    BadData,
    /// No rows, as if there were none.
    Empty,
}
