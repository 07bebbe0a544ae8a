//! What is written together: rows, what they prove, and what was spent on them.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::{
    api::model::{Contact, Conversation, Message, Reject, Rows, Stream, Version},
    interval::Interval,
};

use super::{LineKey, Sighted, UnreadablePage};

/// Rows and proofs of any number of pages, in reading order, for one [`Store::commit`](super::Store::commit).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub messages: Vec<Message>,
    pub conversations: Vec<Conversation>,
    /// Conversations embedded in messages; they never overwrite an equal version.
    pub embedded: Vec<Conversation>,
    pub contacts: Vec<Contact>,
    pub rejects: Vec<Reject>,
    /// Pages that were no list of rows.
    pub pages: Vec<UnreadablePage>,
    /// Source ids among `rejects` that no page read later brought readable and as new, with the version refused;
    /// [`Batch::push`] finds them.
    pub unread: HashMap<(Stream, String), Version>,
    /// The rows as witnesses: those that turn up where the ledger says that all are held are contradictions.
    pub sighted: Vec<Sighted>,
    /// Intervals that the rows of this batch, with what is held already, prove.
    pub proofs: Vec<(LineKey, Interval)>,
    pub tallies: Vec<Tally>,
}

/// What pages of one run cost; added to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The number that [`Store::start_run`](super::Store::start_run) gave.
    pub run: i64,
    pub requests: i64,
    pub rows_read: i64,
    pub rejected: i64,
}

impl Batch {
    /// Appends the rows of a page that was read after all that is here.
    pub fn push(&mut self, rows: Rows) {
        if !self.unread.is_empty() {
            rows.messages.iter().for_each(|row| self.read(Stream::Messages, row.id, row.version()));
            rows.conversations.iter().for_each(|row| self.read(Stream::Conversations, row.id, row.version()));
            rows.contacts.iter().for_each(|row| self.read(Stream::Contacts, row.id, row.version()));
        }
        for reject in &rows.rejects {
            if let Some(id) = reject.source_id.clone() {
                let refused = self.unread.entry((reject.stream, id)).or_insert(reject.version);
                if reject.version.against(*refused) != Ordering::Less {
                    *refused = reject.version;
                }
            }
        }
        self.messages.extend(rows.messages);
        self.conversations.extend(rows.conversations);
        self.embedded.extend(rows.embedded);
        self.contacts.extend(rows.contacts);
        self.rejects.extend(rows.rejects);
    }

    /// Adds rows as witnesses.
    pub fn sight(&mut self, sighted: Sighted) {
        match self.sighted.iter_mut().find(|other| other.key == sighted.key) {
            Some(other) => other.rows.extend(sighted.rows),
            None => self.sighted.push(sighted),
        }
    }

    fn read(&mut self, stream: Stream, id: i64, version: Version) {
        let row = (stream, id.to_string());
        if self.unread.get(&row).is_some_and(|refused| version.against(*refused) != Ordering::Less) {
            self.unread.remove(&row);
        }
    }

    /// The stream whose pages it holds; `None` where it holds too little to tell.
    pub(super) fn stream(&self) -> Option<Stream> {
        let of_rows = [
            (Stream::Messages, self.messages.is_empty()),
            (Stream::Conversations, self.conversations.is_empty()),
            (Stream::Contacts, self.contacts.is_empty()),
        ];
        let of_proof = self.proofs.first().map(|(key, _)| key.stream);
        let of_page = self.pages.first().map(|page| page.key.stream);
        of_proof.or(of_page).or_else(|| of_rows.iter().find(|(_, empty)| !empty).map(|(stream, _)| *stream))
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many rows it holds, repeats and rejects included.
    pub fn len(&self) -> usize {
        self.messages.len()
            + self.conversations.len()
            + self.embedded.len()
            + self.contacts.len()
            + self.rejects.len()
    }

    /// Length of the rows' and rejects' own bytes.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(|row| row.raw.len()).sum::<usize>()
            + self.conversations.iter().map(|row| row.raw.len()).sum::<usize>()
            + self.contacts.iter().map(|row| row.raw.len()).sum::<usize>()
            + self.rejects.iter().map(|reject| reject.payload.len()).sum::<usize>()
    }

    /// Whether the row was refused in this batch, in a version that this one is no newer than, and not read since.
    pub(super) fn is_unread(&self, stream: Stream, id: i64, version: Version) -> bool {
        let refused = self.unread.get(&(stream, id.to_string()));
        refused.is_some_and(|refused| refused.against(version) != Ordering::Less)
    }

    /// The messages, as [`rounds`].
    pub(super) fn messages(&self) -> Vec<Vec<&Message>> {
        rounds(self.messages.iter(), |row| row.id, |row| (row.version(), false))
    }

