//! Random histories, readings, changes, slips, faults, trouble that lasts, and crashes.

use std::time::Duration;

use chrono::TimeDelta;
use heymarket_sync::sandbox::{
    CursorFields, DefaultView, Fault, IdRule, OtherwiseGets, Paging, Precision, SandboxOptions, Slips,
    UpdatedOrder, WantedId,
};
use proptest::test_runner::FileFailurePersistence;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::history::{Change, History, any_change, any_history};
use crate::judge::{Ledger, assert_covered_is_held, assert_equal, assert_lost_is_open};
use crate::rig::{BEYOND_MARGIN, End, Rig};
use crate::trouble::{self, Spell, any_spell};

/// Cases where `PROPTEST_CASES` does not say otherwise.
const CASES: u32 = 16;

#[derive(Clone)]
struct Case {
    history: History,
    paging: Paging,
    page_size: u32,
    walkers: u32,
    /// What happens, and at which request.
    changes: Vec<(u64, Change)>,
    faults: Vec<(u64, Fault)>,
    slips: Slips,
    spells: Vec<Spell>,
    /// At which request the engine dies, and whether the time until it starts again exceeds the settle margin.
    crashes: Vec<(u64, bool)>,
}

impl std::fmt::Debug for Case {
    /// On one line: a case has hundreds of numbers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { history, paging, page_size, walkers, changes, faults, slips, spells, crashes } = self;
        write!(
            f,
            "page size {page_size}, {walkers} walkers, {paging:?}, {history:?}, changes {changes:?}, "
        )?;
        write!(f, "faults {faults:?}, {slips:?}, {spells:?}, crashes {crashes:?}")
    }
}

fn any_paging() -> impl Strategy<Value = Paging> {
    let cursors = || select(vec![CursorFields::Both, CursorFields::CreatedAt, CursorFields::Date]);
    let orders = vec![UpdatedOrder::Honoured, UpdatedOrder::CursorByDate, UpdatedOrder::Ignored];
    (
        (prop_oneof![3..40usize, Just(1_000)], 5..40usize, prop::bool::weighted(0.8), 0..2usize),
        (prop::bool::weighted(0.8), any::<bool>()),
        select(vec![Precision::Exact, Precision::Milliseconds, Precision::Seconds]),
        (cursors(), cursors()),
        select(orders),
        (select(vec![DefaultView::Both, DefaultView::Open]), any_id_rule(), any::<bool>()),
    )
        .prop_map(|(rows, (heeds_page, inclusive), precision, cursors, updated_order, views)| {
            let (conversations, conversation_id, closed_by_inbox) = views;
            let (cap, default_limit, heeds_limit, first_page) = rows;
            let (message_cursor, row_cursor) = cursors;
            Paging {
                default_limit,
                cap,
                heeds_limit,
                first_page,
                heeds_page,
                inclusive,
                precision,
                message_cursor,
                row_cursor,
                updated_order,
                conversations,
                closed_since: None,
                closed_by_inbox,
                conversation_id,
            }
        })
}

/// Half of them as documented.
fn any_id_rule() -> impl Strategy<Value = IdRule> {
    let wanted = vec![WantedId::Any, WantedId::None, WantedId::Zero, WantedId::Member];
    let otherwise = vec![OtherwiseGets::BadData, OtherwiseGets::Empty];
    let rule = (select(wanted), select(otherwise), any::<bool>()).prop_map(
        |(wanted, otherwise, own_inboxes_only)| IdRule {
            wanted,
            otherwise,
            own_inboxes_only,
            stands_for: None,
        },
    );
    prop_oneof![Just(IdRule::default()), rule]
}

fn any_slips() -> impl Strategy<Value = Slips> {
    let some = (0.0..0.3f64, 0..30u32, 0..5_000u64).prop_map(|(probability, most, late)| Slips {
        probability,
        most,
        late: Duration::from_millis(late),
        ..Slips::default()
    });
    prop_oneof![Just(Slips::default()), some]
}

