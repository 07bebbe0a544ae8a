//! The endpoints of the source that the daemon uses, as requests.

use chrono::{DateTime, Utc};
use reqwest::{Method, Url};
use serde_json::{Map, Value};

use super::model::Stream;

/// Which body field carries the page cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CursorField {
    /// `created_at`: messages \[S, in the prose\].
    CreatedAt,
    /// `date`: conversations and contacts \[V\]; in the body of all three \[S\].
    Date,
}

impl CursorField {
    /// The field's name in a request's body.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreatedAt => "created_at",
            Self::Date => "date",
        }
    }
}

/// Which column a page is ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// `order` is left out: the endpoint's own order.
    Default,
    /// `"order": "updated_at"` \[V\].
    UpdatedAt,
}

/// Which rows of a stream a request is to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// What the endpoint lists unasked.
    Default,
    /// Closed conversations: `"filters": {"closed": true}` \[V\].
    Closed,
    /// `"archived": true` \[S\].
    Archived,
}

/// One page of a stream: `POST /v1/messages/all`, `/v1/conversations` or `/v1/contacts` \[S\].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub stream: Stream,
    pub view: View,
    /// Rows of these inboxes alone: `"filters": {"inboxes": […]}` \[V\]; none: of all.
    pub inboxes: Vec<i64>,
    /// `id` of a request for conversations: a member's user id, or 0 \[V\]; `None` leaves it out \[S\].
    pub id: Option<i64>,
    pub order: Order,
    /// Rows before this time; `None` asks for the newest.
    pub cursor: Option<DateTime<Utc>>,
    pub cursor_field: CursorField,
    pub limit: u32,
    /// `page` \[S\], sent as given; `None` leaves it out.
    pub page: Option<u32>,
    /// Oldest rows first: `"ascending": true` \[S\].
    pub ascending: bool,
}

impl PageRequest {
    /// The smallest request of a stream: its newest row.
    pub fn smallest(stream: Stream) -> Self {
        Self {
            stream,
            view: View::Default,
            inboxes: Vec::new(),
            id: None,
            order: Order::Default,
            cursor: None,
            cursor_field: CursorField::Date,
            limit: 1,
            page: None,
            ascending: false,
        }
    }

    /// The JSON body: `limit`, and of the rest only what is set.
    pub fn body(&self) -> Value {
        let mut body = self.listed();
        body.insert("limit".into(), self.limit.into());
        if let Some(cursor) = self.cursor {
            body.insert(self.cursor_field.name().into(), cursor_text(cursor).into());
        }
        if let Some(page) = self.page {
            body.insert("page".into(), page.into());
        }
        if self.ascending {
            body.insert("ascending".into(), true.into());
        }
        if self.order == Order::UpdatedAt {
            body.insert("order".into(), "updated_at".into());
        }
        Value::Object(body)
    }

    /// The JSON body that asks how many rows the request lists, page and cursor aside.
    pub fn count_body(&self) -> Value {
        Value::Object(self.listed())
    }

    /// What says which rows are meant.
    fn listed(&self) -> Map<String, Value> {
        let mut body = Map::new();
        let mut filters = Map::new();
        match self.view {
            View::Default => {}
            View::Archived => drop(body.insert("archived".into(), true.into())),
            View::Closed => drop(filters.insert("closed".into(), true.into())),
        }
        if !self.inboxes.is_empty() {
            filters.insert("inboxes".into(), self.inboxes.clone().into());
        }
        if !filters.is_empty() {
            body.insert("filters".into(), filters.into());
        }
        if let Some(id) = self.id {
            body.insert("id".into(), id.into());
        }
        body
    }
}

/// Prints a time as the source's backend does: UTC with `Z`, 0 to 6 fractional digits, trailing zeros
/// trimmed \[C\]. What is below a microsecond is cut off.
fn cursor_text(time: DateTime<Utc>) -> String {
    let text = time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Page(Stream),
    Conversation(i64),
    History,
    Inboxes,
    Team,
    Count(Stream),
}

/// The JSON value that an endpoint answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Array,
    Object,
    /// A number, bare or as a string.
    Number,
}

