//! Which conversations the endpoint's own list hides.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DurationRound, TimeDelta};
use futures::future::try_join_all;
use tokio::try_join;

use crate::api::endpoints::{CursorField, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::{Stream, TimeField};
use crate::sync::line::Line;
use crate::sync::walk::Place;

use super::{Answer, Finding, Probe, Question};

/// How often a view is asked before its answer counts: one page may be empty by accident.
const TRIES: usize = 2;

/// A view of conversations that shows some.
pub(super) struct NewestOfView {
    question: Question,
    view: View,
    newest: Place,
}

impl NewestOfView {
    pub(super) fn line(&self) -> Line {
        Line::new(Stream::Conversations, TimeField::Updated, self.view.clone())
    }
}

impl Probe<'_> {
    /// The newest conversation of each view that shows any.
    pub(super) async fn newest_of_views(self) -> Result<Vec<NewestOfView>, ApiError> {
        let by_inboxes = async {
            let inboxes = self.inbox_ids().await?;
            self.newest_of(Question::Closed, View::Closed { inboxes }).await
        };
        let (by_inboxes, closed, archived) = try_join!(
            by_inboxes,
            self.newest_of(Question::Closed, View::Closed { inboxes: Vec::new() }),
            self.newest_of(Question::Archived, View::Archived),
        )?;
        Ok([closed, by_inboxes, archived].into_iter().flatten().collect())
    }

    /// Whether closed and archived conversations are hidden, and the views that show them. `candidates` are of
    /// [`Probe::newest_of_views`].
    pub(super) async fn conversation_views(
        self,
        field: Option<CursorField>,
        candidates: Vec<NewestOfView>,
    ) -> Result<(Vec<Finding>, Vec<View>), ApiError> {
        let main = Line::main(Stream::Conversations);
        // Two views may have the same newest row.
        let rows: BTreeSet<Place> = candidates.iter().map(|candidate| candidate.newest).collect();
        let listed = try_join_all(rows.iter().map(|row| self.lists(&main, field, *row))).await?;
        let listed: BTreeMap<Place, bool> = rows.into_iter().zip(listed).collect();
        let mut findings: Vec<Finding> = Vec::new();
        let mut hidden: Vec<NewestOfView> = Vec::new();
        for candidate in candidates {
            let question = candidate.question;
            let finding = if listed[&candidate.newest] {
                Finding::new(question, Answer::No, "the endpoint lists them unasked")
            } else if self.any_shows(&hidden, field, candidate.newest).await? {
                continue;
            } else {
                hidden.push(candidate);
                let evidence = "a conversation of this view is missing from the endpoint's own list";
                Finding::new(question, Answer::Yes, evidence)
            };
            match findings.iter_mut().find(|other| other.question == question) {
                Some(other) if finding.answer == Answer::Yes => *other = finding,
                Some(_) => {}
                None => findings.push(finding),
            }
        }
        if !findings.iter().any(|finding| finding.question == Question::Closed) {
            findings.push(Finding::new(
                Question::Closed,
                Answer::Undecided,
                "there is no closed conversation",
            ));
        }
        Ok((findings, hidden.into_iter().map(|hidden| hidden.view).collect()))
    }

    /// Whether one of the views shows the row. The newest rows of two views may differ only because one was asked
    /// later.
    async fn any_shows(
        self,
        views: &[NewestOfView],
        field: Option<CursorField>,
        row: Place,
    ) -> Result<bool, ApiError> {
        for view in views {
            if view.newest.1 == row.1 || self.lists(&view.line(), field, row).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ascending, so that the same inboxes are the same view; none where the API does not tell.
    async fn inbox_ids(self) -> Result<Vec<i64>, ApiError> {
        match self.client.inboxes(Priority::Tail, self.cancel).await {
            Ok(inboxes) => {
                let ids: BTreeSet<i64> = inboxes.into_iter().map(|inbox| inbox.id).collect();
                Ok(ids.into_iter().collect())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Forbidden | ErrorKind::NotFound | ErrorKind::NotJson
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// The newest row of the view; `None` where it is refused or shows nothing. An empty page may be a slip.
    async fn newest_of(self, question: Question, view: View) -> Result<Option<NewestOfView>, ApiError> {
        let line = Line::new(Stream::Conversations, TimeField::Updated, view);
        for _ in 0..TRIES {
            match self.page(&line, None, None, 1).await {
                Ok(rows) => {
                    if let Some(newest) = rows.placed.first() {
                        return Ok(Some(NewestOfView { question, view: line.view, newest: *newest }));
                    }
                }
                Err(error) if error.kind() == ErrorKind::BadRequest => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether the line lists the row.
    async fn lists(self, line: &Line, field: Option<CursorField>, row: Place) -> Result<bool, ApiError> {
        let second = TimeDelta::seconds(1);
        // A whole second above it: right however the server cuts times.
        let cursor = row.0.duration_trunc(second).unwrap_or(row.0) + second;
        for _ in 0..TRIES {
            let rows = self.page(line, field, Some(cursor), self.limit).await?;
            if rows.placed.iter().any(|other| other.1 == row.1) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
