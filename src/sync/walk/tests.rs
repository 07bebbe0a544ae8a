use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// One way to read the documentation.
#[derive(Clone, Debug)]
struct Reading {
    inclusive: bool,
    /// Microseconds to which the cursor is cut.
    cut: i64,
    cap: usize,
    heeds_limit: bool,
    heeds_page: bool,
    page_base: u32,
}

const EXACT: Reading =
    Reading { inclusive: false, cut: 1, cap: 1_000, heeds_limit: true, heeds_page: true, page_base: 1 };

fn at(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_700_000_000_000_000 + micros).unwrap()
}

impl Reading {
    fn answer(&self, rows: &[Place], ask: &Ask) -> Vec<Place> {
        let limit = if self.heeds_limit { (ask.limit as usize).min(self.cap) } else { self.cap };
        let cursor = ask.cursor.map(|cursor| cursor.timestamp_micros().div_euclid(self.cut) * self.cut);
        let visible = rows.iter().filter(|row| match cursor {
            None => true,
            Some(cursor) if self.inclusive => row.0.timestamp_micros() <= cursor,
            Some(cursor) => row.0.timestamp_micros() < cursor,
        });
        let page = match ask.page {
            Some(page) if self.heeds_page => page.saturating_sub(self.page_base) as usize,
            _ => 0,
        };
        visible.skip(page * limit).take(limit).copied().collect()
    }
}

struct Walked {
    seen: BTreeSet<Place>,
    /// By rows, or by the emptiness that was claimed in the end.
    proven: Vec<Interval>,
    claimed: Option<Emptiness>,
    holes: Vec<(Interval, Obstacle)>,
    gave_up: Option<Obstacle>,
    requests: usize,
}

fn walk(mut walk: Walk, mut answer: impl FnMut(&Ask, usize) -> Vec<Place>) -> Walked {
    let mut walked = Walked {
        seen: BTreeSet::new(),
        proven: vec![],
        claimed: None,
        holes: vec![],
        gave_up: None,
        requests: 0,
    };
    loop {
        let rows = answer(walk.ask(), walked.requests);
        walked.requests += 1;
        assert!(walked.requests < 20_000, "the walk does not end");
        walked.seen.extend(rows.iter().copied());
        let finding = walk.read(&listed(&rows));
        if let Some(proven) = finding.proven {
            walked.proven.push(proven);
        }
        walked.holes.extend(finding.hole);
        match finding.next {
            Next::Ask(ask) => assert_eq!(&ask, walk.ask()),
            Next::Done => return walked,
            Next::Empty(emptiness) => {
                walked.proven.push(emptiness.interval);
                walked.claimed = Some(emptiness);
                return walked;
            }
            Next::GiveUp(obstacle) => {
                walked.gave_up = Some(obstacle);
                return walked;
            }
        }
    }
}

fn listed(rows: &[Place]) -> Vec<Listed> {
    rows.iter().map(|(time, id)| (Some(*time), *id)).collect()
}

fn sorted(mut rows: Vec<Place>) -> Vec<Place> {
    rows.sort_by(|a, b| b.cmp(a));
    rows
}

fn covers(proven: &[Interval], gap: Interval) -> bool {
    let mut ends: Vec<_> = proven.to_vec();
    ends.sort_by_key(|interval| std::cmp::Reverse(interval.end()));
    let mut reached = gap.end();
    for interval in ends {
        if interval.end() != reached {
            return false;
        }
        match interval.start() {
            None => return gap.start().is_none(),
            Some(start) => reached = start,
        }
    }
    gap.start() == Some(reached)
}

#[test]
fn a_quiet_tick_is_one_request() {
    let rows = sorted((0..500).map(|i| (at(i * 1_000_000), i)).collect());
    let gap = Interval::new(Some(at(490_000_000)), at(495_000_000)).unwrap();
    let walked = walk(Walk::from_top(gap, 200, 200), |ask, _| EXACT.answer(&rows, ask));
    assert_eq!(walked.requests, 1);
    assert_eq!(walked.proven, [gap]);
}

#[test]
fn a_long_walk_asks_one_seam_row_a_page() {
    let rows = sorted((0..10_000).map(|i| (at(i * 1_234_567), i)).collect());
    let gap = Interval::new(None, at(1_234_567 * 10_000)).unwrap();
    let walked = walk(Walk::below(gap, 200), |ask, _| EXACT.answer(&rows, ask));
    assert!(covers(&walked.proven, gap));
    assert!(walked.requests <= 10_000 / 199 + 3, "{}", walked.requests);
}