    /// The contacts, as [`rounds`].
    pub(super) fn contacts(&self) -> Vec<Vec<&Contact>> {
        rounds(self.contacts.iter(), |row| row.id, |row| (row.version(), false))
    }

    /// The conversations, as [`rounds`], and whether each came embedded; those that did count as read last.
    pub(super) fn conversations(&self) -> Vec<Vec<(&Conversation, bool)>> {
        let listed = self.conversations.iter().map(|row| (row, false));
        let embedded = self.embedded.iter().map(|row| (row, true));
        rounds(listed.chain(embedded), |(row, _)| row.id, |(row, embedded)| (row.version(), *embedded))
    }
}

/// `rows`, which are in reading order, cut into what can be written at once: one row of each id, by ascending id. Writing
/// one round after the other ends as if every row were written alone. There is one round, of the newest versions, unless
/// what is held decides which of two copies of a row is to stay: where only one of them has a `rev`, or an `updated`.
fn rounds<R: Copy>(
    rows: impl Iterator<Item = R>,
    id: impl Fn(&R) -> i64,
    version: impl Fn(&R) -> (Version, bool),
) -> Vec<Vec<R>> {
    let mut rows: Vec<R> = rows.collect();
    // Stable, so rows of one id stay in reading order.
    rows.sort_by_key(&id);
    let mut rounds: Vec<Vec<R>> = Vec::new();
    let mut round = 0;
    for row in rows {
        let before = rounds.get_mut(round).and_then(|round| round.last_mut());
        let before = before.filter(|before| id(before) == id(&row));
        match before {
            Some(before) => match settled(version(before), version(&row)) {
                Some(Settled::Earlier) => continue,
                Some(Settled::Later) => {
                    *before = row;
                    continue;
                }
                None => round += 1,
            },
            None => round = 0,
        }
        if rounds.len() == round {
            rounds.push(Vec::new());
        }
        rounds[round].push(row);
    }
    rounds
}

/// Which of two copies of a row alone need be written.
enum Settled {
    Earlier,
    Later,
}

