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
