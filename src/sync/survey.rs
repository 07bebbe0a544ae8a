//! Which lines a stream needs: the tests of how the API reads its documentation, recorded and put in force.

use std::time::Duration;

use chrono::TimeDelta;
use tracing::{info, warn};

use crate::api::endpoints::View;
use crate::api::model::{Stream, TimeField};
use crate::clock;
use crate::store::{Reading, STANDING};

use super::detect::{Answer, Question, Survey};
use super::line::Line;
use super::readings::Found;
use super::scheduler::{Engine, SyncError};

/// How long a decided reading holds before it is tested again.
const DECIDED: Duration = Duration::from_secs(3_600);
/// When an undecided reading is tested again: at first, and at most after doubling.
const UNDECIDED_FIRST: Duration = Duration::from_secs(60);
const UNDECIDED_MOST: Duration = Duration::from_secs(960);

/// What follows from a survey.
pub(super) struct Surveyed {
    pub lines: Vec<Line>,
    /// Lines whose reading has changed: what they proved since the last positive test is withdrawn.
    pub contradicted: Vec<Line>,
    /// Lines whose reading a test has just confirmed.
    confirmed: Vec<Line>,
    decided: bool,
}

impl Surveyed {
    /// When to test again; `undecided` surveys in a row came before.
    pub fn holds_for(&self, undecided: u32) -> Duration {
        if self.decided {
            return DECIDED;
        }
        UNDECIDED_FIRST.saturating_mul(1 << undecided.min(16)).min(UNDECIDED_MOST)
    }

    pub fn is_decided(&self) -> bool {
        self.decided
    }
}

impl Engine {
    /// Tests what is open about a stream, or takes what was found within the last hour unless `doubted`.
    pub(super) async fn survey(&self, stream: Stream, doubted: bool) -> Result<Surveyed, SyncError> {
        let stored: Vec<Reading> = self.store.readings().await?;
        let stored: Vec<Reading> = stored.into_iter().filter(|row| row.stream == stream.name()).collect();
        if !doubted && let Some(surveyed) = self.recall(stream, &stored) {
            return Ok(surveyed);
        }
        let mut survey = self.reader.probe().survey(stream).await?;
        if is_doubtful(&survey, &stored) {
            // One page out of order can do that.
            survey = self.reader.probe().survey(stream).await?;
        }
        if let Some(total) = survey.total {
            self.reader.progress.of(stream).total.store(total, std::sync::atomic::Ordering::Relaxed);
        }
        let surveyed = self.put_in_force(stream, &survey, &stored);
        self.record(stream, &survey).await?;
        for line in &surveyed.confirmed {
            self.store.confirm(&line.key(STANDING)).await?;
        }
        Ok(surveyed)
    }

    /// What was found within the last hour; `None` where that does not answer everything.
    fn recall(&self, stream: Stream, stored: &[Reading]) -> Option<Surveyed> {
        let holds = TimeDelta::from_std(DECIDED).unwrap_or(TimeDelta::MAX);
        let fresh = |question: Question| {
            let reading = stored.iter().find(|row| row.question == question.to_string())?;
            let answer = reading.answer.parse::<Answer>().ok()?;
            (clock::now() - reading.tested_at < holds && answer != Answer::Undecided).then_some(answer)
        };
        let needed: &[Question] = match stream {
            Stream::Messages => &[Question::CursorField, Question::Changes],
            Stream::Conversations => &[Question::CursorField, Question::Closed],
            Stream::Contacts => &[Question::CursorField],
        };
        if needed.iter().any(|question| fresh(*question).is_none()) {
            return None;
        }
        // Which request shows them is not stored.
        if [Question::Closed, Question::Archived].into_iter().any(|view| fresh(view) == Some(Answer::Yes)) {
            return None;
        }
        let found = found(|question| fresh(question).unwrap_or(Answer::Undecided));
        self.reader.readings.put(stream, found);
        let lines = lines(stream, found, &[]);
        Some(Surveyed { lines, contradicted: Vec::new(), confirmed: Vec::new(), decided: true })
    }

