//! Which lines a stream needs: the tests of how the API reads its documentation, recorded and put in force.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use tracing::{info, warn};

use crate::api::endpoints::View;
use crate::api::model::Stream;
use crate::store::STANDING;

use super::detect::{Answer, Finding, Question, Survey};
use super::ended::{self, EndedLine, Needs};
use super::ids::Ids;
use super::line::Line;
use super::readings::Found;
use super::recorded::{DECIDED, Recorded};
use super::scheduler::{Engine, SyncError};

/// When an undecided reading is tested again: at first, and at most after doubling.
const UNDECIDED_FIRST: Duration = Duration::from_secs(15);
const UNDECIDED_MOST: Duration = Duration::from_secs(960);

/// What follows from a survey.
pub(super) struct Surveyed {
    pub lines: Vec<Line>,
    /// Lines whose reading has changed: what they proved since the last positive test is withdrawn.
    pub contradicted: Vec<Line>,
    /// Lines in the ledger that are not to be read any more.
    pub ended: Vec<EndedLine>,
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
        let names = self.line_names(stream).await?;
        let ids = self.reader.readings.of(stream).ids;
        let probe = self.reader.probe(&ids);
        let mut survey = probe.survey(stream).await?;
        if recorded.is_doubtful(&survey) || !ended::without_inbox(&names, survey.inboxes.as_ref()).is_empty()
        {
            // One page out of order can do that.
            let inboxes = survey.inboxes;
            survey = probe.survey(stream).await?;
            // What one of the answers names exists.
            survey.inboxes = match (survey.inboxes, inboxes) {
                (Some(now), Some(before)) => Some(now.into_iter().chain(before).collect()),
                _ => None,
            };
        }
        Ok(self.put_in_force(stream, survey, &recorded, &names))
    }

    /// Follows what was found about `id` by an earlier process, until a test finds the same or another.
    pub(super) async fn recall_ids(&self, stream: Stream) -> Result<(), SyncError> {
        let recorded = Recorded::of(stream, self.store.readings().await?);
        if let Some(ids) = recorded.ids() {
            self.reader.readings.put(stream, Found { ids, ..self.reader.readings.of(stream) });
        }
        Ok(())
    }

    /// The lines to keep while no test can be made.
    pub(super) fn untested(&self, stream: Stream) -> Vec<Line> {
        let ids = self.reader.readings.of(stream).ids;
        match ids.inboxes() {
            Some(inboxes) => inboxes.map(|inbox| Line::conversations(View::Default, Some(inbox))).collect(),
            None => vec![Line::main(stream)],
        }
    }

    /// The names of the stream's lines in the ledger.
    async fn line_names(&self, stream: Stream) -> Result<BTreeSet<String>, SyncError> {
        let coverage = self.store.coverage().await?.into_iter();
        Ok(coverage.filter(|(key, _)| key.stream == stream).map(|(key, _)| key.line).collect())
    }

    /// What was found within the last hour; `None` where that does not answer everything.
    fn recall(&self, stream: Stream, recorded: &Recorded) -> Option<Surveyed> {
        if needed(stream).iter().any(|question| recorded.fresh(*question).is_none()) {
            return None;
        }
        // Which requests list them is not stored.
        let hidden = [Question::Closed, Question::Archived].into_iter().any(|view| recorded.may_hide(view));
        let ids = recorded.ids().unwrap_or_default();
        if hidden || ids.are_members() {
            return None;
        }
        let found = found(ids, |question| recorded.fresh(question).unwrap_or(Answer::Undecided));
        self.reader.readings.put(stream, found.clone());
        Some(Surveyed {
            lines: lines(stream, &found, vec![Line::main(stream)], &[]),
            contradicted: Vec::new(),
            ended: Vec::new(),
            confirmed: Vec::new(),
            decided: true,
            unconfirmed: false,
            findings: Vec::new(),
        })
    }

    fn put_in_force(
        &self,
        stream: Stream,
        survey: Survey,
        recorded: &Recorded,
        names: &BTreeSet<String>,
    ) -> Surveyed {
        let apart = TimeDelta::from_std(self.settings.sync.empty_apart).unwrap_or(TimeDelta::MAX);
        // A test that decides nothing leaves in force what was decided before.
        let now = |question| match survey.answer(question) {
            Answer::Undecided => recorded.answer(question),
            answer => answer,
        };
        let (ids, own) = match recorded.ids().filter(|ids| ids.kind() != survey.ids.kind()) {
            Some(ids) if survey.answer(Question::Id) == Answer::Undecided => {
                let own = own_lines(stream, &ids, survey.inboxes.as_ref());
                (ids, own)
            }
            _ => (survey.ids.clone(), survey.own.clone()),
        };
        let mut hidden = survey.hidden.clone();
        hidden.retain(|line| {
            now(Question::of(line.view)) != Answer::No && (line.inbox.is_some() || !ids.are_members())
        });
        let found = found(ids, now);
        self.reader.readings.put(stream, found.clone());
        if let Some(line) = own.iter().find(|line| found.ids.can_ask(line)) {
            self.reader.client.probe_with(line.newest_row(&found.ids));
        }
        let lines = lines(stream, &found, own, &hidden);
        let mut contradicted = Vec::new();
        let mut confirmed = Vec::new();
        for line in &lines {
            let questions = rests_on(line, &found.ids);
            if questions.iter().any(|question| recorded.is_contradicted(&survey, *question)) {
                contradicted.push(*line);
            } else if questions.iter().all(|question| survey.answer(*question) != Answer::Undecided) {
                confirmed.push(*line);
            }
        }
        // Of a line that is not needed any more.
        let changes = Line::message_changes();
        if stream == Stream::Messages
            && !lines.contains(&changes)
            && rests_on(&changes, &found.ids)
                .iter()
                .any(|question| recorded.is_contradicted(&survey, *question))
        {
            contradicted.push(changes);
        }
        let needs = Needs {
            lines: &lines,
            by_member: (now(Question::Id) != Answer::Undecided).then(|| found.ids.are_members()),
            shown: [View::Closed, View::Archived]
                .into_iter()
                .filter(|view| survey.answer(Question::of(*view)) == Answer::No)
                .collect(),
            inboxes: survey.inboxes.as_ref(),
        };
        Surveyed {
            ended: if stream == Stream::Conversations { ended::ended(names, &needs) } else { Vec::new() },
            contradicted,
            confirmed,
            decided: needed(stream).iter().all(|question| now(*question) != Answer::Undecided),
            unconfirmed: empty(stream).any(|question| {
                now(question) == Answer::Undecided && !recorded.is_undecided_for(question, apart)
            }),
            findings: survey.findings,
            lines,
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

/// What has to be known of a stream before its lines are settled.
fn needed(stream: Stream) -> &'static [Question] {
    match stream {
        Stream::Messages => &[Question::CursorField, Question::Changes],
        Stream::Conversations => &[Question::CursorField, Question::Id, Question::Closed],
        Stream::Contacts => &[Question::CursorField],
    }
}

/// What only rows can decide.
fn empty(stream: Stream) -> impl Iterator<Item = Question> {
    needed(stream).iter().copied().filter(|question| *question != Question::Changes)
}

/// What must not have changed if what the line proved is to hold.
fn rests_on(line: &Line, ids: &Ids) -> Vec<Question> {
    let mut questions = vec![Question::CursorField];
    if *line == Line::message_changes() {
        questions.push(Question::Changes);
    }
    if line.stream == Stream::Conversations {
        questions.push(Question::Id);
        questions.extend(line.inbox.filter(|_| ids.are_members()).map(Question::Member));
    }
    questions
}

/// The lines of the endpoint's own list that the ids need.
fn own_lines(stream: Stream, ids: &Ids, inboxes: Option<&BTreeSet<i64>>) -> Vec<Line> {
    let Some(of_members) = ids.inboxes() else { return vec![Line::main(stream)] };
    let known = |inbox: &i64| inboxes.is_none_or(|inboxes| inboxes.contains(inbox));
    of_members.filter(known).map(|inbox| Line::conversations(View::Default, Some(inbox))).collect()
}

fn found(ids: Ids, answer: impl Fn(Question) -> Answer + Copy) -> Found {
    Found {
        ids,
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

fn lines(stream: Stream, found: &Found, own: Vec<Line>, hidden: &[Line]) -> Vec<Line> {
    let mut lines = own;
    if stream == Stream::Messages && found.changes_are_seen {
        lines.push(Line::message_changes());
    }
    lines.extend(hidden);
    lines
}
