//! Whether messages can be walked by their last change.

use chrono::{DateTime, Utc};

use crate::api::endpoints::CursorField;
use crate::api::error::{ApiError, ErrorKind};
use crate::interval::TICK;
use crate::sync::line::Line;

use super::{Answer, Finding, Probe, Question, Times};

impl Probe<'_> {
    /// The newest messages by `order: updated_at`; `None` where the API refuses that order.
    pub(super) async fn newest_changes(self) -> Result<Option<Vec<Times>>, ApiError> {
        match self.page(&Line::message_changes(), None, None, self.limit).await {
            Ok(rows) => Ok(Some(rows.messages)),
            Err(error) if error.kind() == ErrorKind::BadRequest => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `order: updated_at` sorts by `updated`, and the cursor compares with it. `top` is of
    /// [`Probe::newest_changes`].
    pub(super) async fn message_changes(
        self,
        field: Option<CursorField>,
        top: Option<Vec<Times>>,
    ) -> Result<Finding, ApiError> {
        let Some(top) = top else {
            return Ok(found(Answer::No, "the API refuses order updated_at"));
        };
        let cursor = match changes_cursor(&top) {
            Ok(cursor) => cursor,
            Err(finding) => return Ok(finding),
        };
        let below = self.page(&Line::message_changes(), field, Some(cursor), self.limit).await?.messages;
        Ok(judge_changes(&top, &below, cursor))
    }
}

fn found(answer: Answer, evidence: impl Into<String>) -> Finding {
    Finding::new(Question::Changes, answer, evidence)
}

/// A cursor that tells the two columns apart: a row above it by `updated` lies below it by `date`.
fn changes_cursor(top: &[Times]) -> Result<DateTime<Utc>, Finding> {
    let updated: Vec<_> = top.iter().filter_map(|row| row.updated).collect();
    if !updated.is_sorted_by(|above, below| above >= below) {
        return Err(found(Answer::No, "pages ordered by updated_at are not sorted by updated"));
    }
    let dates: Vec<_> = top.iter().filter_map(|row| row.date).collect();
    if dates.is_sorted_by(|above, below| above >= below) {
        return Err(found(
            Answer::Undecided,
            "the newest messages are in the same order by date and by updated",
        ));
    }
    let tells = |cursor: DateTime<Utc>| {
        top.iter()
            .any(|row| row.updated.is_some_and(|at| at > cursor) && row.date.is_some_and(|at| at < cursor))
    };
    updated
        .iter()
        .rev()
        .map(|updated| *updated + TICK)
        .find(|cursor| tells(*cursor))
        .ok_or_else(|| found(Answer::Undecided, "no message tells date from updated at the cursor"))
}

fn judge_changes(top: &[Times], below: &[Times], cursor: DateTime<Utc>) -> Finding {
    if below.iter().any(|row| row.updated.is_some_and(|updated| updated > cursor)) {
        return found(Answer::No, "the cursor does not compare with updated");
    }
    let expected = top.iter().filter(|row| row.updated.is_some_and(|updated| updated < cursor));
    let seen = expected.filter(|row| below.iter().any(|other| other.id == row.id)).count();
    if seen == 0 {
        return found(Answer::Undecided, "the message at the cursor did not come back");
    }
    found(Answer::Yes, format!("{seen} messages came back below a cursor that tells date from updated"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: i64, date: i64, updated: i64) -> Times {
        let at = |second| DateTime::from_timestamp(second, 0);
        Times { id, date: at(date), updated: at(updated) }
    }

    #[test]
    fn a_test_counts_only_if_it_could_have_failed() {
        let same_order = [message(3, 30, 31), message(2, 20, 21), message(1, 10, 11)];
        assert_eq!(changes_cursor(&same_order).unwrap_err().answer, Answer::Undecided);
        let by_date = [message(3, 30, 31), message(2, 20, 99), message(1, 10, 11)];
        assert_eq!(changes_cursor(&by_date).unwrap_err().answer, Answer::No);
        let tells = [message(1, 10, 40), message(3, 30, 31), message(2, 20, 21)];
        assert_eq!(changes_cursor(&tells), Ok(DateTime::from_timestamp(21, 1_000).unwrap()));
    }

    #[test]
    fn the_cursor_is_judged_by_what_comes_back() {
        let top = [message(1, 10, 40), message(3, 30, 31), message(2, 20, 21)];
        let cursor = DateTime::from_timestamp(21, 1_000).unwrap();
        assert_eq!(judge_changes(&top, &[message(2, 20, 21)], cursor).answer, Answer::Yes);
        assert_eq!(judge_changes(&top, &[message(1, 10, 40)], cursor).answer, Answer::No);
        assert_eq!(judge_changes(&top, &[], cursor).answer, Answer::Undecided);
    }
}
