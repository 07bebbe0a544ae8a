//! Finds out, with a few cheap requests, which reading of the documentation holds.
//!
//! A test counts only if it could have failed; undecided means that nothing is built on the answer.

mod changes;
mod comparison;
mod cursor;
mod inboxes;
mod views;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use tokio::try_join;
use tokio_util::sync::CancellationToken;

use crate::api::client::Client;
use crate::api::endpoints::{CursorField, PageRequest, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::lenient;
use crate::api::limiter::Priority;
use crate::api::model::{Message, Rows, Stream, TimeField};

use super::ids::{IdKind, Ids};
use super::line::Line;
use super::walk::{Ask, Place};

pub use comparison::Cut;

/// What the documentation leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    CursorField,
    /// Whether rows of the cursor's own time come.
    CursorBound,
    /// What of the cursor is compared.
    CursorCut,
    PageRows,
    Changes,
    /// Which `id` requests for conversations must bear.
    Id,
    /// Whose `id` lists this inbox, where only a member's does.
    Member(i64),
    Closed,
    Archived,
}

impl Question {
    /// Whether the view of conversations, one that is not the endpoint's own, needs a request of its own.
    pub(in crate::sync) fn of(view: View) -> Self {
        if view == View::Archived { Self::Archived } else { Self::Closed }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Member(inbox) => return write!(f, "whose id lists the conversations of inbox {inbox}"),
            Self::CursorField => "which field carries the cursor",
            Self::CursorBound => "whether the cursor is inclusive or exclusive",
            Self::CursorCut => "what the cursor is cut to",
            Self::PageRows => "how many rows a page has at most",
            Self::Changes => "order updated_at walks messages by their changes",
            Self::Id => "which id lists the conversations of every inbox",
            Self::Closed => "closed conversations need a request of their own",
            Self::Archived => "archived conversations need a request of their own",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    Field(CursorField),
    /// No field that carries a cursor was obeyed.
    NoField,
    Inclusive,
    Exclusive,
    Cut(Cut),
    Rows(u32),
    Id(IdKind),
    /// The user id of a member of an inbox.
    Member(i64),
    /// The rows at hand could not have shown the opposite.
    Undecided,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No => f.write_str("no"),
            Self::Field(field) => f.write_str(field.name()),
            Self::NoField => f.write_str("none"),
            Self::Inclusive => f.write_str("inclusive"),
            Self::Exclusive => f.write_str("exclusive"),
            Self::Cut(cut) => f.write_str(cut.name()),
            Self::Rows(rows) => write!(f, "{rows}"),
            Self::Id(kind) => f.write_str(kind.name()),
            Self::Member(id) => write!(f, "user {id}"),
            Self::Undecided => f.write_str(crate::store::UNDECIDED),
        }
    }
}

/// The answer is none that this program gives.
#[derive(Debug, thiserror::Error)]
#[error("not an answer: {0:?}")]
pub struct NotAnAnswer(String);

impl FromStr for Answer {
    type Err = NotAnAnswer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fixed = [
            Self::Yes,
            Self::No,
            Self::NoField,
            Self::Undecided,
            Self::Field(CursorField::CreatedAt),
            Self::Field(CursorField::Date),
            Self::Inclusive,
            Self::Exclusive,
        ];
        let mut fixed = fixed.into_iter().chain(Cut::ALL.map(Self::Cut)).chain(IdKind::ALL.map(Self::Id));
        let known = fixed.find(|answer| answer.to_string() == text);
        let member = || text.strip_prefix("user ")?.parse().ok().map(Self::Member);
        let number = || text.parse().ok().map(Self::Rows);
        known.or_else(member).or_else(number).ok_or_else(|| NotAnAnswer(text.to_owned()))
    }
}

/// What a test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub question: Question,
    pub answer: Answer,
    /// What the answer rests on.
    pub evidence: String,
}

impl Finding {
    fn new(question: Question, answer: Answer, evidence: impl Into<String>) -> Self {
        Self { question, answer, evidence: evidence.into() }
    }
}

/// What the tests of a stream found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub findings: Vec<Finding>,
    /// With which conversations were asked for.
    pub ids: Ids,
    /// The lines of the endpoint's own list: one, or one for each inbox.
    pub own: Vec<Line>,
    /// Lines of conversations that the endpoint's own list hides, or is not known to show.
    pub hidden: Vec<Line>,
    /// The ids of the inboxes; `None` where the API does not tell.
    pub inboxes: Option<BTreeSet<i64>>,
}

impl Survey {
    pub fn answer(&self, question: Question) -> Answer {
        let found = self.findings.iter().find(|finding| finding.question == question);
        found.map_or(Answer::Undecided, |finding| finding.answer)
    }

    /// The field that carries the cursor, where it was found.
    fn cursor(&self) -> Option<CursorField> {
        match self.answer(Question::CursorField) {
            Answer::Field(field) => Some(field),
            _ => None,
        }
    }
}

/// Asks the API what the tests need.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    pub client: &'a Client,
    /// `api.page_size`.
    pub limit: u32,
    pub cancel: &'a CancellationToken,
    /// Those in force; the tests of conversations choose their own.
    pub ids: &'a Ids,
}

/// The newest page of a line.
enum Newest {
    Shown(Seen),
    /// No rows: weak evidence that there are none.
    Empty,
    /// The API calls the request wrong.
    Refused,
}

