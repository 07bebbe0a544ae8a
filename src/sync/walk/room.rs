//! How many rows the pages of a list may have pushed out: a server that cuts its pages after it has repeated rows on them
//! loses as many others, which the next page number does not bring.

use super::Place;
use super::page::Page;

/// What is judged of one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listing {
    /// Elements that were not left out.
    pub rows: usize,
    pub elements: usize,
    pub last: Option<Place>,
}

impl Listing {
    pub fn of(page: &Page) -> Self {
        Self { rows: page.rows(), elements: page.elements(), last: page.places.last().copied() }
    }
}

/// How many elements a page has room for, as one tells that nothing was left out of: nothing where it has just as many as
/// were asked for, and might have had more.
pub(super) fn told_by(page: &Page, asked: usize) -> Option<usize> {
    (page.dropped == 0 && page.elements() != asked).then_some(page.elements())
}

/// At most so many rows were pushed out of `pages`, which are those of one list in their order, down to its end or
/// beyond what counts of it. `asked` were asked for on each, unless the server does not heed that; a page may have `room`
/// for so many, and has it for as many as were `seen`.
pub(super) fn pushed_out(pages: &[Listing], asked: Option<usize>, room: Option<usize>, seen: usize) -> usize {
    let largest = pages.iter().map(|page| page.elements).max().unwrap_or(0);
    let most_rows = pages.iter().map(|page| page.rows).max().unwrap_or(0);
    // What is repeated has taken the place of some rows, or stands beside as many as there is room for.
    let fits = |room: &usize| largest == *room || largest > *room && most_rows == *room;
    let last = pages.iter().rposition(|page| page.elements > 0).unwrap_or(0);
    let room = match asked.filter(fits).max(room.filter(fits)) {
        Some(room) => room,
        // A server that cuts its pages cuts all of them to one size.
        None if pages[..last].iter().all(|page| page.elements == largest) => largest,
        None => most_rows,
    };
    let is_full = |(nth, page): &(usize, &Listing)| {
        page.elements >= seen.min(asked.unwrap_or(seen)).max(if *nth == last { largest } else { room })
    };
    let full = pages.iter().enumerate().filter(is_full);
    full.map(|(_, page)| (page.elements - page.rows).min(room - page.rows)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pushed_out_where_a_page_had_room_for_no_more() {
        const NOT_HEEDED: usize = 0;
        type Case<'a> = (&'a str, &'a [(usize, usize)], usize, Option<usize>, usize, usize);
        // Rows and elements of each page, asked, room told of, elements seen on a page, pushed out.
        let cases: [Case<'_>; 17] = [
            ("nothing", &[], 10, None, 0, 0),
            ("nothing left out", &[(10, 10), (10, 10), (3, 3)], 10, None, 0, 0),
            ("cut to what was asked", &[(8, 10), (9, 10), (3, 5)], 10, None, 0, 3),
            ("beside what was asked", &[(10, 12), (10, 12), (8, 11)], 10, None, 0, 0),
            ("beside some of what was asked", &[(9, 12), (10, 12)], 10, None, 0, 1),
            ("as many as were asked for, by chance", &[(8, 10), (9, 11), (3, 5)], 10, None, 0, 1),
            ("cut to a size of its own", &[(8, 10), (9, 10), (3, 5)], 100, None, 0, 3),
            ("beside pages of a size of its own", &[(10, 12), (10, 11), (3, 5)], 100, None, 0, 0),
            ("all alike, so perhaps cut", &[(10, 12), (10, 12), (3, 5)], 100, None, 0, 4),
            ("all alike, of known room", &[(10, 12), (10, 12), (3, 5)], 100, Some(10), 0, 0),
            ("cut to the known room", &[(8, 10), (8, 10), (3, 5)], 100, Some(10), 0, 4),
            ("of less than what was taken for room", &[(8, 9), (8, 9), (3, 5)], 100, Some(10), 0, 2),
            ("of more than what was taken for room", &[(8, 9), (8, 9), (3, 5)], 100, Some(3), 0, 2),
            ("not as many as are asked for", &[(2, 3), (2, 3), (1, 2)], NOT_HEEDED, None, 0, 2),
            ("smaller than others", &[(8, 9), (8, 9), (3, 5)], 100, None, 10, 0),
            ("as many as asked, of more that are known", &[(2, 3), (1, 2)], 2, Some(3), 0, 1),
            ("full, then empty", &[(8, 10), (8, 10), (0, 0)], 100, None, 0, 4),
        ];
        for (name, pages, asked, room, seen, expected) in cases {
            let pages: Vec<Listing> = pages
                .iter()
                .map(|(rows, elements)| Listing { rows: *rows, elements: *elements, last: None })
                .collect();
            let asked = (asked != NOT_HEEDED).then_some(asked);
            assert_eq!(pushed_out(&pages, asked, room, seen), expected, "{name}");
        }
    }
}