    fn put_in_force(&self, stream: Stream, survey: &Survey, stored: &[Reading]) -> Surveyed {
        let before = |question: Question| {
            let reading = stored.iter().find(|row| row.question == question.to_string());
            reading.and_then(|row| row.answer.parse::<Answer>().ok()).unwrap_or(Answer::Undecided)
        };
        // A test that decides nothing leaves in force what was decided before.
        let now = |question| match survey.answer(question) {
            Answer::Undecided => before(question),
            answer => answer,
        };
        let found = found(now);
        self.reader.readings.put(stream, found);
        let lines = lines(stream, found, &survey.hidden);
        let mut contradicted = Vec::new();
        let mut confirmed = Vec::new();
        let mut rests_on = vec![(Line::main(stream), vec![Question::CursorField])];
        if stream == Stream::Messages {
            rests_on.push((Line::message_changes(), vec![Question::CursorField, Question::Changes]));
        }
        for (line, questions) in rests_on {
            let decided = |question: &Question| survey.answer(*question) != Answer::Undecided;
            let changed = |question: &Question| {
                decided(question)
                    && before(*question) != Answer::Undecided
                    && before(*question) != survey.answer(*question)
            };
            if questions.iter().any(changed) {
                contradicted.push(line);
            } else if questions.iter().all(decided) {
                confirmed.push(line);
            }
        }
        let open = match stream {
            Stream::Messages => [now(Question::CursorField), now(Question::Changes)],
            Stream::Conversations => [now(Question::CursorField), now(Question::Closed)],
            Stream::Contacts => [now(Question::CursorField); 2],
        };
        Surveyed { lines, contradicted, confirmed, decided: !open.contains(&Answer::Undecided) }
    }

    async fn record(&self, stream: Stream, survey: &Survey) -> Result<(), SyncError> {
        for finding in &survey.findings {
            let (question, answer) = (finding.question.to_string(), finding.answer.to_string());
            let evidence = &finding.evidence;
            let before = self.store.put_reading(stream, &question, &answer, evidence).await?;
            let before = before.and_then(|before| before.parse::<Answer>().ok()).unwrap_or(Answer::Undecided);
            if finding.answer == Answer::Undecided || finding.answer == before {
                continue;
            }
            if before == Answer::Undecided {
                info!(%stream, question, answer, evidence, "reading of the API");
            } else {
                warn!(%stream, question, answer, evidence, %before, "the API reads its documentation differently now");
            }
        }
        Ok(())
    }
}

/// Whether the answers have to be found twice: they contradict what was found before, or say that a line cannot be
/// used at all.
fn is_doubtful(survey: &Survey, stored: &[Reading]) -> bool {
    [Question::CursorField, Question::Changes].into_iter().any(|question| {
        let before = stored.iter().find(|row| row.question == question.to_string());
        let before = before.and_then(|row| row.answer.parse::<Answer>().ok()).unwrap_or(Answer::Undecided);
        match survey.answer(question) {
            Answer::Undecided => false,
            answer if before == Answer::Undecided => matches!(answer, Answer::No | Answer::NoField),
            answer => before != answer,
        }
    })
}

fn found(answer: impl Fn(Question) -> Answer) -> Found {
    Found {
        cursor: match answer(Question::CursorField) {
            Answer::Field(field) => Some(field),
            _ => None,
        },
        page_rows: match answer(Question::PageRows) {
            Answer::Rows(rows) => Some(rows),
            _ => None,
        },
        changes_are_seen: answer(Question::Changes) == Answer::Yes,
    }
}

fn lines(stream: Stream, found: Found, hidden: &[View]) -> Vec<Line> {
    let mut lines = vec![Line::main(stream)];
    if stream == Stream::Messages && found.changes_are_seen {
        lines.push(Line::message_changes());
    }
    lines.extend(hidden.iter().map(|view| Line::new(stream, TimeField::Updated, view.clone())));
    lines
}