impl Probe<'_> {
    /// Tests everything that is open about a stream. What needs no other answer is asked at once.
    pub async fn survey(self, stream: Stream) -> Result<Survey, ApiError> {
        let main = Line::main(stream);
        if stream == Stream::Conversations {
            return self.conversations().await;
        }
        let changes = async {
            match stream {
                Stream::Messages => self.newest_changes().await.map(Some),
                _ => Ok(None),
            }
        };
        let cursor = async {
            let top = self.page(&main, None, None, self.limit).await?;
            self.cursor_field(&main, &top).await
        };
        let (cursor, changes, total) = try_join!(cursor, changes, self.total(&main))?;
        let mut survey = Survey { findings: cursor.findings, own: vec![main], ..Survey::default() };
        survey.findings.push(cursor::page_rows(cursor.elements, self.limit, total));
        if let Some(top) = changes {
            survey.findings.push(self.message_changes(survey.cursor(), top).await?);
        }
        Ok(survey)
    }

    /// How many rows the line has by the API's own count; `None` where that is not told.
    pub(in crate::sync) async fn total(self, line: &Line) -> Result<Option<u64>, ApiError> {
        let request = line.newest_row(self.ids);
        match self.client.count(&request, Priority::Tail, self.cancel).await {
            Ok(total) => Ok(Some(total)),
            // Only the size of a short page stays unknown; what is wrong with the API the other requests tell.
            Err(error) if error.kind() != ErrorKind::Cancelled => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The time of a line's oldest row, as a hint for dividing it; `None` where the API does not tell.
    pub async fn oldest(self, line: &Line) -> Result<Option<DateTime<Utc>>, ApiError> {
        let mut request = line.newest_row(self.ids);
        request.ascending = true;
        let response = match self.client.page(&request, Priority::Tail, self.cancel).await {
            Ok(response) => response,
            Err(error) if error.kind() == ErrorKind::BadRequest => return Ok(None),
            Err(error) => return Err(error),
        };
        let rows = lenient::read_page(line.stream, line.field, &response.body).unwrap_or_default();
        Ok(rows.placed().next().map(|place| place.0))
    }

    async fn page(
        self,
        line: &Line,
        field: Option<CursorField>,
        cursor: Option<DateTime<Utc>>,
        limit: u32,
    ) -> Result<Seen, ApiError> {
        let ask = Ask { cursor, limit, page: None };
        self.read(line.request(&ask, field, self.ids), line.field).await
    }

    async fn read(self, mut request: PageRequest, field: TimeField) -> Result<Seen, ApiError> {
        // What is too large or no array tells nothing here; the walks report it.
        loop {
            let too_much = match self.client.page(&request, Priority::Tail, self.cancel).await {
                Ok(response) => match lenient::read_page(request.stream, field, &response.body) {
                    Ok(rows) => return Ok(Seen::of(rows)),
                    Err(error) => error.is_too_much(),
                },
                Err(error) if error.kind() == ErrorKind::TooLarge => true,
                Err(error) => return Err(error),
            };
            if !too_much || request.limit <= 1 {
                return Ok(Seen::default());
            }
            request.limit /= 2;
        }
    }

    /// The newest page of what `request` lists; an empty one is asked for so many times.
    async fn newest(self, request: &PageRequest, tries: usize) -> Result<Newest, ApiError> {
        for _ in 0..tries {
            match self.read(request.clone(), TimeField::Updated).await {
                Ok(seen) if seen.elements > 0 => return Ok(Newest::Shown(seen)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::BadRequest => return Ok(Newest::Refused),
                Err(error) => return Err(error),
            }
        }
        Ok(Newest::Empty)
    }
}

const NEWEST_ROW: Ask = Ask { cursor: None, limit: 1, page: None };

/// What tests need of a page: they keep it while they read others, so the rows themselves are let go.
#[derive(Clone, Debug, Default)]
struct Seen {
    placed: Vec<Place>,
    elements: usize,
    messages: Vec<Times>,
    /// Of conversations.
    inboxes: BTreeSet<i64>,
}

/// The times of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    id: i64,
    date: Option<DateTime<Utc>>,
    updated: Option<DateTime<Utc>>,
}

impl Seen {
    fn of(rows: Rows) -> Self {
        let times = |row: &Message| Times { id: row.id, date: row.date, updated: row.updated };
        Self {
            messages: rows.messages.iter().map(times).collect(),
            inboxes: rows.conversations.iter().filter_map(|row| row.inbox).collect(),
            placed: rows.placed().collect(),
            elements: rows.elements,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let answers = [
            Answer::Yes,
            Answer::No,
            Answer::Field(CursorField::CreatedAt),
            Answer::Field(CursorField::Date),
            Answer::NoField,
            Answer::Inclusive,
            Answer::Exclusive,
            Answer::Cut(Cut::Exact),
            Answer::Cut(Cut::Milliseconds),
            Answer::Cut(Cut::Seconds),
            Answer::Rows(200),
            Answer::Id(IdKind::Documented),
            Answer::Id(IdKind::Never),
            Answer::Id(IdKind::Zero),
            Answer::Id(IdKind::Member),
            Answer::Member(-2_001),
            Answer::Undecided,
        ];
        for answer in answers {
            assert_eq!(answer.to_string().parse::<Answer>().unwrap(), answer);
        }
        assert!("perhaps".parse::<Answer>().is_err());
    }
}