/// Such as cost little time to try again.
fn any_fault() -> impl Strategy<Value = Fault> {
    select(vec![
        Fault::Status(500),
        Fault::Status(503),
        Fault::TooManyRequests { retry_after: None },
        Fault::Reset,
        Fault::Truncated,
        Fault::Html,
        Fault::NoBody,
        Fault::Null,
        Fault::Object,
    ])
}

fn any_case() -> impl Strategy<Value = Case> {
    let requests = || prop_oneof![2 => 1..30u64, 1 => 1..300u64];
    (
        any_history(),
        any_paging(),
        (select(vec![1, 2, 3, 7, 30, 50, 200]), 1..6u32),
        vec((requests(), any_change()), 0..12),
        prop_oneof![3 => Just(Vec::new()), 1 => vec((requests(), any_fault()), 1..3)],
        any_slips(),
        prop_oneof![1 => Just(Vec::new()), 1 => vec(any_spell(), 1..4)],
        prop_oneof![1 => Just(Vec::new()), 2 => vec((requests(), any::<bool>()), 1..4)],
    )
        .prop_map(|(history, paging, (page_size, walkers), changes, faults, slips, spells, crashes)| {
            Case { history, paging, page_size, walkers, changes, faults, slips, spells, crashes }
        })
}

fn run(case: Case) {
    let view = case.paging.conversations;
    let heeds_page = case.paging.heeds_page;
    let late = TimeDelta::from_std(case.slips.late).unwrap();
    let options = SandboxOptions { paging: case.paging, slips: case.slips, ..SandboxOptions::default() };
    let rig = Rig::new(options)
        .set("API__PAGE_SIZE", &case.page_size.to_string())
        .set("API__MAX_IN_FLIGHT", &case.walkers.to_string());
    let state = rig.state();
    case.history.write(state);
    for (nth, change) in case.changes {
        state.on_request(nth, move |state| change.apply(state));
    }
    for (nth, fault) in case.faults {
        state.on_request(nth, move |state| state.push_fault(fault));
    }
    for spell in &case.spells {
        spell.plan(state);
    }
    let believes = case.spells.iter().any(Spell::may_be_believed);
    let rig = if case.spells.is_empty() { rig } else { rig.set("API__MAX_BODY", trouble::MAX_BODY) };
    let state = rig.state();
    for (nth, long_away) in case.crashes {
        rig.sync(Some(nth));
        if !believes {
            assert_covered_is_held(&rig, view);
        }
        if long_away {
            rig.pass(BEYOND_MARGIN);
        }
    }
    rig.sync(None);
    if !believes {
        assert_covered_is_held(&rig, view);
    }

    state.clear_script();
    state.clear_faults();
    for spell in &case.spells {
        spell.end(state);
    }
    state.set_slips(Slips::default());
    rig.pass(late);
    catch_up(&rig, view, heeds_page);
    // What happened just now lies above the settle margin, where the ledger did not look yet.
    rig.pass(BEYOND_MARGIN);
    catch_up(&rig, view, heeds_page);
}

fn catch_up(rig: &Rig, view: DefaultView, heeds_page: bool) {
    let settled = rig.settled();
    let end = rig.sync(None);
    let open = Ledger::read(rig).open(rig, view, settled);
    match &end {
        End::Done => {
            assert!(open.is_empty(), "done, but not by the ledger: {open:?}");
            assert_equal(rig);
        }
        End::Open => {
            assert!(!heeds_page, "where pages can be counted, everything can be listed: {open:?}");
            assert_lost_is_open(rig, view);
        }
        End::Failed(_) | End::Crashed => panic!("{}", end.told()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/hostile.txt"))),
        max_shrink_iters: 12,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_mirror_ends_equal_to_the_source_or_the_ledger_says_what_is_open(case in any_case()) {
        run(case);
    }
}