/// Which of two copies of a row that were read one after the other makes the other superfluous, whatever is held; each a
/// version, and whether it came embedded.
fn settled(
    (earlier, embedded): (Version, bool),
    (later, later_embedded): (Version, bool),
) -> Option<Settled> {
    // An embedded copy must be newer than what is held; where nothing decides, a listed one lands and it does not.
    if later.covers(earlier) && (!later_embedded || embedded && later != earlier) {
        Some(Settled::Later)
    } else if earlier.covers(later) && (!embedded || later_embedded) {
        Some(Settled::Earlier)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn message(id: i64, updated: Option<i64>, text: &str) -> Message {
        Message {
            id,
            updated: updated.map(|second| DateTime::from_timestamp(second, 0).unwrap()),
            text: Some(text.into()),
            ..Message::default()
        }
    }

    fn conversation(id: i64, updated: i64, name: &str) -> Conversation {
        Conversation {
            id,
            updated: DateTime::from_timestamp(updated, 0),
            name: Some(name.into()),
            ..Conversation::default()
        }
    }

    fn reject(id: i64, updated: Option<i64>) -> Reject {
        Reject {
            stream: Stream::Messages,
            source_id: Some(id.to_string()),
            version: message(id, updated, "").version(),
            partial: true,
            embedded: false,
            reason: "date".to_owned(),
            payload: "{}".into(),
        }
    }

    #[test]
    fn one_version_of_each_message_is_written_unless_what_is_held_decides() {
        let cases = [
            ("alone", vec![message(1, None, "a")], vec!["a"]),
            ("newer later", vec![message(1, Some(1), "a"), message(1, Some(2), "b")], vec!["b"]),
            ("newer first", vec![message(1, Some(2), "a"), message(1, Some(1), "b")], vec!["a"]),
            ("equal: later", vec![message(1, Some(1), "a"), message(1, Some(1), "b")], vec!["b"]),
            ("neither has a time", vec![message(1, None, "a"), message(1, None, "b")], vec!["b"]),
            ("one has a time", vec![message(1, Some(-5), "a"), message(1, None, "b")], vec!["a", "|", "b"]),
            (
                "one has a time, one after it is newer",
                vec![message(1, Some(5), "a"), message(1, None, "b"), message(1, Some(4), "c")],
                vec!["a", "|", "b", "|", "c"],
            ),
            (
                "by ascending id",
                vec![message(3, None, "c"), message(1, None, "a"), message(2, None, "b")],
                vec!["a", "b", "c"],
            ),
            (
                "each id has rounds of its own",
                vec![
                    message(2, None, "a"),
                    message(2, Some(1), "b"),
                    message(1, None, "c"),
                    message(3, None, "d"),
                ],
                vec!["c", "a", "d", "|", "b"],
            ),
            (
                "three versions",
                vec![message(1, Some(2), "a"), message(1, Some(3), "b"), message(1, Some(1), "c")],
                vec!["b"],
            ),
        ];
        for (name, messages, written) in cases {
            let batch = Batch { messages, ..Batch::default() };
            let rounds = batch.messages();
            let rounds: Vec<Vec<&str>> = rounds
                .iter()
                .map(|round| round.iter().map(|row| row.text.as_deref().unwrap()).collect())
                .collect();
            assert_eq!(rounds.join(&"|"), written, "{name}");
        }
    }

    #[test]
    fn an_embedded_conversation_is_written_only_if_it_may_be_newer() {
        let cases = [
            ("older", 1, vec!["listed"]),
            ("equal", 2, vec!["listed"]),
            // Where a copy without a time is held, only the listed one lands by itself.
            ("newer", 3, vec!["listed", "embedded"]),
        ];
        for (name, updated, written) in cases {
            let batch = Batch {
                conversations: vec![conversation(1, 2, "listed")],
                embedded: vec![conversation(1, updated, "embedded")],
                ..Batch::default()
            };
            let rounds = batch.conversations().concat();
            let names: Vec<_> = rounds.iter().map(|(row, _)| row.name.as_deref().unwrap()).collect();
            assert_eq!(names, written, "{name}");
        }
    }

    /// Who stays of copies written one by one, over one that is held; each a version and whether it came embedded.
    fn one_by_one(held: Option<usize>, copies: &[(Version, bool)], order: &[usize]) -> Option<usize> {
        order.iter().fold(held, |held, copy| {
            let (version, embedded) = copies[*copy];
            let compared = held.map(|held| version.against(copies[held].0));
            match compared {
                None | Some(Ordering::Greater) => Some(*copy),
                Some(Ordering::Equal) if !embedded => Some(*copy),
                _ => held,
            }
        })
    }

    #[test]
    fn two_copies_are_settled_only_where_what_is_held_does_not_matter() {
        let values = [None, Some(1), Some(2), Some(3)];
        let time = |second| DateTime::from_timestamp(second, 0).unwrap();
        let versions: Vec<Version> = values
            .iter()
            .flat_map(|rev| values.map(|updated| Version { rev: *rev, updated: updated.map(time) }))
            .collect();
        let mut settled_pairs = 0;
        for (x, y) in versions.iter().flat_map(|x| versions.iter().map(move |y| (*x, *y))) {
            for (x_embedded, y_embedded) in [(false, false), (false, true), (true, false), (true, true)] {
                let (earlier, later) = ((x, x_embedded), (y, y_embedded));
                let alone = match settled(earlier, later) {
                    Some(Settled::Earlier) => 0,
                    Some(Settled::Later) => 1,
                    None => continue,
                };
                settled_pairs += 1;
                for held in versions.iter().map(|held| Some((*held, false))).chain([None]) {
                    let copies: Vec<_> = [earlier, later].into_iter().chain(held).collect();
                    let place = held.map(|_| 2);
                    assert_eq!(
                        one_by_one(place, &copies, &[0, 1]),
                        one_by_one(place, &copies, &[alone]),
                        "{earlier:?}, then {later:?}, over {held:?}"
                    );
                }
            }
        }
        assert!(settled_pairs > 200, "{settled_pairs}");
    }

    #[test]
    fn a_reject_is_read_again_by_a_later_page_that_is_as_new() {
        let bad = |updated| Rows {
            messages: vec![message(7, updated, "cut")],
            rejects: vec![reject(7, updated)],
            ..Rows::default()
        };
        let good = |updated| Rows { messages: vec![message(7, updated, "whole")], ..Rows::default() };
        let (old, new) = (Some(1), Some(2));
        let cases = [
            ("bad alone", vec![bad(old)], true),
            ("good after bad", vec![bad(old), good(old)], false),
            ("bad after good", vec![good(old), bad(old)], true),
            ("bad, good, bad", vec![bad(old), good(old), bad(old)], true),
            ("newer after bad", vec![bad(old), good(new)], false),
            ("older after bad", vec![bad(new), good(old)], true),
            ("older, then as new", vec![bad(new), good(old), good(new)], false),
            ("an older one bad after good", vec![good(new), bad(old)], false),
            ("two bad, then the older good", vec![bad(old), bad(new), good(old)], true),
            ("of unknown version", vec![good(new), bad(None)], true),
            ("good after one of unknown version", vec![bad(None), good(old)], false),
        ];
        for (name, pages, unread) in cases {
            let mut batch = Batch::default();
            pages.into_iter().for_each(|page| batch.push(page));
            let last = batch.messages().concat().pop().unwrap().version();
            assert_eq!(batch.is_unread(Stream::Messages, 7, last), unread, "{name}");
        }
    }
}
