//! Which lines in the ledger are not to be read any more, and which show their rows instead.

use std::collections::BTreeSet;

use crate::api::endpoints::View;
use crate::api::model::Stream;

use super::line::Line;

/// The line of an earlier version: it did not say which inboxes it had asked for.
const CLOSED_BY_ANY_INBOX: &str = "updated/closed by inbox";

/// A line in the ledger that is not to be read any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndedLine {
    pub name: String,
    /// Lines that show its rows now. What it had not read is withdrawn from them.
    pub heirs: Vec<Line>,
    pub reason: &'static str,
}

/// What is needed of conversations now.
pub(super) struct Needs<'a> {
    pub lines: &'a [Line],
    /// Whether each inbox is a line of its own; `None` where that is not known.
    pub by_member: Option<bool>,
    /// Views whose rows the endpoint's own list was just found to show.
    pub shown: Vec<View>,
    /// `None` where the API does not tell.
    pub inboxes: Option<&'a BTreeSet<i64>>,
}

/// Those of the conversations' lines in the ledger, by name, that end. What is not known leaves a line as it is.
pub(super) fn ended(names: &BTreeSet<String>, needs: &Needs) -> Vec<EndedLine> {
    let gone = without_inbox(names, needs.inboxes);
    let ended = names.iter().filter_map(|name| {
        let (heirs, reason) = match Line::named(Stream::Conversations, name) {
            None if name == CLOSED_BY_ANY_INBOX => (
                own(needs, None).filter(|_| needs.shown.contains(&View::Closed)).collect(),
                "it does not say which inboxes it had asked for",
            ),
            None => return None,
            Some(line) if needs.lines.contains(&line) => return None,
            Some(_) if gone.contains(name) => (Vec::new(), "its inbox is not listed any more"),
            Some(line) => outdated(&line, needs)?,
        };
        Some(EndedLine { name: name.clone(), heirs, reason })
    });
    ended.collect()
}

/// Lines of inboxes that are not among `inboxes`.
pub(super) fn without_inbox<'a>(
    names: &'a BTreeSet<String>,
    inboxes: Option<&BTreeSet<i64>>,
) -> BTreeSet<&'a String> {
    let Some(inboxes) = inboxes else { return BTreeSet::new() };
    let gone = |name: &&String| {
        let inbox = Line::named(Stream::Conversations, name).and_then(|line| line.inbox);
        inbox.is_some_and(|inbox| !inboxes.contains(&inbox))
    };
    names.iter().filter(gone).collect()
}

fn outdated(line: &Line, needs: &Needs) -> Option<(Vec<Line>, &'static str)> {
    if needs.shown.contains(&line.view) {
        return Some((own(needs, line.inbox).collect(), "the endpoint's own list shows its rows"));
    }
    let (by_member, by_inbox) = (needs.by_member?, line.inbox.is_some());
    if by_member != by_inbox && (by_member || line.view == View::Default) {
        let heirs = needs.lines.iter().filter(|other| other.view == line.view).copied().collect();
        return Some((heirs, "the API wants another id now"));
    }
    let whole = Line { inbox: None, ..*line };
    (by_inbox && needs.lines.contains(&whole))
        .then(|| (vec![whole], "one list shows the rows of all inboxes"))
}

/// The lines of the endpoint's own list that show what is in the inbox, or in any.
fn own<'a>(needs: &'a Needs, inbox: Option<i64>) -> impl Iterator<Item = Line> + 'a {
    let own = needs.lines.iter().filter(|line| line.view == View::Default).copied();
    own.filter(move |line| line.inbox.is_none() || inbox.is_none() || line.inbox == inbox)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_others_show_their_rows_and_stay_where_nothing_is_known() {
        let line = Line::conversations;
        let main = line(View::Default, None);
        let closed = line(View::Closed, None);
        let [one, two] = [1, 2].map(|inbox| line(View::Default, Some(inbox)));
        let [closed_one, closed_two] = [1, 2].map(|inbox| line(View::Closed, Some(inbox)));
        let inboxes = BTreeSet::from([1, 2]);
        let none: Vec<Line> = Vec::new();
        let cases = [
            // Needed, or not known not to be.
            (vec![main, closed], vec![main, closed], Some(false), vec![], vec![]),
            (vec![main, closed], vec![main], Some(false), vec![], vec![]),
            (vec![main, closed_one], vec![main], Some(false), vec![], vec![]),
            (vec![main, closed], vec![one, two], None, vec![], vec![]),
            // Shown.
            (vec![main, closed], vec![main], Some(false), vec![View::Closed], vec![(closed, vec![main])]),
            (
                vec![one, closed_one],
                vec![one, two],
                Some(true),
                vec![View::Closed],
                vec![(closed_one, vec![one])],
            ),
            // Asked for otherwise.
            (
                vec![main, closed],
                vec![one, two, closed_one, closed_two],
                Some(true),
                vec![],
                vec![(main, vec![one, two]), (closed, vec![closed_one, closed_two])],
            ),
            (vec![main, one, closed_two], vec![main], Some(false), vec![], vec![(one, vec![main])]),
            (
                vec![main, closed_two],
                vec![main, closed],
                Some(false),
                vec![],
                vec![(closed_two, vec![closed])],
            ),
            // Gone.
            (
                vec![main, line(View::Closed, Some(3))],
                vec![main],
                Some(false),
                vec![],
                vec![(line(View::Closed, Some(3)), none)],
            ),
        ];
        for (held, lines, by_member, shown, expected) in cases {
            let names = held.iter().map(|line| line.name().into_owned()).collect();
            let needs = Needs { lines: &lines, by_member, shown, inboxes: Some(&inboxes) };
            let ended = ended(&names, &needs).into_iter().map(|ended| (ended.name, ended.heirs));
            let mut expected: Vec<_> =
                expected.into_iter().map(|(line, heirs)| (line.name().into_owned(), heirs)).collect();
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            assert_eq!(ended.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_line_of_an_earlier_version_ends_and_one_of_a_later_version_stays() {
        let main = Line::main(Stream::Conversations);
        let names = BTreeSet::from([CLOSED_BY_ANY_INBOX.to_owned(), "updated/starred".to_owned()]);
        for (shown, heirs) in [(vec![View::Closed], vec![main]), (vec![], vec![])] {
            let needs = Needs { lines: &[main], by_member: None, shown, inboxes: None };
            let ended = ended(&names, &needs);
            assert_eq!(ended.len(), 1);
            assert_eq!((ended[0].name.as_str(), &ended[0].heirs), (CLOSED_BY_ANY_INBOX, &heirs));
        }
    }
}
