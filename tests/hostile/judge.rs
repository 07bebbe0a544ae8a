//! What must be true of mirror and ledger, whatever the source did.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use heymarket_sync::api::endpoints::View;
use heymarket_sync::api::model::Stream;
use heymarket_sync::interval::Interval;
use heymarket_sync::sandbox::{Conversation, DefaultView, Endpoint};
use heymarket_sync::store::{PassState, STANDING};
use heymarket_sync::sync::line::Line;
use sqlx::AssertSqlSafe;

use crate::rig::Rig;
use crate::support::mirror::differences;

/// A row's id, its place on a line, and its last change.
type Row = (i64, DateTime<Utc>, DateTime<Utc>);

/// What the standing pass holds, by stream and line.
pub struct Ledger(BTreeMap<(Stream, String), PassState>);

impl Ledger {
    pub fn read(rig: &Rig) -> Self {
        let rows = rig.wait(rig.store().coverage()).unwrap();
        let standing = rows.into_iter().filter(|(key, _)| key.pass == STANDING);
        Self(standing.map(|(key, state)| ((key.stream, key.line), state)).collect())
    }

    fn covered(&self, stream: Stream, line: &str) -> &[Interval] {
        self.0.get(&(stream, line.to_owned())).map_or(&[], |state| &state.covered)
    }

    /// The upper end of what is covered of the main line of `list`.
    pub fn top(&self, list: Endpoint) -> Option<DateTime<Utc>> {
        let (stream, line) = match list {
            Endpoint::Messages => (Stream::Messages, "date"),
            Endpoint::Conversations => (Stream::Conversations, "updated"),
            _ => (Stream::Contacts, "updated"),
        };
        self.covered(stream, line).first().map(Interval::end)
    }

    fn covers(&self, stream: Stream, line: &str, time: DateTime<Utc>) -> bool {
        self.covered(stream, line).iter().any(|interval| interval.contains(time))
    }

    /// Whether all of the line that is wanted is held, up to `end`.
    fn is_whole(&self, stream: Stream, line: &str, end: DateTime<Utc>) -> bool {
        self.0.get(&(stream, line.to_owned())).is_some_and(|state| match &state.covered[..] {
            [covered] => covered.start() <= state.wanted_from && covered.end() >= end,
            _ => false,
        })
    }

    /// The lines of conversations that are held at all.
    fn conversation_lines(&self) -> impl Iterator<Item = Line> + '_ {
        let names = self.0.keys().filter(|(stream, _)| *stream == Stream::Conversations);
        names.map(|(stream, name)| Line::named(*stream, name).expect("every line has a known name"))
    }

    /// Lines of which something that is needed to see every row is not held up to `end`.
    pub fn open(&self, rig: &Rig, view: DefaultView, end: DateTime<Utc>) -> Vec<String> {
        let mut open: Vec<String> = [(Stream::Messages, "date"), (Stream::Contacts, "updated")]
            .into_iter()
            .filter(|(stream, line)| !self.is_whole(*stream, line, end))
            .map(|(stream, line)| format!("{stream} by {line}: {:?}", self.covered(stream, line)))
            .collect();
        let whole: Vec<Line> = self
            .conversation_lines()
            .filter(|line| self.is_whole(Stream::Conversations, &line.name(), end))
            .collect();
        let is_shown = |row: &Conversation| whole.iter().any(|line| shows(line, row, view));
        let conversations = rig.state().conversations();
        if whole.is_empty() || !conversations.values().all(is_shown) {
            let covered =
                |line: Line| format!("{}: {:?}", line.name(), self.covered(line.stream, &line.name()));
            let lines: Vec<_> = self.conversation_lines().map(covered).collect();
            open.push(format!("conversations by {lines:?}"));
        }
        open
    }
}

/// Whether the line is to show the row.
fn shows(line: &Line, row: &Conversation, view: DefaultView) -> bool {
    let in_view = match line.view {
        View::Default => view == DefaultView::Both || !row.is_closed(),
        View::Closed | View::Archived => row.is_closed(),
    };
    in_view && line.inbox.is_none_or(|inbox| inbox == row.inbox)
}

