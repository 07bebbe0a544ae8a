//! Lists inside a row that have a table of their own: members and notes.

use std::borrow::Cow;

use super::{
    extra::Extra,
    scan::{Elements, Fields, Kind, Value},
};

/// The most entries one list may have; a longer one counts as unreadable.
pub const MAX_ENTRIES: usize = 10_000;

/// What one entry holds, or why it could not be read.
pub(super) type Entry<T> = Result<T, Cow<'static, str>>;

/// Reads the list in field `name`, with one entry per key; of a key listed twice, the later entry.
///
/// If not all of the list has a column, or some of it could not be read, the whole list is kept.
pub(super) fn read<'a, K: Ord, T>(
    name: &'static str,
    list: Value<'a>,
    extra: &mut Extra<'a>,
    read_entry: impl Fn(&mut Fields<'a>, &mut Extra<'a>) -> Entry<T>,
    key: impl Fn(&T) -> K,
) -> Vec<T> {
    extra.forget(name);
    match list.kind {
        Kind::Null | Kind::Text { .. } if matches!(list.raw, b"null" | b"\"\"") => return Vec::new(),
        Kind::Array => {}
        _ => {
            extra.keep(name, list, Some("not an array".into()));
            return Vec::new();
        }
    }
    let (mut entries, outcome) = read_all(list, read_entry);
    match outcome {
        Outcome { reason: None, whole: true } => {}
        Outcome { reason, .. } => extra.keep(name, list, reason),
    }
    // A stable sort leaves equal keys in the list's order; of each run of them, the last stays.
    if !entries.is_sorted_by(|a, b| key(a) < key(b)) {
        entries.sort_by_key(&key);
        entries.reverse();
        entries.dedup_by(|next, kept| key(next) == key(kept));
        entries.reverse();
    }
    entries
}

/// How much of a list was read.
struct Outcome {
    /// The first thing that could not be read.
    reason: Option<Cow<'static, str>>,
    /// Everything that was read has a column.
    whole: bool,
}

fn read_all<'a, T>(
    list: Value<'a>,
    read_entry: impl Fn(&mut Fields<'a>, &mut Extra<'a>) -> Entry<T>,
) -> (Vec<T>, Outcome) {
    let mut outcome = Outcome { reason: None, whole: true };
    let mut entries = Vec::new();
    let mut elements = Elements::of(list.raw).expect("invariant: an array was scanned whole");
    while let Some(element) = elements.next().expect("invariant: an array was scanned whole") {
        if entries.len() == MAX_ENTRIES {
            return (Vec::new(), Outcome { reason: Some("too many entries".into()), whole: false });
        }
        if element.kind != Kind::Object {
            outcome.reason.get_or_insert("an entry that is not an object".into());
            continue;
        }
        let mut fields = Fields::of(element.raw).expect("invariant: an object was scanned whole");
        let mut extra = Extra::default();
        match read_entry(&mut fields, &mut extra) {
            Ok(entry) => entries.push(entry),
            Err(reason) => {
                outcome.reason.get_or_insert(reason);
                continue;
            }
        }
        outcome.whole &= extra.is_empty();
        if outcome.reason.is_none() {
            outcome.reason = extra.reasons().map(|reasons| format!("in an entry, {reasons}").into());
        }
    }
    (entries, outcome)
}
