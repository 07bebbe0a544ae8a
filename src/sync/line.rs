//! A time line of a stream: how its pages are asked for and where its coverage is kept.

use std::borrow::Cow;

use crate::api::endpoints::{CursorField, Order, PageRequest, View};
use crate::api::model::{Stream, TimeField};
use crate::store::LineKey;

use super::walk::Ask;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub stream: Stream,
    /// The field that orders the line.
    pub field: TimeField,
    pub view: View,
}

impl Line {
    pub fn new(stream: Stream, field: TimeField, view: View) -> Self {
        Self { stream, field, view }
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

    /// The name in `heymarket_sync.coverage`: the field, and the view where it is not the endpoint's own. Views that
    /// may show different rows have different names, but for those of closed conversations in different inboxes.
    pub fn name(&self) -> Cow<'static, str> {
        let name = match (self.field, &self.view) {
            (TimeField::Date, _) => "date",
            (TimeField::Updated, View::Default) => "updated",
            (TimeField::Updated, View::Closed { inboxes }) if inboxes.is_empty() => "updated/closed",
            (TimeField::Updated, View::Closed { .. }) => "updated/closed by inbox",
            (TimeField::Updated, View::Archived) => "updated/archived",
        };
        Cow::Borrowed(name)
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

    /// `cursor_field` where tests found another than the documented one.
    pub fn request(&self, ask: &Ask, cursor_field: Option<CursorField>) -> PageRequest {
        let order = match (self.stream, self.field) {
            (Stream::Messages, TimeField::Updated) => Order::UpdatedAt,
            _ => Order::Default,
        };
        PageRequest {
            stream: self.stream,
            view: self.view.clone(),
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
        let closed = |inboxes: &[i64]| View::Closed { inboxes: inboxes.to_vec() };
        let views = [View::Default, closed(&[]), closed(&[1, 2]), View::Archived];
        let names: BTreeSet<_> = views
            .into_iter()
            .map(|view| Line::new(Stream::Conversations, TimeField::Updated, view).name())
            .collect();
        assert_eq!(names.len(), 4);
    }
}
