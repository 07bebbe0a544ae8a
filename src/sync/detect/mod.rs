//! Finds out, with a few cheap requests, which reading of the documentation holds.
//!
//! A test counts only if it could have failed; undecided means that nothing is built on the answer.

mod changes;
mod comparison;
mod cursor;
mod views;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use tokio::try_join;
use tokio_util::sync::CancellationToken;

use crate::api::client::Client;
use crate::api::endpoints::{CursorField, View};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::lenient;
use crate::api::limiter::Priority;
use crate::api::model::{Message, Rows, Stream};

use super::line::Line;
use super::walk::{Ask, Place};

pub use comparison::Cut;

use self::views::NewestOfView;

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
    Closed,
    Archived,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CursorField => "which field carries the cursor",
            Self::CursorBound => "whether the cursor is inclusive or exclusive",
            Self::CursorCut => "what the cursor is cut to",
            Self::PageRows => "how many rows a page has at most",
            Self::Changes => "order updated_at walks messages by their changes",
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
        let mut fixed = fixed.into_iter().chain(Cut::ALL.map(Self::Cut));
        let known = fixed.find(|answer| answer.to_string() == text);
        known.or_else(|| text.parse().ok().map(Self::Rows)).ok_or_else(|| NotAnAnswer(text.to_owned()))
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
    /// Views of conversations that show something the endpoint's own list hides.
    pub hidden: Vec<View>,
}

impl Survey {
    pub fn answer(&self, question: Question) -> Answer {
        let found = self.findings.iter().find(|finding| finding.question == question);
        found.map_or(Answer::Undecided, |finding| finding.answer)
    }
}

/// What a stream's tests need beside its main line.
enum NewestRows {
    /// `None`: the API refuses the order.
    OfChanges(Option<Vec<Times>>),
    OfViews(Vec<NewestOfView>),
    NotNeeded,
}

/// Asks the API what the tests need.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    pub client: &'a Client,
    /// `api.page_size`.
    pub limit: u32,
    pub cancel: &'a CancellationToken,
}

impl Probe<'_> {
    /// Tests everything that is open about a stream. What needs no other answer is asked at once.
    pub async fn survey(self, stream: Stream) -> Result<Survey, ApiError> {
        let main = Line::main(stream);
        let (mut cursor, newest, total) =
            try_join!(self.cursor_field(&main), self.newest_rows(stream), self.total(stream))?;
        if let NewestRows::OfViews(views) = &newest
            && let Some(shown) = views.first()
            && cursor.elements == 0
        {
            // The endpoint's own list is empty: every row is in a view that it hides.
            cursor = self.cursor_field(&shown.line()).await?;
        }
        let mut survey = Survey { findings: cursor.findings, hidden: Vec::new() };
        survey.findings.push(cursor::page_rows(cursor.elements, self.limit, total));
        let field = match survey.answer(Question::CursorField) {
            Answer::Field(field) => Some(field),
            _ => None,
        };
        match newest {
            NewestRows::OfChanges(top) => survey.findings.push(self.message_changes(field, top).await?),
            NewestRows::OfViews(newest) => {
                let (findings, hidden) = self.conversation_views(field, newest).await?;
                survey.findings.extend(findings);
                survey.hidden = hidden;
            }
            NewestRows::NotNeeded => {}
        }
        Ok(survey)
    }

    /// The rows at the top of what a stream may have beside its main line.
    async fn newest_rows(self, stream: Stream) -> Result<NewestRows, ApiError> {
        Ok(match stream {
            Stream::Messages => NewestRows::OfChanges(self.newest_changes().await?),
            Stream::Conversations => NewestRows::OfViews(self.newest_of_views().await?),
            Stream::Contacts => NewestRows::NotNeeded,
        })
    }

    async fn total(self, stream: Stream) -> Result<Option<u64>, ApiError> {
        match self.client.count(stream, Priority::Tail, self.cancel).await {
            Ok(total) => Ok(Some(total)),
            // Only the size of a short page stays unknown; what is wrong with the API the other requests tell.
            Err(error) if error.kind() != ErrorKind::Cancelled => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The time of a line's oldest row, as a hint for dividing it; `None` where the API does not tell.
    pub async fn oldest(self, line: &Line) -> Result<Option<DateTime<Utc>>, ApiError> {
        let mut request = line.request(&Ask { cursor: None, limit: 1, page: None }, None);
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
        mut limit: u32,
    ) -> Result<Seen, ApiError> {
        // What is too large or no array tells nothing here; the walks report it.
        loop {
            let request = line.request(&Ask { cursor, limit, page: None }, field);
            let too_much = match self.client.page(&request, Priority::Tail, self.cancel).await {
                Ok(response) => match lenient::read_page(line.stream, line.field, &response.body) {
                    Ok(rows) => return Ok(Seen::of(rows)),
                    Err(error) => error.is_too_much(),
                },
                Err(error) if error.kind() == ErrorKind::TooLarge => true,
                Err(error) => return Err(error),
            };
            if !too_much || limit <= 1 {
                return Ok(Seen::default());
            }
            limit /= 2;
        }
    }
}

/// What tests need of a page: they keep it while they read others, so the rows themselves are let go.
#[derive(Clone, Debug, Default)]
struct Seen {
    placed: Vec<Place>,
    elements: usize,
    messages: Vec<Times>,
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
            Answer::Undecided,
        ];
        for answer in answers {
            assert_eq!(answer.to_string().parse::<Answer>().unwrap(), answer);
        }
        assert!("perhaps".parse::<Answer>().is_err());
    }
}
