//! Which `id` lists the conversations of every inbox.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use tokio::try_join;

use crate::api::client::Inbox;
use crate::api::endpoints::{PageRequest, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::Stream;
use crate::sync::ids::Ids;
use crate::sync::line::Line;
use crate::sync::walk::Ask;

use super::cursor::CursorTest;
use super::views::TRIES;
use super::{Answer, Finding, NEWEST_ROW, Newest, Probe, Question, Seen};

/// Members of an inbox that are tried: one may have left.
const MEMBERS_TRIED: usize = 3;
/// Requests that look for rows in inboxes that the newest page does not show.
const GROUPS_ASKED: usize = 4;

/// How conversations are listed.
pub(super) struct Listing {
    pub ids: Ids,
    /// The lines of the endpoint's own list.
    pub own: Vec<Line>,
    /// The one of them that the cursor was tested on, and its newest page.
    pub line: Line,
    pub top: Seen,
    pub cursor: CursorTest,
    pub findings: Vec<Finding>,
    /// `None` where the API does not tell.
    pub inboxes: Option<Vec<Inbox>>,
}

/// A member whose id lists an inbox.
struct Member {
    inbox: i64,
    id: i64,
    /// Rows came, not merely an empty list.
    shows: bool,
}

impl Probe<'_> {
    /// Finds the ids that list the conversations of every inbox. None at all and 0 are tried before a member's: they
    /// need one line instead of one for each inbox. An empty list never wins over one with rows.
    pub(super) async fn listing(self) -> Result<Listing, ApiError> {
        let main = Line::main(Stream::Conversations);
        let newest = Ask { limit: self.limit, ..NEWEST_ROW };
        let own = |ids: &Ids| main.request(&newest, None, ids);
        let (documented, inboxes) =
            try_join!(async { self.newest(&own(&Ids::Documented), TRIES).await }, self.inboxes())?;
        let known = inboxes.as_deref().unwrap_or_default();
        let mut answered = None;
        let mut first = Some(documented);
        for ids in [Ids::Documented, Ids::Zero] {
            let probe = Probe { ids: &ids, ..self };
            let shown = match first.take() {
                Some(shown) => shown,
                None => self.newest(&own(&ids), TRIES).await?,
            };
            match shown {
                Newest::Shown(top) => {
                    let cursor = probe.cursor_field(&main, &top).await?;
                    if probe.misses_an_inbox(&main, &top, &cursor, known).await? {
                        continue;
                    }
                    let evidence = "it lists conversations, and none of an inbox is known to be missing";
                    let finding = Finding::new(Question::Id, Answer::Id(ids.kind()), evidence);
                    let (own, findings) = (vec![main], vec![finding]);
                    return Ok(Listing { ids, own, line: main, top, cursor, findings, inboxes });
                }
                Newest::Empty => drop(answered.get_or_insert(ids)),
                Newest::Refused => {}
            }
        }
        // The endpoint's own list may be empty because it hides every row.
        if let Some(ids) = &answered {
            let closed = Line::conversations(View::Closed, None).newest_row(ids);
            if let Newest::Shown(_) = self.newest(&closed, TRIES).await? {
                let evidence = "it lists closed conversations; there are no others";
                let finding = Finding::new(Question::Id, Answer::Id(ids.kind()), evidence);
                return self.unlisted(ids.clone(), finding, inboxes).await;
            }
        }
        let shown = self.any_member_shows(known).await?;
        if shown || answered.is_none() && !known.is_empty() {
            return self.by_members(inboxes.unwrap_or_default(), shown).await;
        }
        let finding = match (&answered, &inboxes) {
            (None, None) => {
                tracing::warn!(
                    "the API refuses requests for conversations without a member's id, and does not list the \
                     inboxes and their members: only conversations of messages can be mirrored"
                );
                Finding::new(Question::Id, Answer::Undecided, "requests are refused, and no member is known")
            }
            _ => Finding::new(Question::Id, Answer::Undecided, "no request lists a conversation"),
        };
        self.unlisted(answered.unwrap_or_default(), finding, inboxes).await
    }

    /// The endpoint's own list is empty.
    async fn unlisted(
        self,
        ids: Ids,
        finding: Finding,
        inboxes: Option<Vec<Inbox>>,
    ) -> Result<Listing, ApiError> {
        let (line, top) = (Line::main(Stream::Conversations), Seen::default());
        let cursor = self.cursor_field(&line, &top).await?;
        Ok(Listing { ids, own: vec![line], line, top, cursor, findings: vec![finding], inboxes })
    }

    /// One line for each inbox, each asked for with the id of a member of its own; `shown`: such a request lists
    /// conversations, not merely an empty list.
    async fn by_members(self, inboxes: Vec<Inbox>, shown: bool) -> Result<Listing, ApiError> {
        let members = try_join_all(inboxes.iter().map(|inbox| self.member_of(inbox))).await?;
        let members: Vec<_> = members.into_iter().flatten().collect();
        let ids = Ids::members(members.iter().map(|member| (member.inbox, member.id)));
        let answer = if shown { Answer::Id(ids.kind()) } else { Answer::Undecided };
        let evidence = "requests without an id of a member do not list the conversations of every inbox";
        let mut findings = vec![Finding::new(Question::Id, answer, evidence)];
        for inbox in &inboxes {
            let member = members.iter().find(|member| member.inbox == inbox.id);
            let (answer, evidence) = match member {
                Some(member) if member.shows => (Answer::Member(member.id), "it lists conversations"),
                Some(_) => (Answer::Undecided, "it lists nothing yet"),
                None => {
                    tracing::warn!(
                        inbox = inbox.id,
                        members = inbox.members.len(),
                        "no member's id lists this inbox: it stays open until one does"
                    );
                    (Answer::Undecided, "no member's id lists it")
                }
            };
            findings.push(Finding::new(Question::Member(inbox.id), answer, evidence));
        }
        let own: Vec<_> =
            inboxes.iter().map(|inbox| Line::conversations(View::Default, Some(inbox.id))).collect();
        // The cursor is tested where there are most rows.
        let probe = Probe { ids: &ids, ..self };
        let showing =
            |line: &&Line| members.iter().any(|member| line.inbox == Some(member.inbox) && member.shows);
        let showing: Vec<_> = own.iter().filter(showing).collect();
        let sizes = try_join_all(showing.iter().map(|line| probe.total(line))).await?;
        let largest = showing.into_iter().zip(sizes).max_by_key(|(_, size)| *size).map(|(line, _)| *line);
        let line = largest.or(own.first().copied()).unwrap_or(Line::main(Stream::Conversations));
        let top = match largest {
            Some(line) => probe.page(&line, None, None, self.limit).await?,
            None => Seen::default(),
        };
        let cursor = probe.cursor_field(&line, &top).await?;
        Ok(Listing { ids, own, line, top, cursor, findings, inboxes: Some(inboxes) })
    }

    /// The first of the inbox's members whose id lists conversations; else one whose request is answered at all.
    async fn member_of(self, inbox: &Inbox) -> Result<Option<Member>, ApiError> {
        let members: BTreeSet<i64> = inbox.members.iter().copied().collect();
        let tried: Vec<i64> = members.into_iter().take(MEMBERS_TRIED).collect();
        let line = Line::conversations(View::Default, Some(inbox.id));
        let mut answered = None;
        // 0 may list an inbox that nobody belongs to; that it lists nothing says nothing.
        for id in tried.into_iter().chain([0]) {
            let request = line.request(&NEWEST_ROW, None, &Ids::members([(inbox.id, id)]));
            match self.newest(&request, 1).await? {
                Newest::Shown(_) => return Ok(Some(Member { inbox: inbox.id, id, shows: true })),
                Newest::Empty if id != 0 => drop(answered.get_or_insert(id)),
                Newest::Empty | Newest::Refused => {}
            }
        }
        Ok(answered.map(|id| Member { inbox: inbox.id, id, shows: false }))
    }

    /// Whether a member's id lists anything at all, open or closed.
    async fn any_member_shows(self, inboxes: &[Inbox]) -> Result<bool, ApiError> {
        let all: BTreeSet<i64> = inboxes.iter().map(|inbox| inbox.id).collect();
        for view in [View::Default, View::Closed] {
            for (member, group) in groups(inboxes, &all).into_iter().take(GROUPS_ASKED) {
                let request = as_member(view, member, group);
                if let Newest::Shown(_) = self.newest(&request, 1).await? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether a member's id shows a conversation that the line does not list. Inboxes that its newest page shows are
    /// not asked for.
    async fn misses_an_inbox(
        self,
        line: &Line,
        top: &Seen,
        cursor: &CursorTest,
        inboxes: &[Inbox],
    ) -> Result<bool, ApiError> {
        let unseen =
            inboxes.iter().map(|inbox| inbox.id).filter(|inbox| !top.inboxes.contains(inbox)).collect();
        for (member, group) in groups(inboxes, &unseen).into_iter().take(GROUPS_ASKED) {
            if let Newest::Shown(seen) = self.newest(&as_member(View::Default, member, group), 1).await?
                && let Some(row) = seen.placed.first()
                && self.lists(line, cursor.field(), top, *row).await? == Some(false)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `None` where the API does not tell, or names none.
    pub(super) async fn inboxes(self) -> Result<Option<Vec<Inbox>>, ApiError> {
        match self.client.inboxes(Priority::Tail, self.cancel).await {
            Ok(inboxes) => {
                let inboxes: BTreeMap<i64, Inbox> =
                    inboxes.into_iter().map(|inbox| (inbox.id, inbox)).collect();
                Ok((!inboxes.is_empty()).then(|| inboxes.into_values().collect()))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Forbidden | ErrorKind::NotFound | ErrorKind::NotJson
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The newest conversation of some inboxes, in the name of a member of all of them.
fn as_member(view: View, member: i64, inboxes: Vec<i64>) -> PageRequest {
    let request = Line::conversations(view, None).newest_row(&Ids::Never);
    PageRequest { id: Some(member), inboxes, ..request }
}

/// Members, and inboxes of each, so that few of them cover all of `wanted` that has members: the largest first.
fn groups(inboxes: &[Inbox], wanted: &BTreeSet<i64>) -> Vec<(i64, Vec<i64>)> {
    let mut by_member = BTreeMap::<i64, BTreeSet<i64>>::new();
    for inbox in inboxes.iter().filter(|inbox| wanted.contains(&inbox.id)) {
        for member in &inbox.members {
            by_member.entry(*member).or_default().insert(inbox.id);
        }
    }
    let mut groups = Vec::new();
    while let Some((member, group)) =
        by_member.iter().rev().max_by_key(|(_, group)| group.len()).map(|(id, group)| (*id, group.clone()))
        && !group.is_empty()
    {
        for others in by_member.values_mut() {
            others.retain(|inbox| !group.contains(inbox));
        }
        groups.push((member, group.into_iter().collect()));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(id: i64, members: &[i64]) -> Inbox {
        Inbox { id, name: String::new(), members: members.to_vec(), team: None }
    }

    #[test]
    fn few_members_cover_all_inboxes() {
        let inboxes = [inbox(1, &[7, 8]), inbox(2, &[8]), inbox(3, &[9]), inbox(4, &[]), inbox(5, &[7, 8])];
        let all = (1..=5).collect();
        assert_eq!(groups(&inboxes, &all), [(8, vec![1, 2, 5]), (9, vec![3])]);
        assert_eq!(groups(&inboxes, &BTreeSet::from([1, 4])), [(7, vec![1])]);
        assert_eq!(groups(&inboxes, &BTreeSet::new()), []);
    }
}
