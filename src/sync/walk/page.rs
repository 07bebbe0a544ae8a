//! A page, reduced to what can be judged of it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{Listed, Place};

/// What is left of a page: one place for each id, that of its newest version, in the order of the page.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub places: Vec<Place>,
    /// Ids of rows without a time.
    pub blanks: Vec<i64>,
    /// Elements that are among neither: rows above the cursor, and versions and copies of rows that are.
    pub dropped: usize,
}

impl Page {
    /// Rows above `cursor` are left out: some servers list them again at the top of each page. So are older versions of
    /// a row behind the newer one, and copies.
    pub fn reduce(listed: &[Listed], cursor: Option<DateTime<Utc>>) -> Self {
        let mut newest: HashMap<i64, Option<DateTime<Utc>>> = HashMap::with_capacity(listed.len());
        for (time, id) in listed {
            let held = newest.entry(*id).or_default();
            *held = (*held).max(*time);
        }
        let mut page = Self { places: Vec::with_capacity(listed.len()), ..Self::default() };
        for (time, id) in listed {
            // Each id is taken once.
            let taken = newest.get(id) == Some(time) && newest.remove(id).is_some();
            match time {
                Some(time) if taken && cursor.is_none_or(|cursor| *time <= cursor) => {
                    page.places.push((*time, *id));
                }
                None if taken => page.blanks.push(*id),
                _ => page.dropped += 1,
            }
        }
        page
    }

    /// Time of the last row.
    pub fn lowest(&self) -> Option<DateTime<Utc>> {
        self.places.last().map(|place| place.0)
    }

    pub fn is_sorted(&self) -> bool {
        self.places.is_sorted_by(|above, below| above.0 >= below.0)
    }

    /// Elements that the server sent.
    pub fn elements(&self) -> usize {
        self.rows() + self.dropped
    }

    /// Elements that were not left out.
    pub fn rows(&self) -> usize {
        self.places.len() + self.blanks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_reduced_to_one_place_for_each_row() {
        type Case<'a> = (&'a str, &'a [(i64, i64)], &'a [(i64, i64)], &'a [i64], usize);
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        // Second (negative: none) and id; the cursor is at 50.
        let cases: [Case<'_>; 8] = [
            ("nothing", &[], &[], &[], 0),
            ("plain", &[(9, 1), (9, 2), (8, 3)], &[(9, 1), (9, 2), (8, 3)], &[], 0),
            ("repeated", &[(9, 1), (9, 1), (8, 3), (9, 1)], &[(9, 1), (8, 3)], &[], 2),
            ("at the cursor and above", &[(60, 1), (51, 2), (50, 3), (9, 4)], &[(50, 3), (9, 4)], &[], 2),
            ("an older version behind", &[(9, 1), (7, 1), (8, 2)], &[(9, 1), (8, 2)], &[], 1),
            ("an older version before", &[(7, 1), (9, 1), (8, 2)], &[(9, 1), (8, 2)], &[], 1),
            ("the newer one above the cursor", &[(60, 1), (7, 1), (6, 2)], &[(6, 2)], &[], 2),
            ("without a time", &[(-1, 1), (9, 2), (-1, 3), (-1, 2), (-1, 3)], &[(9, 2)], &[1, 3], 2),
        ];
        for (name, listed, places, blanks, dropped) in cases {
            let listed: Vec<Listed> =
                listed.iter().map(|(time, id)| ((*time >= 0).then(|| at(*time)), *id)).collect();
            let places = places.iter().map(|(time, id)| (at(*time), *id)).collect();
            let expected = Page { places, blanks: blanks.to_vec(), dropped };
            assert_eq!(Page::reduce(&listed, Some(at(50))), expected, "{name}");
            assert_eq!(expected.elements(), listed.len(), "{name}");
        }
    }
}
