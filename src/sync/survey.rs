//! Which lines a stream needs: the tests of how the API reads its documentation, recorded and put in force.

use std::time::Duration;

use chrono::TimeDelta;
use tracing::{info, warn};

use crate::api::endpoints::View;
use crate::api::model::{Stream, TimeField};
use crate::clock;
use crate::store::{Reading, STANDING};

use super::detect::{Answer, Finding, Question, Survey};
use super::line::Line;
use super::readings::Found;
use super::scheduler::{Engine, SyncError};

/// How long a decided reading holds before it is tested again.
const DECIDED: Duration = Duration::from_secs(3_600);
/// When an undecided reading is tested again: at first, and at most after doubling.
const UNDECIDED_FIRST: Duration = Duration::from_secs(15);
const UNDECIDED_MOST: Duration = Duration::from_secs(960);

/// What follows from a survey.
pub(super) struct Surveyed {
    pub lines: Vec<Line>,
    /// Lines whose reading has changed: what they proved since the last positive test is withdrawn.
    pub contradicted: Vec<Line>,
    /// Lines whose rows the main line has been found to show.
    pub needless: Vec<Line>,
    /// Lines whose reading a test has just confirmed.
    confirmed: Vec<Line>,
    decided: bool,
    /// What is undecided because lists are empty, as no test some time ago has found before.
    unconfirmed: bool,
    findings: Vec<Finding>,
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

    /// Whether empty lists left something undecided that another test, some time later, has to confirm.
    pub fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }
}

impl Engine {
    /// Tests what is open about a stream, or takes what was found within the last hour unless `doubted`. Nothing is
    /// recorded yet: see [`Engine::record`].
    pub(super) async fn survey(&self, stream: Stream, doubted: bool) -> Result<Surveyed, SyncError> {
        let recorded = Recorded::of(stream, self.store.readings().await?);
        if !doubted && let Some(surveyed) = self.recall(stream, &recorded) {
            return Ok(surveyed);
        }
        let mut survey = self.reader.probe().survey(stream).await?;
        if recorded.is_doubtful(&survey) {
            // One page out of order can do that.
            survey = self.reader.probe().survey(stream).await?;
        }
        Ok(self.put_in_force(stream, survey, &recorded))
    }

    /// What was found within the last hour; `None` where that does not answer everything.
    fn recall(&self, stream: Stream, recorded: &Recorded) -> Option<Surveyed> {
        if needed(stream).iter().any(|question| recorded.fresh(*question).is_none()) {
            return None;
        }
        // Which request shows them is not stored.
        if [Question::Closed, Question::Archived]
            .into_iter()
            .any(|view| recorded.fresh(view) == Some(Answer::Yes))
        {
            return None;
        }
        let found = found(|question| recorded.fresh(question).unwrap_or(Answer::Undecided));
        self.reader.readings.put(stream, found);
        Some(Surveyed {
            lines: lines(stream, found, &[]),
            contradicted: Vec::new(),
            needless: Vec::new(),
            confirmed: Vec::new(),
            decided: true,
            unconfirmed: false,
            findings: Vec::new(),
        })
    }

    fn put_in_force(&self, stream: Stream, survey: Survey, recorded: &Recorded) -> Surveyed {
        let apart = TimeDelta::from_std(self.settings.sync.empty_apart).unwrap_or(TimeDelta::MAX);
        // A test that decides nothing leaves in force what was decided before.
        let now = |question| match survey.answer(question) {
            Answer::Undecided => recorded.answer(question),
            answer => answer,
        };
        let found = found(now);
        self.reader.readings.put(stream, found);
        let mut contradicted = Vec::new();
        let mut confirmed = Vec::new();
        let mut rests_on = vec![(Line::main(stream), vec![Question::CursorField])];
        if stream == Stream::Messages {
            rests_on.push((Line::message_changes(), vec![Question::CursorField, Question::Changes]));
        }
        for (line, questions) in rests_on {
            if questions.iter().any(|question| recorded.is_contradicted(&survey, *question)) {
                contradicted.push(line);
            } else if questions.iter().all(|question| survey.answer(*question) != Answer::Undecided) {
                confirmed.push(line);
            }
        }
        Surveyed {
            lines: lines(stream, found, &survey.hidden),
            contradicted,
            needless: needless(stream, &survey),
            confirmed,
            decided: needed(stream).iter().all(|question| now(*question) != Answer::Undecided),
            unconfirmed: empty(stream).any(|question| {
                now(question) == Answer::Undecided && !recorded.is_undecided_for(question, apart)
            }),
            findings: survey.findings,
        }
    }

