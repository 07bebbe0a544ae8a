//! Which conversations the endpoint's own list hides.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DurationRound, TimeDelta};
use futures::future::try_join_all;

use crate::api::endpoints::{CursorField, PageRequest, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::model::TimeField;
use crate::sync::ids::Ids;
use crate::sync::line::Line;
use crate::sync::walk::{Ask, Place};

use super::inboxes::Listing;
use super::{Answer, Finding, NEWEST_ROW, Newest, Probe, Question, Seen, Survey, cursor};

/// How often a list is asked before its answer counts: one page may be empty by accident.
pub(super) const TRIES: usize = 2;
/// Inboxes that a view is sampled in, where each is a list of its own.
const INBOXES_SAMPLED: usize = 3;
/// How far below the newest row samples are taken where the oldest is not told.
const FALLBACKS: [TimeDelta; 2] = [TimeDelta::days(30), TimeDelta::days(365)];

/// A view that shows conversations.
struct Shown {
    /// How it is asked for.
    request: PageRequest,
    newest: Place,
    /// The own list that may show its rows, too.
    own: Line,
}

/// Which samples were listed, by the newest and the oldest row of a view: two views may be one by two names.
#[derive(Default)]
struct Looks(BTreeMap<(Place, Option<Place>), Vec<Option<bool>>>);

impl Probe<'_> {
    /// Tests everything that is open about conversations.
    pub(super) async fn conversations(self) -> Result<Survey, ApiError> {
        let mut listing = self.listing().await?;
        let mut ids = listing.ids.clone();
        let mut shown = Vec::new();
        for view in [View::Closed, View::Archived] {
            shown.push((view, Probe { ids: &ids, ..self }.shown(view, &listing).await?));
            if shown.iter().all(|(_, shown)| shown.is_empty())
                && ids == Ids::Documented
                && listing.top.elements > 0
                && view == View::Closed
            {
                // A server that wants none at all refuses the documented 0.
                let never = Ids::Never;
                let unasked = Probe { ids: &never, ..self }.shown(view, &listing).await?;
                if !unasked.is_empty() {
                    ids = never;
                    shown = vec![(view, unasked)];
                    let evidence = "it lists conversations, closed ones included";
                    let finding = Finding::new(Question::Id, Answer::Id(ids.kind()), evidence);
                    listing.findings = vec![finding];
                }
            }
        }
        let probe = Probe { ids: &ids, ..self };
        let mut total = probe.total(&listing.line).await?;
        if listing.top.elements == 0
            && let Some(first) = shown.iter().find_map(|(_, shown)| shown.first())
        {
            // Every row is in a view that the endpoint's own list hides.
            let line = Line { view: first.request.view, inbox: first.own.inbox, ..first.own };
            let top = probe.page(&line, None, None, self.limit).await?;
            listing.cursor = probe.cursor_field(&line, &top).await?;
            total = probe.total(&line).await?;
        }
        let field = listing.cursor.field();
        let mut survey = Survey {
            findings: std::mem::take(&mut listing.cursor.findings),
            ids: ids.clone(),
            own: listing.own.clone(),
            hidden: Vec::new(),
            inboxes: listing.inboxes.as_ref().map(|all| all.iter().map(|inbox| inbox.id).collect()),
        };
        survey.findings.append(&mut listing.findings);
        survey.findings.push(cursor::page_rows(listing.cursor.elements, self.limit, total));
        let mut looks = Looks::default();
        for (view, shown) in shown {
            probe.judge_view(view, shown, field, &listing, &mut looks, &mut survey).await?;
        }
        Ok(survey)
    }

    /// Where the view shows conversations: in the whole, or, if it shows none so, by inbox.
    async fn shown(self, view: View, listing: &Listing) -> Result<Vec<Shown>, ApiError> {
        let mut found = Vec::new();
        for own in &listing.own {
            if !self.ids.can_ask(own) {
                continue;
            }
            let line = Line { view, ..*own };
            found.extend(self.newest_of(line.newest_row(self.ids), *own).await?);
            if found.len() == INBOXES_SAMPLED {
                break;
            }
        }
        if found.is_empty() && view == View::Closed && !self.ids.are_members() {
            found.extend(self.shown_by_inbox(listing).await?);
        }
        Ok(found)
    }

    /// The newest closed conversation of all inboxes that are known.
    async fn shown_by_inbox(self, listing: &Listing) -> Result<Option<Shown>, ApiError> {
        let Some(inboxes) = &listing.inboxes else { return Ok(None) };
        let line = Line { view: View::Closed, ..listing.line };
        let inboxes = inboxes.iter().map(|inbox| inbox.id).collect();
        let request = PageRequest { inboxes, ..line.request(&NEWEST_ROW, None, self.ids) };
        self.newest_of(request, listing.line).await
    }

    async fn newest_of(self, request: PageRequest, own: Line) -> Result<Option<Shown>, ApiError> {
        Ok(match self.newest(&request, TRIES).await? {
            Newest::Shown(seen) => seen.placed.first().map(|newest| Shown { request, newest: *newest, own }),
            Newest::Empty | Newest::Refused => None,
        })
    }

    /// Whether the endpoint's own list shows what the view does. A view that is not known to be shown has lines of
    /// its own, even if nothing is decided.
    async fn judge_view(
        self,
        view: View,
        shown: Vec<Shown>,
        field: Option<CursorField>,
        listing: &Listing,
        looks: &mut Looks,
        survey: &mut Survey,
    ) -> Result<(), ApiError> {
        let question = Question::of(view);
        if shown.is_empty() {
            if question == Question::Closed {
                let evidence = "no closed conversation is listed";
                survey.findings.push(Finding::new(question, Answer::Undecided, evidence));
            }
            return Ok(());
        }
        let mut listed = Vec::new();
        for shown in &shown {
            // The rows of this view have a line already.
            if self.is_shown_by(&survey.hidden, field, shown.newest).await? {
                return Ok(());
            }
            let oldest = self.oldest_of(shown).await?;
            let ends = (shown.newest, oldest);
            let seen = match looks.0.get(&ends) {
                Some(seen) => seen.clone(),
                None => {
                    let samples = self.samples(shown, oldest, field).await?;
                    let nothing = Seen::default();
                    let top = if shown.own == listing.line { &listing.top } else { &nothing };
                    let lists = samples.iter().map(|row| self.lists(&shown.own, field, top, *row));
                    try_join_all(lists).await?
                }
            };
            listed.extend(&seen);
            looks.0.insert(ends, seen);
        }
        let (answer, evidence) = judge(&listed);
        survey.findings.push(Finding::new(question, answer, evidence));
        if answer == Answer::No {
            return Ok(());
        }
        let by_inbox = |inboxes: &BTreeSet<i64>| -> Vec<Line> {
            inboxes.iter().map(|inbox| Line::conversations(view, Some(*inbox))).collect()
        };
        let by_inbox = survey.inboxes.as_ref().map(by_inbox).unwrap_or_default();
        if self.ids.are_members() || shown.iter().any(|shown| shown.request.inboxes.len() > 1) {
            survey.hidden.extend(by_inbox);
            return Ok(());
        }
        survey.hidden.push(Line::conversations(view, None));
        // The view may show only some of the inboxes.
        if view == View::Closed
            && let Some(newest) = self.shown_by_inbox(listing).await?
            && !self.is_shown_by(&survey.hidden, field, newest.newest).await?
        {
            survey.hidden.extend(by_inbox);
        }
        Ok(())
    }

    /// The oldest row of the view; `None` where it is not told, or is the newest.
    async fn oldest_of(self, shown: &Shown) -> Result<Option<Place>, ApiError> {
        let ascending = PageRequest { ascending: true, ..shown.request.clone() };
        Ok(self.sample(ascending).await?.filter(|oldest| oldest.0 < shown.newest.0))
    }

    /// Rows of the view, spread over time: the newest, the oldest, and one between.
    async fn samples(
        self,
        shown: &Shown,
        oldest: Option<Place>,
        field: Option<CursorField>,
    ) -> Result<Vec<Place>, ApiError> {
        let newest = shown.newest;
        let mut samples = BTreeSet::from([newest]);
        samples.extend(oldest);
        let below: Vec<TimeDelta> = match oldest {
            Some(oldest) => vec![(newest.0 - oldest.0) / 2],
            None => FALLBACKS.to_vec(),
        };
        for below in below {
            let ask = Ask { cursor: Some(newest.0 - below), ..NEWEST_ROW };
            let line = Line { view: shown.request.view, ..shown.own };
            let inboxes = shown.request.inboxes.clone();
            let request = PageRequest { inboxes, ..line.request(&ask, field, self.ids) };
            samples.extend(self.sample(request).await?);
        }
        Ok(samples.into_iter().collect())
    }

    async fn sample(self, request: PageRequest) -> Result<Option<Place>, ApiError> {
        match self.read(request, TimeField::Updated).await {
            Ok(seen) => Ok(seen.placed.first().copied()),
            Err(error) if error.kind() == ErrorKind::BadRequest => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether one of the lines shows the row.
    async fn is_shown_by(
        self,
        lines: &[Line],
        field: Option<CursorField>,
        row: Place,
    ) -> Result<bool, ApiError> {
        for line in lines {
            if self.lists(line, field, &Seen::default(), row).await? == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the line lists the row; `top` is its newest page, as far as that is known. `None` where the pages could
    /// not have shown it: empty ones, and those that end above it.
    pub(super) async fn lists(
        self,
        line: &Line,
        field: Option<CursorField>,
        top: &Seen,
        row: Place,
    ) -> Result<Option<bool>, ApiError> {
        let is_on = |page: &Seen| page.placed.iter().any(|other| other.1 == row.1);
        if is_on(top) {
            return Ok(Some(true));
        }
        let second = TimeDelta::seconds(1);
        // A whole second above it: right however the server cuts times.
        let cursor = row.0.duration_trunc(second).unwrap_or(row.0) + second;
        let mut missed = false;
        for _ in 0..TRIES {
            let page = self.page(line, field, Some(cursor), self.limit).await?;
            if is_on(&page) {
                return Ok(Some(true));
            }
            missed |= page.placed.iter().any(|other| other.0 < row.0);
        }
        // It may have moved to the top meanwhile.
        let moved = missed && is_on(&self.page(line, None, None, self.limit).await?);
        Ok(if moved { Some(true) } else { missed.then_some(false) })
    }
}

/// What follows from which samples the endpoint's own list shows.
fn judge(listed: &[Option<bool>]) -> (Answer, String) {
    let samples = listed.len();
    if listed.contains(&Some(false)) {
        return (
            Answer::Yes,
            "a conversation of this view is missing from the endpoint's own list".to_owned(),
        );
    }
    match listed.iter().all(Option::is_some) {
        true if samples > 0 => (Answer::No, format!("the endpoint lists {samples} of them unasked")),
        _ => (Answer::Undecided, "the endpoint's own list could not have shown every sample".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_samples_that_are_all_listed_make_a_view_needless() {
        let (listed, missing, unknown) = (Some(true), Some(false), None);
        let cases = [
            (vec![listed], Answer::No),
            (vec![listed, listed, listed], Answer::No),
            (vec![listed, listed, missing], Answer::Yes),
            (vec![missing, unknown], Answer::Yes),
            (vec![listed, unknown], Answer::Undecided),
            (vec![unknown], Answer::Undecided),
            (vec![], Answer::Undecided),
        ];
        for (listed, answer) in cases {
            assert_eq!(judge(&listed).0, answer, "{listed:?}");
        }
    }
}
