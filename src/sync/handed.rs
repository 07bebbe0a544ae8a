//! Rows that a walk has just handed to the writer: those at the lower edge of a page come again with the next.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use chrono::{DateTime, Utc};

use crate::api::model::Rows;

/// Rows of one time that are remembered.
const REMEMBERED_ROWS: usize = 2_000;

/// The rows at the lowest time that a walk has read, as they were handed over. A row that comes again with the same
/// bytes would change nothing: the writer takes pages in their order.
#[derive(Default)]
pub(super) struct Handed {
    time: Option<DateTime<Utc>>,
    rows: HashMap<i64, u64>,
    hasher: RandomState,
}

impl Handed {
    /// Takes the rows that came before out of a page, and remembers those at its lower edge. A page with rejects is
    /// left as it is: what came with them belongs together.
    pub fn reduce(&mut self, page: &mut Rows) {
        let Some(lowest) = page.placed().map(|place| place.0).min() else { return };
        let edge: HashSet<i64> =
            page.placed().filter(|place| place.0 == lowest).map(|place| place.1).collect();
        if !page.rejects.is_empty() {
            self.rows.clear();
            return;
        }
        let before = std::mem::take(&mut self.rows);
        if self.time == Some(lowest) {
            self.rows.clone_from(&before);
        }
        self.time = Some(lowest);
        let mut is_new = |id: i64, raw: &[u8]| {
            let at_edge = edge.contains(&id);
            if !at_edge && !before.contains_key(&id) {
                return true;
            }
            let hash = self.hasher.hash_one(raw);
            if at_edge && (self.rows.len() < REMEMBERED_ROWS || self.rows.contains_key(&id)) {
                self.rows.insert(id, hash);
            }
            before.get(&id) != Some(&hash)
        };
        page.messages.retain(|row| is_new(row.id, &row.raw));
        page.conversations.retain(|row| is_new(row.id, &row.raw));
        page.contacts.retain(|row| is_new(row.id, &row.raw));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::model::{Message, Reject, Stream, Version};

    /// Rows as `(id, second, text)`.
    fn page(rows: &[(i64, i64, &'static str)]) -> Rows {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        Rows {
            messages: rows
                .iter()
                .map(|(id, _, text)| Message { id: *id, raw: (*text).into(), ..Message::default() })
                .collect(),
            listed: rows.iter().map(|(id, second, _)| (Some(at(*second)), *id)).collect(),
            elements: rows.len(),
            ..Rows::default()
        }
    }

    #[test]
    fn rows_of_the_edge_are_handed_over_once() {
        let first = [(1, 9, "a"), (2, 8, "b"), (3, 8, "c")];
        let cases = [
            ("the edge comes again", vec![(2, 8, "b"), (3, 8, "c"), (4, 7, "d")], vec![4]),
            ("changed", vec![(3, 8, "other"), (4, 7, "d")], vec![3, 4]),
            ("above the edge", vec![(1, 9, "a"), (3, 8, "c")], vec![1]),
            ("none", vec![(4, 7, "d")], vec![4]),
        ];
        for (name, rows, left) in cases {
            let mut handed = Handed::default();
            handed.reduce(&mut page(&first));
            let mut second = page(&rows);
            handed.reduce(&mut second);
            assert_eq!(second.messages.iter().map(|row| row.id).collect::<Vec<_>>(), left, "{name}");
            assert_eq!(second.elements, rows.len(), "{name}");
        }
    }

    #[test]
    fn a_change_and_back_are_both_handed_over() {
        let mut handed = Handed::default();
        for text in ["a", "b", "a"] {
            let mut page = page(&[(1, 5, text)]);
            handed.reduce(&mut page);
            assert_eq!(page.messages.len(), 1, "{text}");
        }
    }

    #[test]
    fn a_long_run_is_remembered_over_its_pages() {
        let mut handed = Handed::default();
        handed.reduce(&mut page(&[(1, 5, "a"), (2, 5, "b")]));
        handed.reduce(&mut page(&[(3, 5, "c")]));
        let mut again = page(&[(1, 5, "a"), (2, 5, "b"), (3, 5, "c"), (4, 5, "d")]);
        handed.reduce(&mut again);
        assert_eq!(again.messages.iter().map(|row| row.id).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_page_with_rejects_stays_whole() {
        let mut handed = Handed::default();
        handed.reduce(&mut page(&[(1, 5, "a")]));
        let mut partial = page(&[(1, 5, "a")]);
        partial.rejects.push(Reject {
            stream: Stream::Messages,
            source_id: Some("1".to_owned()),
            partial: true,
            embedded: false,
            reason: "date".to_owned(),
            payload: "a".into(),
            version: Version::default(),
        });
        handed.reduce(&mut partial);
        assert_eq!(partial.messages.len(), 1);
    }
}
