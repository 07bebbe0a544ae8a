//! What a page request asks for, and the rows it gets.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{
    endpoint::Endpoint,
    json,
    reading::{DefaultView, OtherwiseGets, Paging, UpdatedOrder, WantedId},
    rows::{Contact, Conversation, Message, Row},
    slips::{Disturbance, Slip},
    table::{Line, Table, walk},
    team::Team,
};

/// A page request that was understood, for tests to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRead {
    pub endpoint: Endpoint,
    /// That of the field that is heeded, as asked.
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
    /// As asked; 0 and absent are told apart.
    pub id: Option<i64>,
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
    id: Option<i64>,
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
    /// Reads a request body as `paging` wants it read; the error says what is wrong with it.
    pub(super) fn parse(endpoint: Endpoint, body: &[u8], paging: &Paging) -> Result<Self, String> {
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
            Some("updated_at") => !messages || paging.updated_order != UpdatedOrder::Ignored,
            Some(_) => return Err("order is neither created_at nor updated_at".to_owned()),
        };
        let created_at = read_time("created_at", body.created_at)?;
        let date = read_time("date", body.date)?;
        let fields = if messages { paging.message_cursor } else { paging.row_cursor };
        let filters = body.filters.unwrap_or_default();
        Ok(Self {
            endpoint,
            cursor: fields.pick(created_at, date),
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
            id: body.id,
            rows: 0,
        })
    }

    /// Refuses a request for conversations whose `id` is not the wanted one, where it is not to be answered with
    /// nothing instead.
    pub(super) fn check_id(&self, team: &Team, paging: &Paging) -> Result<(), String> {
        match paging.conversation_id.otherwise {
            OtherwiseGets::BadData if !self.has_wanted_id(team, paging) => {
                Err("id is not the wanted one".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn has_wanted_id(&self, team: &Team, paging: &Paging) -> bool {
        self.endpoint != Endpoint::Conversations
            || match paging.conversation_id.wanted {
                WantedId::Any => true,
                WantedId::None => self.id.is_none(),
                WantedId::Zero => self.id == Some(0),
                WantedId::Member => {
                    self.id.is_some_and(|id| team.inboxes.iter().any(|inbox| inbox.members.contains(&id)))
                }
            }
    }

    /// The inboxes whose conversations the request may list; `None`: all.
    fn visible(&self, team: &Team, paging: &Paging) -> Option<Vec<i64>> {
        let rule = &paging.conversation_id;
        if !self.has_wanted_id(team, paging) {
            return Some(Vec::new());
        }
        let member = match self.id.filter(|id| *id != 0) {
            Some(id) if rule.own_inboxes_only => id,
            Some(_) => return None,
            None => rule.stands_for?,
        };
        let own = team.inboxes.iter().filter(|inbox| inbox.members.contains(&member));
        Some(own.map(|inbox| inbox.id).collect())
    }

    /// Writes the page's array, and notes how many rows it has.
    pub(super) fn write(
        &mut self,
        team: &Team,
        paging: &Paging,
        disturbance: &mut Disturbance,
        out: &mut Vec<u8>,
    ) {
        self.rows = match self.endpoint {
            Endpoint::Conversations => {
                let rows = team.conversations();
                let list = List { rows, line: rows.by_updated(), time: Conversation::updated };
                let visible = self.visible(team, paging);
                let shown = |row: &Conversation| {
                    self.shows(row, paging, visible.as_deref()) && team.is_listed(self.endpoint, row.id)
                };
                let found = self.page(&list, paging, disturbance, shown);
                json::array(out, &found, |out, row| team.write_conversation(out, row));
                found.len()
            }
            Endpoint::Contacts => {
                let rows = team.contacts();
                let list = List { rows, line: rows.by_updated(), time: Row::updated };
                let listed = |row: &Contact| team.is_listed(Endpoint::Contacts, row.id);
                let found = self.page(&list, paging, disturbance, listed);
                json::array(out, &found, |out, row| team.write_contact(out, row));
                found.len()
            }
            _ => {
                let rows = team.messages();
                let list = if self.by_updated {
                    List { rows, line: rows.by_updated(), time: Message::updated }
                } else {
                    List { rows, line: team.messages_by_date(), time: |row| row.date }
                };
                let cursor = self.cursor.map(|cursor| paging.precision.cut(cursor));
                let found = if self.by_updated && paging.updated_order == UpdatedOrder::CursorByDate {
                    let whole = Self { cursor: None, ..self.clone() };
                    let below = |row: &Message| {
                        team.is_listed(Endpoint::Messages, row.id)
                            && cursor.is_none_or(|cursor| {
                                if self.ascending {
                                    row.date >= cursor
                                } else {
                                    row.date < cursor || paging.inclusive && row.date == cursor
                                }
                            })
                    };
                    whole.page(&list, paging, disturbance, below)
                } else {
                    let listed = |row: &Message| team.is_listed(Endpoint::Messages, row.id);
                    self.page(&list, paging, disturbance, listed)
                };
                json::array(out, &found, |out, row| team.write_message(out, row));
                found.len()
            }
        };
    }

    /// How many rows there are of what the request lists, cursor and paging aside.
    pub(super) fn count(&self, team: &Team, paging: &Paging) -> usize {
        match self.endpoint {
            Endpoint::Conversations => {
                let rows = team.conversations();
                let visible = self.visible(team, paging);
                let counts = |row: &Conversation| {
                    self.shows(row, paging, visible.as_deref())
                        && team.is_listed(Endpoint::Conversations, row.id)
                };
                rows.slots().filter(|&slot| counts(rows.at(slot))).count()
            }
            Endpoint::Contacts => count(team, self.endpoint, team.contacts()),
            _ => count(team, Endpoint::Messages, team.messages()),
        }
    }

    fn page<'a, R: Row>(
        &self,
        list: &List<'a, R>,
        paging: &Paging,
        disturbance: &mut Disturbance,
        shown: impl Fn(&R) -> bool,
    ) -> Vec<&'a R> {
        let limit = paging.page_rows(self.limit);
        let page = self.page.filter(|_| paging.heeds_page);
        let before = page.map_or(0, |page| page.saturating_sub(paging.first_page));
        let cursor = self.cursor.map(|cursor| paging.precision.cut(cursor));
        let mut found: Vec<&R> = walk(list.line, cursor, self.ascending, paging.inclusive)
            .map(|slot| list.rows.at(slot))
            .filter(|row| shown(row) && !disturbance.hides((list.time)(row), row.id()))
            .skip(before.saturating_mul(limit))
            .take(limit)
            .collect();
        match disturbance.slip {
            None => {}
            Some(Slip::Empty) => found.clear(),
            Some(Slip::Repeated) => disturbance.repeat(&mut found),
            Some(Slip::Disordered) => disturbance.disorder(&mut found),
            Some(Slip::Overlapping) => {
                let touched = disturbance.touched();
                let above = walk(list.line, self.cursor, !self.ascending, false)
                    .map(|slot| list.rows.at(slot))
                    .filter(|row| shown(row) && !disturbance.hides((list.time)(row), row.id()));
                if self.cursor.is_some() {
                    let above: Vec<&R> = above.take(touched).collect();
                    found.splice(0..0, above.into_iter().rev());
                }
            }
            Some(Slip::Stale) => {
                for old in list.rows.outdated().filter(|row| shown(row)) {
                    if let Some(newer) = found.iter().position(|row| row.id() == old.id()) {
                        found.insert(newer + 1, old);
                    }
                }
            }
            Some(Slip::Outdated) => {
                let within = |row: &&R| {
                    let ends = found.first().zip(found.last()).map(|(a, b)| ((list.time)(a), (list.time)(b)));
                    ends.is_some_and(|(first, last)| {
                        (first.min(last)..=first.max(last)).contains(&(list.time)(row))
                    })
                };
                let outdated = list.rows.outdated().filter(|row| shown(row)).filter(within).collect();
                for old in disturbance.some(outdated) {
                    let time = (list.time)(old);
                    let beyond = |row: &&R| {
                        if self.ascending { (list.time)(row) <= time } else { (list.time)(row) >= time }
                    };
                    found.insert(found.partition_point(beyond), old);
                }
            }
        }
        found.truncate(limit);
        found
    }

    /// `archived` is read as another name for closed: the documents don't tell the two apart.
    fn shows(&self, conversation: &Conversation, paging: &Paging, visible: Option<&[i64]>) -> bool {
        let recent = paging.closed_since.is_none_or(|since| conversation.updated >= since);
        let closed = match (self.closed, self.archived, paging.conversations) {
            (Some(closed), ..) => Some(closed),
            (None, true, _) => Some(true),
            (None, false, DefaultView::Both) if recent => None,
            (None, false, _) => Some(false),
        };
        let unasked = paging.closed_by_inbox && self.inboxes.is_empty();
        !(unasked && (self.closed == Some(true) || self.archived))
            && closed.is_none_or(|closed| closed == conversation.is_closed())
            && self.unread.is_none_or(|unread| unread == conversation.is_unread())
            && visible.is_none_or(|visible| visible.contains(&conversation.inbox))
            && (self.inboxes.is_empty() || self.inboxes.contains(&conversation.inbox))
    }
}

fn count<R: Row>(team: &Team, rows: Endpoint, table: &Table<R>) -> usize {
    table.slots().filter(|&slot| team.is_listed(rows, table.at(slot).id())).count()
}

/// Rows in the order of one time line.
struct List<'a, R> {
    rows: &'a Table<R>,
    line: &'a Line,
    time: fn(&R) -> DateTime<Utc>,
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