#[test]
fn one_empty_page_is_not_the_end() {
    let rows = sorted((0..1_000).map(|i| (at(i * 1_000_003), i)).collect());
    let gap = Interval::new(None, at(1_000_003 * 1_000)).unwrap();
    for slip in 0..8 {
        let walked =
            walk(
                Walk::below(gap, 200),
                |ask, request| {
                    if request == slip { vec![] } else { EXACT.answer(&rows, ask) }
                },
            );
        assert_eq!(walked.seen.len(), 1_000, "empty page {slip}");
        assert!(covers(&walked.proven, gap), "empty page {slip}");
    }
}

#[test]
fn a_request_that_fails_alone_is_gone_around_or_given_up() {
    let rows = sorted((0..1_000).map(|i| (at(i * 1_000_003), i)).collect());
    let gap = Interval::new(None, at(1_000_003 * 1_000)).unwrap();
    for failing in 0..6 {
        let mut below = Walk::below(gap, 200);
        let (mut proven, mut asked, mut poison) = (vec![], 0, None);
        loop {
            let ask = below.ask().clone();
            let poisonous = *poison.get_or_insert(ask.cursor) == ask.cursor && asked >= failing;
            let found = match poisonous {
                true => below.failed(),
                false => {
                    let page = EXACT.answer(&rows, &ask);
                    below.read(&listed(&page))
                }
            };
            asked += 1;
            poison = if asked <= failing { None } else { poison };
            proven.extend(found.proven);
            match found.next {
                Next::Ask(_) => assert!(asked < 100, "the walk does not end"),
                Next::Empty(emptiness) => break proven.push(emptiness.interval),
                next => panic!("failing from request {failing}: {next:?}"),
            }
        }
        assert!(covers(&proven, gap), "failing from request {failing}");
    }
    let mut hopeless = Walk::below(gap, 200);
    let tries = (1..100).find(|_| hopeless.failed().next == Next::GiveUp(Obstacle::Failing));
    assert_eq!(tries, Some(SEAM_ATTEMPTS));
}

#[test]
fn a_row_that_moves_up_at_the_seam_costs_no_proof() {
    let rows = sorted((0..1_000).map(|i| (at(i * 1_000_003), i)).collect());
    let gap = Interval::new(None, at(1_000_003 * 1_000)).unwrap();
    let mut rows_now = rows.clone();
    let walked = walk(Walk::below(gap, 200), |ask, request| {
        if request == 1 {
            let seam = rows_now.iter().position(|row| row.0 == ask.cursor.unwrap() - TICK).unwrap();
            let (_, id) = rows_now.remove(seam);
            rows_now.insert(0, (at(2_000_000_000), id));
        }
        EXACT.answer(&rows_now, ask)
    });
    assert_eq!(walked.seen.len(), 1_000);
    assert!(covers(&walked.proven, gap));
}

#[test]
fn a_server_that_ignores_the_cursor_proves_nothing() {
    let rows = sorted((0..1_000).map(|i| (at(i * 1_000_003), i)).collect());
    let gap = Interval::new(None, at(500_000_000)).unwrap();
    let walked = walk(Walk::below(gap, 200), |_, _| rows[..200].to_vec());
    assert_eq!(walked.gave_up, Some(Obstacle::CursorIgnored));
    assert!(walked.proven.is_empty());
}

#[test]
fn a_run_that_cannot_be_listed_is_a_hole_and_the_walk_goes_on_below() {
    let mut rows: Vec<Place> = (0..300).map(|i| (at(i * 1_000_003), i)).collect();
    rows.extend((0..500).map(|i| (at(150 * 1_000_003), 1_000 + i)));
    let rows = sorted(rows);
    let reading = Reading { heeds_page: false, cap: 100, ..EXACT };
    for inclusive in [false, true] {
        let reading = Reading { inclusive, ..reading.clone() };
        let gap = Interval::new(None, at(1_000_003 * 300)).unwrap();
        let walked = walk(Walk::below(gap, 100), |ask, _| reading.answer(&rows, ask));
        let open: Vec<_> = walked.holes.iter().map(|hole| hole.1).collect();
        assert_eq!(open, [Obstacle::Run], "inclusive {inclusive}");
        let hole = walked.holes[0].0;
        assert!(hole.contains(at(150 * 1_000_003)));
        assert!(rows.iter().filter(|row| !hole.contains(row.0)).all(|row| walked.seen.contains(row)));
    }
}