    /// Records what a survey found. Comes after the withdrawal of what it contradicts, and after the end of needless
    /// lines: a process that dies in between finds the same again.
    pub(super) async fn record(&self, stream: Stream, surveyed: &Surveyed) -> Result<(), SyncError> {
        for finding in &surveyed.findings {
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
        for line in &surveyed.confirmed {
            self.store.confirm(&self.lease, &line.key(STANDING)).await?;
        }
        Ok(())
    }
}

/// The answers that were recorded about a stream.
struct Recorded(Vec<Reading>);

impl Recorded {
    fn of(stream: Stream, readings: Vec<Reading>) -> Self {
        Self(readings.into_iter().filter(|reading| reading.stream == stream.name()).collect())
    }

    fn reading(&self, question: Question) -> Option<&Reading> {
        let question = question.to_string();
        self.0.iter().find(|reading| reading.question == question)
    }

    fn answer(&self, question: Question) -> Answer {
        let reading = self.reading(question);
        reading.and_then(|reading| reading.answer.parse().ok()).unwrap_or(Answer::Undecided)
    }

    /// The answer, if a test decided it within the last hour.
    fn fresh(&self, question: Question) -> Option<Answer> {
        let holds = TimeDelta::from_std(DECIDED).unwrap_or(TimeDelta::MAX);
        let age = clock::now() - self.reading(question)?.tested_at;
        Some(self.answer(question)).filter(|answer| *answer != Answer::Undecided && age < holds)
    }

    /// Whether a test so long ago did not decide it either.
    fn is_undecided_for(&self, question: Question, time: TimeDelta) -> bool {
        let undecided = self.reading(question).filter(|_| self.answer(question) == Answer::Undecided);
        undecided.is_some_and(|reading| clock::now() - reading.decided_at >= time)
    }

    fn is_contradicted(&self, survey: &Survey, question: Question) -> bool {
        let (before, now) = (self.answer(question), survey.answer(question));
        before != Answer::Undecided && now != Answer::Undecided && before != now
    }

    /// Whether the answers have to be found twice: they contradict what was found before, or say that a line cannot
    /// be used at all.
    fn is_doubtful(&self, survey: &Survey) -> bool {
        let contradicts = |question: &Question| self.is_contradicted(survey, *question);
        let rules_out = |question: &Question| {
            let now = survey.answer(*question);
            self.answer(*question) == Answer::Undecided && matches!(now, Answer::No | Answer::NoField)
        };
        let lines = [Question::CursorField, Question::Changes];
        lines.iter().any(|question| contradicts(question) || rules_out(question))
            || [Question::Closed, Question::Archived, Question::CursorBound, Question::CursorCut]
                .iter()
                .any(contradicts)
    }
}

/// What has to be known of a stream before its lines are settled.
fn needed(stream: Stream) -> &'static [Question] {
    match stream {
        Stream::Messages => &[Question::CursorField, Question::Changes],
        Stream::Conversations => &[Question::CursorField, Question::Closed],
        Stream::Contacts => &[Question::CursorField],
    }
}

/// What only rows can decide.
fn empty(stream: Stream) -> impl Iterator<Item = Question> {
    needed(stream).iter().copied().filter(|question| *question != Question::Changes)
}

fn found(answer: impl Fn(Question) -> Answer + Copy) -> Found {
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
        views_are_hidden: [Question::Closed, Question::Archived].map(answer).contains(&Answer::Yes),
    }
}

fn needless(stream: Stream, survey: &Survey) -> Vec<Line> {
    [
        (Question::Closed, View::Closed { inboxes: Vec::new() }),
        // Any inboxes: the line has one name.
        (Question::Closed, View::Closed { inboxes: vec![0] }),
        (Question::Archived, View::Archived),
    ]
    .into_iter()
    .filter(|(question, _)| survey.answer(*question) == Answer::No)
    .map(|(_, view)| Line::new(stream, TimeField::Updated, view))
    .collect()
}

fn lines(stream: Stream, found: Found, hidden: &[View]) -> Vec<Line> {
    let mut lines = vec![Line::main(stream)];
    if stream == Stream::Messages && found.changes_are_seen {
        lines.push(Line::message_changes());
    }
    lines.extend(hidden.iter().map(|view| Line::new(stream, TimeField::Updated, view.clone())));
    lines
}