impl Endpoint {
    /// Method and path, without ids: fit for errors, logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Page(Stream::Messages) => "POST /v1/messages/all",
            Self::Page(Stream::Conversations) => "POST /v1/conversations",
            Self::Page(Stream::Contacts) => "POST /v1/contacts",
            Self::Conversation(_) => "GET /v1/conversations/{id}",
            Self::History => "GET /v1/messages",
            Self::Inboxes => "GET /v1/inboxes",
            Self::Team => "GET /v1/team",
            Self::Count(Stream::Messages) => "POST /v1/messages/all/count",
            Self::Count(Stream::Conversations) => "POST /v1/conversations/count",
            Self::Count(Stream::Contacts) => "POST /v1/contacts/count",
        }
    }

    pub(super) fn method(self) -> Method {
        match self {
            Self::Page(_) | Self::Count(_) => Method::POST,
            Self::Conversation(_) | Self::History | Self::Inboxes | Self::Team => Method::GET,
        }
    }

    /// The endpoint's address below `base`, which may have a path of its own.
    pub(super) fn url(self, base: &Url) -> Url {
        let path = match self {
            Self::Conversation(id) => format!("/v1/conversations/{id}"),
            _ => self.name().trim_start_matches(|c| c != '/').to_owned(),
        };
        let mut url = base.clone();
        url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
        url
    }

    /// Whether it answers with rows of a stream, as long as they may be.
    pub(super) fn brings_rows(self) -> bool {
        matches!(self, Self::Page(_) | Self::Conversation(_) | Self::History)
    }

    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Page(_) | Self::History | Self::Inboxes => Shape::Array,
            Self::Conversation(_) | Self::Team => Shape::Object,
            Self::Count(_) => Shape::Number,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request() -> PageRequest {
        PageRequest {
            stream: Stream::Conversations,
            view: View::Default,
            inboxes: Vec::new(),
            id: None,
            order: Order::Default,
            cursor: None,
            cursor_field: CursorField::Date,
            limit: 200,
            page: None,
            ascending: false,
        }
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_body_holds_what_is_set_and_nothing_else() {
        let cursor = Some(time("2024-12-22T23:31:49.432030Z"));
        let cases = [
            (request(), json!({"limit": 200})),
            (
                PageRequest { cursor, ..request() },
                json!({"limit": 200, "date": "2024-12-22T23:31:49.43203Z"}),
            ),
            (
                PageRequest { cursor, cursor_field: CursorField::CreatedAt, ..request() },
                json!({"limit": 200, "created_at": "2024-12-22T23:31:49.43203Z"}),
            ),
            (PageRequest { page: Some(0), ..request() }, json!({"limit": 200, "page": 0})),
            (PageRequest { ascending: true, ..request() }, json!({"limit": 200, "ascending": true})),
            (
                PageRequest { order: Order::UpdatedAt, ..request() },
                json!({"limit": 200, "order": "updated_at"}),
            ),
            (PageRequest { view: View::Archived, ..request() }, json!({"limit": 200, "archived": true})),
            (PageRequest { id: Some(7), ..request() }, json!({"limit": 200, "id": 7})),
            (
                PageRequest { view: View::Closed, id: Some(0), ..request() },
                json!({"limit": 200, "id": 0, "filters": {"closed": true}}),
            ),
            (
                PageRequest { view: View::Closed, id: Some(0), inboxes: vec![4, 7], ..request() },
                json!({"limit": 200, "id": 0, "filters": {"closed": true, "inboxes": [4, 7]}}),
            ),
        ];
        for (request, body) in cases {
            assert_eq!(request.body(), body, "{request:?}");
        }
    }

    #[test]
    fn rows_are_counted_as_they_are_listed() {
        let listed = PageRequest { view: View::Closed, id: Some(3), inboxes: vec![4], ..request() };
        let paged = PageRequest { page: Some(2), ascending: true, ..listed };
        assert_eq!(paged.count_body(), json!({"id": 3, "filters": {"closed": true, "inboxes": [4]}}));
        assert_eq!(request().count_body(), json!({}));
    }

    #[test]
    fn a_cursor_is_printed_as_go_prints_times() {
        let cases = [
            ("2024-12-22T23:31:49Z", "2024-12-22T23:31:49Z"),
            ("2024-12-22T23:31:50.000000Z", "2024-12-22T23:31:50Z"),
            ("2024-12-22T23:31:49.5Z", "2024-12-22T23:31:49.5Z"),
            ("2024-12-22T23:31:49.000001Z", "2024-12-22T23:31:49.000001Z"),
            ("2024-12-22T23:31:49.123456789Z", "2024-12-22T23:31:49.123456Z"),
            ("2024-12-23T01:31:49.120+02:00", "2024-12-22T23:31:49.12Z"),
        ];
        for (given, printed) in cases {
            assert_eq!(cursor_text(time(given)), printed);
        }
    }

    #[test]
    fn an_address_keeps_the_path_of_its_base() {
        let cases = [
            ("https://h.test", Endpoint::Page(Stream::Messages), "https://h.test/v1/messages/all"),
            ("https://h.test/", Endpoint::Conversation(-7), "https://h.test/v1/conversations/-7"),
            (
                "http://h.test:81/a/b/",
                Endpoint::Count(Stream::Contacts),
                "http://h.test:81/a/b/v1/contacts/count",
            ),
        ];
        for (base, endpoint, url) in cases {
            assert_eq!(endpoint.url(&base.parse().unwrap()).as_str(), url);
        }
    }
}
