//! What is written together: rows, what they prove, and what was spent on them.

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
                let refused = self.unread.entry((reject.stream, id)).or_default();
                *refused = reject.version.max(*refused);
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
        if self.unread.get(&row).is_some_and(|refused| version >= *refused) {
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

    /// Whether the row was refused in this batch, in this version or a newer or unknown one, and not read since.
    pub(super) fn is_unread(&self, stream: Stream, id: i64, version: Version) -> bool {
        let refused = self.unread.get(&(stream, id.to_string()));
        refused.is_some_and(|refused| refused.is_unknown() || *refused >= version)
    }

    /// One version of each message, by ascending id: the newest; of equal ones, that read later.
    pub(super) fn newest_messages(&self) -> Vec<&Message> {
        newest(self.messages.iter(), |row| row.id, |row| row.version())
    }

    /// One version of each contact: the greatest `rev`, then the newest; of equal ones, that read later.
    pub(super) fn newest_contacts(&self) -> Vec<&Contact> {
        newest(self.contacts.iter(), |row| row.id, |row| row.version())
    }

    /// One version of each conversation, and whether it came embedded: the newest; of equal ones, one
    /// from the conversations endpoints before an embedded one, then that read later.
    pub(super) fn newest_conversations(&self) -> Vec<(&Conversation, bool)> {
        let listed = self.conversations.iter().map(|row| (row, false));
        let embedded = self.embedded.iter().map(|row| (row, true));
        newest(listed.chain(embedded), |(row, _)| row.id, |(row, embedded)| (row.version(), !embedded))
    }
}

/// One row of each id, by ascending id: that of the greatest version, the last of several such.
/// No version (`None`) is the least.
fn newest<R: Copy, V: Ord>(
    rows: impl Iterator<Item = R>,
    id: impl Fn(&R) -> i64,
    version: impl Fn(&R) -> V,
) -> Vec<R> {
    let mut rows: Vec<R> = rows.collect();
    // Stable, so rows of one version stay in reading order and the last of an id is its newest.
    rows.sort_by(|a, b| id(b).cmp(&id(a)).then_with(|| version(a).cmp(&version(b))));
    rows.reverse();
    rows.dedup_by_key(|row| id(row));
    rows
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
            reason: "date".to_owned(),
            payload: "{}".into(),
        }
    }

    #[test]
    fn one_version_of_each_message_is_kept() {
        let cases = [
            ("alone", vec![message(1, None, "a")], vec!["a"]),
            ("newer later", vec![message(1, Some(1), "a"), message(1, Some(2), "b")], vec!["b"]),
            ("newer first", vec![message(1, Some(2), "a"), message(1, Some(1), "b")], vec!["a"]),
            ("equal: later", vec![message(1, Some(1), "a"), message(1, Some(1), "b")], vec!["b"]),
            ("none is oldest", vec![message(1, Some(-5), "a"), message(1, None, "b")], vec!["a"]),
            ("none equals none", vec![message(1, None, "a"), message(1, None, "b")], vec!["b"]),
            (
                "by ascending id",
                vec![message(3, None, "c"), message(1, None, "a"), message(2, None, "b")],
                vec!["a", "b", "c"],
            ),
            (
                "three versions",
                vec![message(1, Some(2), "a"), message(1, Some(3), "b"), message(1, Some(1), "c")],
                vec!["b"],
            ),
        ];
        for (name, messages, kept) in cases {
            let batch = Batch { messages, ..Batch::default() };
            let texts: Vec<_> =
                batch.newest_messages().iter().map(|row| row.text.as_deref().unwrap()).collect();
            assert_eq!(texts, kept, "{name}");
        }
    }

    #[test]
    fn a_greater_revision_beats_a_later_time() {
        let contact = |rev, updated, first: &str| Contact {
            id: 1,
            rev,
            updated: DateTime::from_timestamp(updated, 0),
            first: Some(first.into()),
            ..Contact::default()
        };
        let cases = [
            ("rev first", contact(Some(2), 1, "a"), contact(Some(1), 9, "b"), "a"),
            ("then time", contact(Some(1), 2, "a"), contact(Some(1), 1, "b"), "a"),
            ("equal: later", contact(Some(1), 1, "a"), contact(Some(1), 1, "b"), "b"),
            ("no rev is least", contact(Some(-1), 1, "a"), contact(None, 9, "b"), "a"),
        ];
        for (name, first, second, kept) in cases {
            let batch = Batch { contacts: vec![first, second], ..Batch::default() };
            assert_eq!(batch.newest_contacts()[0].first.as_deref(), Some(kept), "{name}");
        }
    }

    #[test]
    fn an_embedded_conversation_wins_only_if_newer() {
        let cases =
            [("older", 1, "listed", false), ("equal", 2, "listed", false), ("newer", 3, "embedded", true)];
        for (name, updated, kept, from_message) in cases {
            let batch = Batch {
                conversations: vec![conversation(1, 2, "listed")],
                embedded: vec![conversation(1, updated, "embedded")],
                ..Batch::default()
            };
            let rows = batch.newest_conversations();
            assert_eq!(rows.len(), 1, "{name}");
            assert_eq!((rows[0].0.name.as_deref(), rows[0].1), (Some(kept), from_message), "{name}");
        }
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
            let newest = batch.newest_messages()[0].version();
            assert_eq!(batch.is_unread(Stream::Messages, 7, newest), unread, "{name}");
        }
    }
}
