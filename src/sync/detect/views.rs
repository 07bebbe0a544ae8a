//! Which conversations the endpoint's own list hides.

use crate::api::endpoints::{CursorField, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::limiter::Priority;
use crate::api::model::{Stream, TimeField};
use crate::interval::TICK;
use crate::sync::line::Line;

use super::{Answer, Finding, Probe, Question};

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
            let newest = match self.page(&line, field, None, 1).await {
                Ok(rows) => rows.placed.first().copied(),
                Err(error) if error.kind() == ErrorKind::BadRequest => continue,
                Err(error) => return Err(error),
            };
            let Some((updated, id)) = newest else { continue };
            if covered_by == Some(id) {
                continue;
            }
            let main = Line::main(Stream::Conversations);
            let own = self.page(&main, field, Some(updated + TICK), self.limit).await?;
            let finding = if own.conversations.iter().any(|row| row.id == id) {
                Finding::new(question, Answer::No, "the endpoint lists them unasked")
            } else {
                covered_by = Some(id);
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
}
