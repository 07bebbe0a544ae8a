//! Which conversations the endpoint's own list hides.

use chrono::{DurationRound, TimeDelta};

use crate::api::endpoints::{CursorField, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::{Stream, TimeField};
use crate::sync::line::Line;
use crate::sync::walk::Place;

use super::{Answer, Finding, Probe, Question};

/// How often a view is asked before its answer counts: one page may be empty by accident.
const TRIES: usize = 2;

impl Probe<'_> {
    /// Whether closed and archived conversations are hidden, and the views that show them.
    pub(super) async fn conversation_views(
        self,
        field: Option<CursorField>,
    ) -> Result<(Vec<Finding>, Vec<View>), ApiError> {
        let inboxes = match self.client.inboxes(Priority::Tail, self.cancel).await {
            Ok(inboxes) => inboxes.into_iter().map(|inbox| inbox.id).collect(),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Forbidden | ErrorKind::NotFound | ErrorKind::NotJson
                ) =>
            {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let candidates = [
            (Question::Closed, View::Closed { inboxes: Vec::new() }),
            (Question::Closed, View::Closed { inboxes }),
            (Question::Archived, View::Archived),
        ];
        let mut findings: Vec<Finding> = Vec::new();
        let mut hidden = Vec::new();
        let mut covered_by = None;
        for (question, view) in candidates {
            let line = Line::new(Stream::Conversations, TimeField::Updated, view.clone());
            let newest = match self.newest(&line, field).await {
                Ok(newest) => newest,
                Err(error) if error.kind() == ErrorKind::BadRequest => continue,
                Err(error) => return Err(error),
            };
            let Some(newest) = newest else { continue };
            if covered_by == Some(newest.1) {
                continue;
            }
            let finding = if self.lists(&Line::main(Stream::Conversations), field, newest).await? {
                Finding::new(question, Answer::No, "the endpoint lists them unasked")
            } else {
                covered_by = Some(newest.1);
                hidden.push(view);
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
        Ok((findings, hidden))
    }

    /// The newest row of the line. An empty page may be a slip.
    async fn newest(self, line: &Line, field: Option<CursorField>) -> Result<Option<Place>, ApiError> {
        for _ in 0..TRIES {
            if let Some(newest) = self.page(line, field, None, 1).await?.placed.first() {
                return Ok(Some(*newest));
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
