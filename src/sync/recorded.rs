//! What earlier tests found about a stream.

use std::time::Duration;

use chrono::TimeDelta;

use crate::api::model::Stream;
use crate::clock;
use crate::store::Reading;

use super::detect::{Answer, Question, Survey};
use super::ids::{IdKind, Ids};

/// How long a decided reading holds before it is tested again.
pub(super) const DECIDED: Duration = Duration::from_secs(3_600);

/// The answers that were recorded about a stream.
pub(super) struct Recorded(Vec<Reading>);

impl Recorded {
    pub(super) fn of(stream: Stream, readings: Vec<Reading>) -> Self {
        Self(readings.into_iter().filter(|reading| reading.stream == stream.name()).collect())
    }

    fn reading(&self, question: Question) -> Option<&Reading> {
        let question = question.to_string();
        self.0.iter().find(|reading| reading.question == question)
    }

    pub(super) fn answer(&self, question: Question) -> Answer {
        let reading = self.reading(question);
        reading.and_then(|reading| reading.answer.parse().ok()).unwrap_or(Answer::Undecided)
    }

    /// The answer, if a test decided it within the last hour.
    pub(super) fn fresh(&self, question: Question) -> Option<Answer> {
        let holds = TimeDelta::from_std(DECIDED).unwrap_or(TimeDelta::MAX);
        let age = clock::now() - self.reading(question)?.tested_at;
        Some(self.answer(question)).filter(|answer| *answer != Answer::Undecided && age < holds)
    }

    /// Whether the view has to be looked at again before it is known that the endpoint's own list shows its rows.
    pub(super) fn may_hide(&self, view: Question) -> bool {
        self.reading(view).is_some() && self.fresh(view) != Some(Answer::No)
    }

    /// Whether a test so long ago did not decide it either.
    pub(super) fn is_undecided_for(&self, question: Question, time: TimeDelta) -> bool {
        let undecided = self.reading(question).filter(|_| self.answer(question) == Answer::Undecided);
        undecided.is_some_and(|reading| clock::now() - reading.decided_at >= time)
    }

    pub(super) fn is_contradicted(&self, survey: &Survey, question: Question) -> bool {
        let (before, now) = (self.answer(question), survey.answer(question));
        before != Answer::Undecided && now != Answer::Undecided && before != now
    }

    /// Whether the answers have to be found twice: they contradict what was found before, or say that a line cannot
    /// be used at all.
    pub(super) fn is_doubtful(&self, survey: &Survey) -> bool {
        let contradicts = |question: &Question| self.is_contradicted(survey, *question);
        let rules_out = |question: &Question| {
            let now = survey.answer(*question);
            self.answer(*question) == Answer::Undecided
                && matches!(now, Answer::No | Answer::NoField | Answer::Id(IdKind::Member))
        };
        let lines = [Question::CursorField, Question::Changes, Question::Id];
        lines.iter().any(|question| contradicts(question) || rules_out(question))
            || self.members().iter().any(|(inbox, _)| contradicts(&Question::Member(*inbox)))
            || [Question::Closed, Question::Archived, Question::CursorBound, Question::CursorCut]
                .iter()
                .any(contradicts)
    }

    /// The ids that were found last, where they are known.
    pub(super) fn ids(&self) -> Option<Ids> {
        match self.answer(Question::Id) {
            Answer::Id(IdKind::Documented) => Some(Ids::Documented),
            Answer::Id(IdKind::Never) => Some(Ids::Never),
            Answer::Id(IdKind::Zero) => Some(Ids::Zero),
            Answer::Id(IdKind::Member) => Some(Ids::members(self.members())),
            _ => None,
        }
    }

    /// By inbox, the member whose id listed it.
    fn members(&self) -> Vec<(i64, i64)> {
        let member = |reading: &Reading| {
            let Ok(Answer::Member(member)) = reading.answer.parse() else { return None };
            let inbox = reading.question.rsplit(' ').next()?.parse().ok()?;
            (reading.question == Question::Member(inbox).to_string()).then_some((inbox, member))
        };
        self.0.iter().filter_map(member).collect()
    }
}