/// Panics where the ledger says of a row that it is held, and it is not, or is older than at the source.
pub fn assert_covered_is_held(rig: &Rig, view: DefaultView) {
    let ledger = Ledger::read(rig);
    let state = rig.state();
    let messages: Vec<_> = state.messages().into_values().collect();
    let by_date: Vec<Row> = messages.iter().map(|row| (row.id, row.date, DateTime::UNIX_EPOCH)).collect();
    let by_change: Vec<Row> = messages.iter().map(|row| (row.id, row.updated, row.updated)).collect();
    check(rig, &ledger, Stream::Messages, "date", &by_date);
    check(rig, &ledger, Stream::Messages, "updated", &by_change);
    let contacts: Vec<Row> =
        state.contacts().into_values().map(|row| (row.id, row.updated, row.updated)).collect();
    check(rig, &ledger, Stream::Contacts, "updated", &contacts);
    let conversations = state.conversations();
    for line in ledger.conversation_lines() {
        let rows = conversations.values().filter(|row| shows(&line, row, view));
        let rows: Vec<Row> = rows.map(|row| (row.id, row.updated, row.updated)).collect();
        check(rig, &ledger, Stream::Conversations, &line.name(), &rows);
    }
}

fn check(rig: &Rig, ledger: &Ledger, stream: Stream, line: &str, rows: &[Row]) {
    if ledger.covered(stream, line).is_empty() {
        return;
    }
    let sql = format!("SELECT id, coalesce(updated, '-infinity') FROM heymarket.{}", stream.name());
    let held: BTreeMap<i64, DateTime<Utc>> = rig
        .wait(sqlx::query_as::<_, (i64, DateTime<Utc>)>(AssertSqlSafe(sql)).fetch_all(rig.pool()))
        .unwrap()
        .into_iter()
        .collect();
    for (id, place, version) in rows {
        if ledger.covers(stream, line, *place) {
            let version_held = held.get(id);
            assert!(
                version_held.is_some_and(|held| held >= version),
                "{} {id} at {place} is covered on {line}, but held is {version_held:?}",
                stream.name()
            );
        }
    }
}

/// What the mirror lacks or has otherwise. Messages that changed after they were read are left out unless the
/// change is covered on the line that shows changes: that line is read only while a test says that it works.
fn losses(rig: &Rig, ledger: &Ledger) -> Vec<String> {
    let unseen = |id: i64| {
        rig.state().message(id).is_some_and(|row| {
            row.status.starts_with("changed") && !ledger.covers(Stream::Messages, "updated", row.updated)
        })
    };
    let excused = |found: &String| !found.ends_with("missing") && of(found, "messages").is_some_and(unseen);
    rig.wait(differences(rig.state(), rig.pool())).into_iter().filter(|found| !excused(found)).collect()
}

/// Panics unless the mirror equals the source, row by row and field by field.
pub fn assert_equal(rig: &Rig) {
    let found = losses(rig, &Ledger::read(rig));
    assert!(
        found.is_empty(),
        "{} differences, such as\n{}",
        found.len(),
        found[..found.len().min(10)].join("\n")
    );
}

/// Panics where a row differs and its place is not open in the ledger: a silent loss.
pub fn assert_lost_is_open(rig: &Rig, view: DefaultView) {
    let ledger = Ledger::read(rig);
    for found in losses(rig, &ledger) {
        let held = if let Some(id) = of(&found, "messages") {
            let row = rig.state().message(id).expect("only the source has rows");
            let by_change = ledger.covers(Stream::Messages, "updated", row.updated);
            ledger.covers(Stream::Messages, "date", row.date) && (found.ends_with("missing") || by_change)
        } else if let Some(id) = of(&found, "contacts") {
            let row = rig.state().contact(id).expect("only the source has rows");
            ledger.covers(Stream::Contacts, "updated", row.updated)
        } else {
            let id = of(&found, "conversations").expect("there are three tables");
            let row = rig.state().conversation(id).expect("only the source has rows");
            let mut lines = ledger.conversation_lines().filter(|line| shows(line, &row, view));
            lines.any(|line| ledger.covers(Stream::Conversations, &line.name(), row.updated))
        };
        assert!(!held, "covered, but {found}");
    }
}

/// Ids of `table` that the source has and the mirror lacks.
pub fn missing(rig: &Rig, table: &str) -> Vec<i64> {
    let found = rig.wait(differences(rig.state(), rig.pool()));
    found.iter().filter(|found| found.ends_with(": missing")).filter_map(|found| of(found, table)).collect()
}

fn of(difference: &str, table: &str) -> Option<i64> {
    let rest = difference.strip_prefix(table)?.strip_prefix(' ')?;
    rest.split(':').next()?.parse().ok()
}
