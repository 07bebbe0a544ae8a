//! A time line of a stream: how its pages are asked for and where its coverage is kept.

use std::borrow::Cow;

use crate::api::endpoints::{CursorField, Order, PageRequest, View};
use crate::api::model::{Stream, TimeField};
use crate::store::LineKey;

use super::ids::Ids;
use super::walk::Ask;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub stream: Stream,
    /// The field that orders the line.
    pub field: TimeField,
    pub view: View,
    /// The inbox whose rows it shows; `None`: of all.
    pub inbox: Option<i64>,
}

impl Line {
    pub fn new(stream: Stream, field: TimeField, view: View) -> Self {
        Self { stream, field, view, inbox: None }
    }

    /// Conversations of a view, in an inbox or in all.
    pub fn conversations(view: View, inbox: Option<i64>) -> Self {
        Self { inbox, ..Self::new(Stream::Conversations, TimeField::Updated, view) }
    }

    /// The line on which all of a stream's history is wanted.
    pub fn main(stream: Stream) -> Self {
        let field = match stream {
            Stream::Messages => TimeField::Date,
            Stream::Conversations | Stream::Contacts => TimeField::Updated,
        };
        Self::new(stream, field, View::Default)
    }

    /// The changes of messages, which `date` does not show.
    pub fn message_changes() -> Self {
        Self::new(Stream::Messages, TimeField::Updated, View::Default)
    }

    /// The name in `heymarket_sync.coverage`: the field, the view where it is not the endpoint's own, and the inbox
    /// where it is one alone. Lines that may show different rows have different names.
    pub fn name(&self) -> Cow<'static, str> {
        let name = match (self.field, self.view) {
            (TimeField::Date, _) => "date",
            (TimeField::Updated, View::Default) => "updated",
            (TimeField::Updated, View::Closed) => "updated/closed",
            (TimeField::Updated, View::Archived) => "updated/archived",
        };
        self.inbox.map_or(Cow::Borrowed(name), |inbox| format!("{name}/inbox {inbox}").into())
    }

    /// The line of this name; `None` where this version names none so.
    pub fn named(stream: Stream, name: &str) -> Option<Self> {
        let inbox = name.rsplit_once("/inbox ").and_then(|(_, inbox)| inbox.parse().ok());
        let fields = [TimeField::Date, TimeField::Updated];
        let views = [View::Default, View::Closed, View::Archived];
        let mut lines = fields
            .into_iter()
            .flat_map(|field| views.map(|view| Self { inbox, ..Self::new(stream, field, view) }));
        lines.find(|line| line.name() == name)
    }

    pub fn key(&self, pass: &str) -> LineKey {
        LineKey { stream: self.stream, line: self.name().into_owned(), pass: pass.to_owned() }
    }

    /// The field that carries the cursor by the documentation: `created_at` for messages \[S\], `date` for the
    /// others \[V\].
    pub fn cursor_field(&self) -> CursorField {
        match self.stream {
            Stream::Messages => CursorField::CreatedAt,
            Stream::Conversations | Stream::Contacts => CursorField::Date,
        }
    }

    /// The request for its newest row.
    pub fn newest_row(&self, ids: &Ids) -> PageRequest {
        self.request(&Ask { cursor: None, limit: 1, page: None }, None, ids)
    }

    /// `cursor_field` where tests found another than the documented one; `ids` are those that conversations want.
    pub fn request(&self, ask: &Ask, cursor_field: Option<CursorField>, ids: &Ids) -> PageRequest {
        let order = match (self.stream, self.field) {
            (Stream::Messages, TimeField::Updated) => Order::UpdatedAt,
            _ => Order::Default,
        };
        PageRequest {
            stream: self.stream,
            view: self.view,
            inboxes: self.inbox.into_iter().collect(),
            id: ids.of(self),
            order,
            cursor: ask.cursor,
            cursor_field: cursor_field.unwrap_or_else(|| self.cursor_field()),
            limit: ask.limit,
            page: ask.page,
            ascending: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lines_that_may_show_different_rows_have_ledgers_of_their_own() {
        let views = [View::Default, View::Closed, View::Archived];
        let inboxes = [None, Some(1), Some(-12)];
        let lines = views.into_iter().flat_map(|view| inboxes.map(|inbox| Line::conversations(view, inbox)));
        let names: BTreeSet<_> = lines.clone().map(|line| line.name()).collect();
        assert_eq!(names.len(), 9);
        for line in lines.chain([Line::main(Stream::Messages), Line::message_changes()]) {
            assert_eq!(Line::named(line.stream, &line.name()), Some(line));
        }
        assert_eq!(Line::named(Stream::Conversations, "updated/closed by inbox"), None);
    }
}
