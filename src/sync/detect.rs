//! Finds out, with a few cheap requests, which reading of the documentation holds.
//!
//! A test counts only if it could have failed; undecided means that nothing is built on the answer.

use chrono::{DateTime, Utc};

use crate::api::endpoints::View;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::lenient;
use crate::api::limiter::Priority;
use crate::api::model::{Message, Rows, Stream, TimeField};
use crate::interval::TICK;

use super::line::Line;
use super::walk::Ask;
use super::walker::Reader;

/// What a test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Yes(String),
    No(String),
    /// The rows at hand could not have shown the opposite.
    Undecided(String),
}

impl Verdict {
    pub fn answer(&self) -> &'static str {
        match self {
            Self::Yes(_) => "yes",
            Self::No(_) => "no",
            Self::Undecided(_) => "undecided",
        }
    }

    pub fn evidence(&self) -> &str {
        match self {
            Self::Yes(evidence) | Self::No(evidence) | Self::Undecided(evidence) => evidence,
        }
    }
}

async fn page(
    reader: &Reader,
    line: &Line,
    cursor: Option<DateTime<Utc>>,
    limit: u32,
) -> Result<Rows, ApiError> {
    let ask = Ask { cursor, limit, page: None };
    let response = reader.client.page(&line.request(&ask), Priority::Tail, &reader.cancel).await?;
    // What is no array tells nothing here; the walks report it.
    Ok(lenient::read_page(line.stream, line.field, &response.body).unwrap_or_default())
}

/// Whether messages can be walked by their last change: `order: updated_at` sorts by `updated`, and the cursor
/// compares with it.
pub async fn message_changes(reader: &Reader) -> Result<Verdict, ApiError> {
    let line = Line::message_changes();
    let top = match page(reader, &line, None, reader.limit).await {
        Ok(rows) => rows.messages,
        Err(error) if error.kind() == ErrorKind::BadRequest => {
            return Ok(Verdict::No("the API refuses order updated_at".to_owned()));
        }
        Err(error) => return Err(error),
    };
    let cursor = match changes_cursor(&top) {
        Ok(cursor) => cursor,
        Err(verdict) => return Ok(verdict),
    };
    let below = page(reader, &line, Some(cursor), reader.limit).await?.messages;
    Ok(judge_changes(&top, &below, cursor))
}

/// A cursor that tells the two columns apart: a row above it by `updated` lies below it by `date`.
fn changes_cursor(top: &[Message]) -> Result<DateTime<Utc>, Verdict> {
    let updated: Vec<_> = top.iter().filter_map(|row| row.updated).collect();
    if !updated.is_sorted_by(|above, below| above >= below) {
        return Err(Verdict::No("pages ordered by updated_at are not sorted by updated".to_owned()));
    }
    let dates: Vec<_> = top.iter().filter_map(|row| row.date).collect();
    if dates.is_sorted_by(|above, below| above >= below) {
        return Err(Verdict::Undecided(
            "the newest messages are in the same order by date and by updated".to_owned(),
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
        .ok_or_else(|| Verdict::Undecided("no message tells date from updated at the cursor".to_owned()))
}

fn judge_changes(top: &[Message], below: &[Message], cursor: DateTime<Utc>) -> Verdict {
    if below.iter().any(|row| row.updated.is_some_and(|updated| updated > cursor)) {
        return Verdict::No("the cursor does not compare with updated".to_owned());
    }
    let expected = top.iter().filter(|row| row.updated.is_some_and(|updated| updated < cursor));
    let seen = expected.filter(|row| below.iter().any(|other| other.id == row.id)).count();
    if seen == 0 {
        return Verdict::Undecided("the message at the cursor did not come back".to_owned());
    }
    Verdict::Yes(format!("{seen} messages came back below a cursor that tells date from updated"))
}

/// The views of conversations that are needed to list them all: the endpoint's own and, where it hides some,
/// closed or archived ones.
pub async fn conversation_views(reader: &Reader) -> Result<Vec<(View, Verdict)>, ApiError> {
    let inboxes = match reader.client.inboxes(Priority::Tail, &reader.cancel).await {
        Ok(inboxes) => inboxes.into_iter().map(|inbox| inbox.id).collect(),
        Err(error)
            if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::NotFound | ErrorKind::NotJson) =>
        {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let mut views = Vec::new();
    let mut covered_by: Option<i64> = None;
    let candidates = [View::Closed { inboxes: Vec::new() }, View::Closed { inboxes }, View::Archived];
    for view in candidates {
        let line = Line::new(Stream::Conversations, TimeField::Updated, view.clone());
        let hidden = match page(reader, &line, None, 1).await {
            Ok(rows) => rows.placed.first().copied(),
            Err(error) if error.kind() == ErrorKind::BadRequest => continue,
            Err(error) => return Err(error),
        };
        let Some((updated, id)) = hidden else { continue };
        if covered_by == Some(id) {
            continue;
        }
        let own =
            page(reader, &Line::main(Stream::Conversations), Some(updated + TICK), reader.limit).await?;
        let verdict = if own.conversations.iter().any(|row| row.id == id) {
            Verdict::No("the endpoint lists them unasked".to_owned())
        } else {
            Verdict::Yes("a conversation of this view is missing from the endpoint's own list".to_owned())
        };
        if matches!(verdict, Verdict::Yes(_)) {
            covered_by = Some(id);
        }
        views.push((view, verdict));
    }
    Ok(views)
}

/// The time of a line's oldest row, as a hint for dividing it; `None` where the API does not tell.
pub async fn oldest(reader: &Reader, line: &Line) -> Result<Option<DateTime<Utc>>, ApiError> {
    let ask = Ask { cursor: None, limit: 1, page: None };
    let mut request = line.request(&ask);
    request.ascending = true;
    let response = match reader.client.page(&request, Priority::Tail, &reader.cancel).await {
        Ok(response) => response,
        Err(error) if error.kind() == ErrorKind::BadRequest => return Ok(None),
        Err(error) => return Err(error),
    };
    let rows = lenient::read_page(line.stream, line.field, &response.body).unwrap_or_default();
    Ok(rows.placed.first().map(|place| place.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: i64, date: i64, updated: i64) -> Message {
        let at = |second| DateTime::from_timestamp(second, 0);
        Message { id, date: at(date), updated: at(updated), ..Message::default() }
    }

    #[test]
    fn a_test_counts_only_if_it_could_have_failed() {
        let same_order = [message(3, 30, 31), message(2, 20, 21), message(1, 10, 11)];
        assert!(matches!(changes_cursor(&same_order), Err(Verdict::Undecided(_))));
        let by_date = [message(3, 30, 31), message(2, 20, 99), message(1, 10, 11)];
        assert!(matches!(changes_cursor(&by_date), Err(Verdict::No(_))));
        let tells = [message(1, 10, 40), message(3, 30, 31), message(2, 20, 21)];
        assert_eq!(changes_cursor(&tells), Ok(DateTime::from_timestamp(21, 1_000).unwrap()));
    }

    #[test]
    fn the_cursor_is_judged_by_what_comes_back() {
        let top = [message(1, 10, 40), message(3, 30, 31), message(2, 20, 21)];
        let cursor = DateTime::from_timestamp(21, 1_000).unwrap();
        assert_eq!(judge_changes(&top, &[message(2, 20, 21)], cursor).answer(), "yes");
        assert_eq!(judge_changes(&top, &[message(1, 10, 40)], cursor).answer(), "no");
        assert_eq!(judge_changes(&top, &[], cursor).answer(), "undecided");
    }
}