#[test]
fn a_row_repeated_within_a_page_of_a_run_hides_no_other() {
    let rows = sorted((0..50).map(|i| (at(0), i)).collect());
    let reading = Reading { cap: 30, ..EXACT };
    let gap = Interval::new(None, at(1)).unwrap();
    for spoilt in 1..8 {
        let walked = walk(Walk::below(gap, 30), |ask, request| {
            let mut page = reading.answer(&rows, ask);
            if request % spoilt == 0 && page.len() == 30 {
                page.insert(3, page[3]);
                page.truncate(30);
            }
            page
        });
        let proven = walked.proven.iter().any(|interval| interval.contains(at(0)));
        assert!(!proven || walked.seen.len() == 50, "every {spoilt}th page");
    }
}

#[test]
fn a_run_above_the_gap_that_cannot_be_listed_is_told_too() {
    let rows = sorted((0..100).map(|i| (at(9_000_000), i)).collect());
    let reading = Reading { heeds_page: false, cap: 10, ..EXACT };
    let gap = Interval::new(Some(at(1_000_000)), at(2_000_000)).unwrap();
    let walked = walk(Walk::from_top(gap, 100, 100), |ask, _| reading.answer(&rows, ask));
    assert!(walked.holes.iter().any(|(hole, _)| hole.contains(at(9_000_000))), "{:?}", walked.holes);
}

#[test]
fn a_server_that_has_no_rows_below_any_cursor_does_not_keep_the_walk() {
    let rows = sorted((0..100).map(|i| (at(i * 1_000_003), i)).collect());
    for gap_end in [at(1_000_003), at(200_000_000)] {
        let gap = Interval::new(None, gap_end).unwrap();
        for begin in [Walk::below(gap, 10), Walk::from_top(gap, 10, 10)] {
            let from_top = begin.ask().cursor.is_none();
            let walked =
                walk(begin, |ask, _| if ask.cursor.is_some() { vec![] } else { rows[..10].to_vec() });
            assert!(!from_top || walked.gave_up == Some(Obstacle::SeamLost));
        }
    }
}

/// A walk in which answers with one of `large` in them cannot be read.
fn walk_past_large(begin: Walk, reading: &Reading, rows: &[Place], large: &[Place]) -> Walked {
    let mut walk = begin;
    let mut walked = Walked {
        seen: BTreeSet::new(),
        proven: vec![],
        claimed: None,
        holes: vec![],
        gave_up: None,
        requests: 0,
    };
    loop {
        let page = reading.answer(rows, walk.ask());
        walked.requests += 1;
        assert!(walked.requests < 20_000, "the walk does not end");
        let finding = if page.iter().any(|row| large.contains(row)) {
            walk.unreadable(Obstacle::TooLarge)
        } else {
            walked.seen.extend(page.iter().copied());
            walk.read(&listed(&page))
        };
        walked.proven.extend(finding.proven);
        walked.holes.extend(finding.hole);
        match finding.next {
            Next::Ask(_) => {}
            Next::Done => return walked,
            Next::Empty(emptiness) => {
                walked.proven.push(emptiness.interval);
                walked.claimed = Some(emptiness);
                return walked;
            }
            Next::GiveUp(obstacle) => {
                walked.gave_up = Some(obstacle);
                return walked;
            }
        }
    }
}

#[test]
fn a_row_that_is_too_large_is_left_open_alone() {
    let rows = sorted((0..300).map(|i| (at(i * 1_000_003), i)).collect());
    let gap = Interval::new(None, at(1_000_003 * 300)).unwrap();
    for inclusive in [false, true] {
        for large in [vec![0], vec![150], vec![299], vec![7, 8, 9, 200]] {
            let reading = Reading { inclusive, ..EXACT };
            let large: Vec<Place> = large.into_iter().map(|index| rows[index]).collect();
            let walked = walk_past_large(Walk::below(gap, 50), &reading, &rows, &large);
            let proven = |row: &Place| walked.proven.iter().any(|interval| interval.contains(row.0));
            assert_eq!(walked.gave_up, None);
            assert!(large.iter().all(|row| !proven(row)), "{:?}", walked.proven);
            assert!(rows.iter().all(|row| large.contains(row) || walked.seen.contains(row)));
            assert!(walked.holes.iter().all(|hole| hole.1 == Obstacle::TooLarge), "{:?}", walked.holes);
            assert!(walked.requests < 100 + 80 * large.len(), "{} requests", walked.requests);
        }
    }
}

fn any_reading() -> impl Strategy<Value = Reading> {
    (any::<bool>(), prop_oneof![Just(1), Just(1_000), Just(1_000_000)], 3..40usize, any::<bool>(), 0..2u32)
        .prop_map(|(inclusive, cut, cap, heeds_limit, page_base)| Reading {
            inclusive,
            cut,
            cap,
            heeds_limit,
            heeds_page: true,
            page_base,
        })
}

