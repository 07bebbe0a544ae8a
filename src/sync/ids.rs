//! Whose `id` a request for conversations bears.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::endpoints::View;

use super::line::Line;

/// Which `id` lists the conversations of every inbox, as far as tests have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// None for the endpoint's own list \[S\], 0 beside filters \[V\].
    #[default]
    Documented,
    /// None at all.
    Never,
    /// 0 in every request.
    Zero,
    /// By inbox, the user id of one of its members: each inbox is a line of its own.
    Members(Arc<BTreeMap<i64, i64>>),
}

/// What kind of [`Ids`] was found, as it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    Documented,
    Never,
    Zero,
    Member,
}

impl IdKind {
    pub const ALL: [Self; 4] = [Self::Documented, Self::Never, Self::Zero, Self::Member];

    pub fn name(self) -> &'static str {
        match self {
            Self::Documented => "none, and 0 beside filters",
            Self::Never => "none at all",
            Self::Zero => "always 0",
            Self::Member => "a member's",
        }
    }
}

impl Ids {
    pub fn kind(&self) -> IdKind {
        match self {
            Self::Documented => IdKind::Documented,
            Self::Never => IdKind::Never,
            Self::Zero => IdKind::Zero,
            Self::Members(_) => IdKind::Member,
        }
    }

    /// A member for each of these inboxes.
    pub fn members(members: impl IntoIterator<Item = (i64, i64)>) -> Self {
        Self::Members(Arc::new(members.into_iter().collect()))
    }

    /// The `id` of a request for the line.
    pub fn of(&self, line: &Line) -> Option<i64> {
        match self {
            Self::Documented => (line.view == View::Closed || line.inbox.is_some()).then_some(0),
            Self::Never => None,
            Self::Zero => Some(0),
            Self::Members(members) => members.get(&line.inbox?).copied(),
        }
    }

    /// The inboxes that are listed in the name of a member; `None` where none has to be.
    pub fn inboxes(&self) -> Option<impl Iterator<Item = i64> + '_> {
        match self {
            Self::Members(members) => Some(members.keys().copied()),
            _ => None,
        }
    }

    pub fn are_members(&self) -> bool {
        matches!(self, Self::Members(_))
    }

    /// Whether there is a request that lists the line: an inbox that only a member may ask for, and without one, has
    /// none.
    pub fn can_ask(&self, line: &Line) -> bool {
        match self {
            Self::Members(members) => line.inbox.is_none_or(|inbox| members.contains_key(&inbox)),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::model::Stream;

    #[test]
    fn each_line_is_asked_for_with_the_id_that_lists_it() {
        let members = Ids::members([(4, 40)]);
        let cases = [
            (View::Default, None, [None, None, Some(0), None]),
            (View::Closed, None, [Some(0), None, Some(0), None]),
            (View::Archived, None, [None, None, Some(0), None]),
            (View::Default, Some(4), [Some(0), None, Some(0), Some(40)]),
            (View::Closed, Some(5), [Some(0), None, Some(0), None]),
        ];
        for (view, inbox, expected) in cases {
            let line = Line::conversations(view, inbox);
            let ids = [Ids::Documented, Ids::Never, Ids::Zero, members.clone()];
            assert_eq!(ids.map(|ids| ids.of(&line)), expected, "{line:?}");
        }
        assert!(members.can_ask(&Line::conversations(View::Closed, Some(4))));
        assert!(!members.can_ask(&Line::conversations(View::Default, Some(5))));
        assert!(members.can_ask(&Line::main(Stream::Conversations)));
        assert!(Ids::Zero.can_ask(&Line::conversations(View::Default, Some(5))));
    }
}
