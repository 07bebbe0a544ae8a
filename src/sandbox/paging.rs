//! What a page request asks for, and the rows it gets.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{
    endpoint::Endpoint,
    rows::Conversation,
    table::{Line, walk},
    team::Team,
};

/// How the sandbox reads what the documents leave open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Rows where no `limit` is sent \[V\].
    pub default_limit: usize,
    /// Rows at most, whatever `limit` says.
    pub cap: usize,
    /// The number of the first page.
    pub first_page: usize,
    pub conversations: DefaultView,
}

impl Default for Paging {
    fn default() -> Self {
        Self { default_limit: 30, cap: 1_000, first_page: 1, conversations: DefaultView::Both }
    }
}

/// Which conversations are listed where the closed state is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DefaultView {
    /// Open ones only.
    Open,
    /// Open and closed ones.
    Both,
}

/// A page request that was understood, for tests to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRead {
    pub endpoint: Endpoint,
    pub cursor: Option<DateTime<Utc>>,
    /// As asked; the cap is not applied.
    pub limit: Option<usize>,
    pub by_updated: bool,
    pub ascending: bool,
    pub page: Option<usize>,
    pub closed: Option<bool>,
    pub unread: Option<bool>,
    pub archived: bool,
    pub inboxes: Vec<i64>,
    /// Rows in the answer.
    pub rows: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    archived: Option<bool>,
    ascending: Option<bool>,
    created_at: Option<String>,
    date: Option<String>,
    filters: Option<Filters>,
    limit: Option<i64>,
    order: Option<String>,
    page: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Filters {
    inboxes: Option<Vec<i64>>,
    closed: Option<bool>,
    unread: Option<bool>,
}

impl PageRead {
    /// Reads a request body; the error says what is wrong with it.
    pub(super) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, String> {
        let body: Body = match body.trim_ascii() {
            b"" => Body::default(),
            // Else an array would be read field by field.
            object @ [b'{', ..] => serde_json::from_slice(object)
                .map_err(|error| format!("the body is no page request: {error}"))?,
            _ => return Err("the body is no JSON object".to_owned()),
        };
        let messages = endpoint == Endpoint::Messages;
        let by_updated = match body.order.as_deref() {
            None | Some("" | "created_at") => !messages,
            Some("updated_at") => true,
            Some(_) => return Err("order is neither created_at nor updated_at".to_owned()),
        };
        let cursor = match body.created_at.filter(|text| messages && !text.is_empty()) {
            Some(text) => read_time("created_at", Some(text))?,
            None => read_time("date", body.date)?,
        };
        let filters = body.filters.unwrap_or_default();
        Ok(Self {
            endpoint,
            cursor,
            limit: read_count("limit", body.limit)?,
            by_updated,
            ascending: body.ascending.unwrap_or(false),
            page: body
                .page
                .map(|page| usize::try_from(page).map_err(|_| "page is negative".to_owned()))
                .transpose()?,
            closed: filters.closed,
            unread: filters.unread,
            archived: body.archived.unwrap_or(false),
            inboxes: filters.inboxes.unwrap_or_default(),
            rows: 0,
        })
    }

    /// Writes the page's array, and notes how many rows it has.
    pub(super) fn write(&mut self, team: &Team, paging: &Paging, out: &mut Vec<u8>) {
        self.rows = match self.endpoint {
            Endpoint::Conversations => {
                let rows = team.conversations();
                let found = self.slots(rows.by_updated(), paging, |slot| self.shows(rows.at(slot), paging));
                write_rows(out, &found, |out, slot| team.write_conversation(out, rows.at(slot)))
            }
            Endpoint::Contacts => {
                let rows = team.contacts();
                let found = self.slots(rows.by_updated(), paging, |_| true);
                write_rows(out, &found, |out, slot| team.write_contact(out, rows.at(slot)))
            }
            _ => {
                let rows = team.messages();
                let line = if self.by_updated { rows.by_updated() } else { team.messages_by_date() };
                let found = self.slots(line, paging, |_| true);
                write_rows(out, &found, |out, slot| team.write_message(out, rows.at(slot)))
            }
        };
    }

    /// How many rows there are of what the request lists, cursor and paging aside.
    pub(super) fn count(&self, team: &Team, paging: &Paging) -> usize {
        match self.endpoint {
            Endpoint::Conversations => {
                let rows = team.conversations();
                rows.slots().filter(|&slot| self.shows(rows.at(slot), paging)).count()
            }
            Endpoint::Contacts => team.contacts().len(),
            _ => team.messages().len(),
        }
    }

    fn slots(&self, line: &Line, paging: &Paging, shown: impl Fn(u32) -> bool) -> Vec<u32> {
        let limit = self.limit.unwrap_or(paging.default_limit).min(paging.cap);
        let before = self.page.map_or(0, |page| page.saturating_sub(paging.first_page));
        walk(line, self.cursor, self.ascending)
            .filter(|&slot| shown(slot))
            .skip(before.saturating_mul(limit))
            .take(limit)
            .collect()
    }

    /// `archived` is read as another name for closed: the documents don't tell the two apart.
    fn shows(&self, conversation: &Conversation, paging: &Paging) -> bool {
        let closed = match (self.closed, self.archived, paging.conversations) {
            (Some(closed), ..) => Some(closed),
            (None, true, _) => Some(true),
            (None, false, DefaultView::Open) => Some(false),
            (None, false, DefaultView::Both) => None,
        };
        closed.is_none_or(|closed| closed == conversation.is_closed())
            && self.unread.is_none_or(|unread| unread == conversation.is_unread())
            && (self.inboxes.is_empty() || self.inboxes.contains(&conversation.inbox))
    }
}

fn write_rows(out: &mut Vec<u8>, found: &[u32], write: impl Fn(&mut Vec<u8>, u32)) -> usize {
    super::json::array(out, found, |out, &slot| write(out, slot));
    found.len()
}

fn read_time(field: &str, text: Option<String>) -> Result<Option<DateTime<Utc>>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    DateTime::parse_from_rfc3339(&text)
        .map(|time| Some(time.with_timezone(&Utc)))
        .map_err(|_| format!("{field} is no RFC 3339 time"))
}

/// 0 and absent are the same to a server written in Go.
fn read_count(field: &str, count: Option<i64>) -> Result<Option<usize>, String> {
    match count {
        None | Some(0) => Ok(None),
        Some(count) => usize::try_from(count).map(Some).map_err(|_| format!("{field} is negative")),
    }
}