/// Histories with bursts: many rows close together, many at one time.
fn any_rows() -> impl Strategy<Value = Vec<Place>> {
    prop::collection::vec((1..3_000_000i64, 1..60usize, prop_oneof![Just(0), Just(7), Just(50_000)]), 0..40)
        .prop_map(|bursts| {
            let mut rows = vec![];
            let mut time = 0;
            for (pause, count, spread) in bursts {
                time += pause;
                for _ in 0..count {
                    time += spread;
                    rows.push((at(time), rows.len() as i64));
                }
            }
            sorted(rows)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// What is proved has been seen, under every reading; and every reading that heeds `page` proves it all.
    #[test]
    fn proved_implies_seen(
        rows in any_rows(),
        reading in any_reading(),
        heeds_page in any::<bool>(),
        limit in 1..50u32,
        from_top in any::<bool>(),
        bounds in (0.0..1.0f64, 0.0..1.2f64),
        open_start in any::<bool>(),
        slip in prop::option::of(0..30usize),
    ) {
        let reading = Reading { heeds_page, ..reading };
        let newest = rows.first().map_or(at(0), |row| row.0);
        let span = (newest - at(0)).num_microseconds().unwrap() as f64;
        let start = (!open_start).then(|| at((bounds.0 * bounds.1 * span) as i64));
        let end = at((bounds.1 * span) as i64 + 1);
        let gap = Interval::new(start, end).unwrap();
        let begin = if from_top { Walk::from_top(gap, (limit / 3).max(1), limit) } else { Walk::below(gap, limit) };
        let walked = walk(begin, |ask, request| {
            if slip == Some(request) { vec![] } else { reading.answer(&rows, ask) }
        });
        for row in &rows {
            let proven = walked.proven.iter().any(|interval| interval.contains(row.0));
            prop_assert!(!proven || walked.seen.contains(row), "{row:?} proved, never seen");
        }
        if heeds_page && slip.is_none() {
            prop_assert!(walked.gave_up.is_none(), "{:?}", walked.gave_up);
            prop_assert!(covers(&walked.proven, gap), "{:?} of {gap}", walked.proven);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// What is proved has been seen, whichever rows are too large to be read.
    #[test]
    fn proved_implies_seen_past_large_rows(
        rows in any_rows(),
        reading in any_reading(),
        limit in 1..50u32,
        large in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let gap = Interval::new(None, rows.first().map_or(at(0), |row| row.0) + TICK).unwrap();
        let large: Vec<Place> =
            large.iter().filter(|_| !rows.is_empty()).map(|index| rows[index.index(rows.len())]).collect();
        let walked = walk_past_large(Walk::below(gap, limit), &reading, &rows, &large);
        for row in &rows {
            let proven = walked.proven.iter().any(|interval| interval.contains(row.0));
            prop_assert!(!proven || walked.seen.contains(row), "{row:?} proved, never seen");
        }
    }
}

/// A page with some rows repeated right after themselves, which pushes others out where it is `cut`.
fn repeat(mut page: Vec<Place>, draw: &mut impl FnMut(usize) -> usize, cut: Option<usize>) -> Vec<Place> {
    for _ in 0..1 + draw(3) {
        if !page.is_empty() {
            let index = draw(page.len());
            page.insert(index, page[index]);
        }
    }
    page.truncate(cut.unwrap_or(page.len()));
    page
}

#[test]
fn rows_that_repeats_push_out_of_pages_are_found_by_other_readings_or_left_open() {
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut rows: Vec<Place> = (0..50).map(|i| (at(i * 700_000), i)).collect();
    rows.extend((0..400).map(|i| (at(40_000_000), 1_000 + i)));
    rows.extend((0..50).map(|i| (at(50_000_000 + i * 700_000), 2_000 + i)));
    let rows = sorted(rows);
    let reading = Reading { cap: 30, ..EXACT };
    let gap = Interval::new(None, at(100_000_000)).unwrap();
    for case in 0..200 {
        let walked = walk(Walk::below(gap, 30), |ask, _| {
            let limit = (ask.limit as usize).min(30);
            repeat(reading.answer(&rows, ask), &mut draw, (case % 2 == 0).then_some(limit))
        });
        let lost: Vec<_> = rows
            .iter()
            .filter(|row| {
                walked.proven.iter().any(|interval| interval.contains(row.0)) && !walked.seen.contains(row)
            })
            .collect();
        assert!(lost.is_empty(), "case {case}: {lost:?} proved, never seen");
        assert!(covers(&walked.proven, gap), "case {case}: {:?}", walked.holes);
        // Without a row pushed out, two readings are enough.
        assert!(case % 2 == 0 || walked.requests < 70, "{} requests", walked.requests);
    }
}
