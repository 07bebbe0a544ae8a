//! One reading at a time, so that a failure names it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DurationRound, TimeDelta};
use heymarket_sync::sandbox::{
    CLOSED, Contact, CursorFields, DefaultView, Fault, IdRule, OtherwiseGets, PageRead, Paging, Precision,
    SandboxOptions, Slips, UpdatedOrder, WantedId,
};

use crate::history::{Burst, Change, FIRST_CONTACT, FIRST_CONVERSATION, FIRST_MESSAGE, History};
use crate::judge::{Ledger, assert_covered_is_held, assert_equal, assert_lost_is_open, missing};
use crate::rig::{BEYOND_MARGIN, End, Rig};

/// Where the broadcast lies among the messages.
const BROADCAST: std::ops::Range<i64> = FIRST_MESSAGE + 150..FIRST_MESSAGE + 1_150;

/// Rows some milliseconds apart, in the midst of them a broadcast of 1,000; for conversations and contacts a bulk
/// change of 100.
fn broadcast() -> History {
    let milliseconds = TimeDelta::milliseconds;
    let around = |rows: usize, pause| Burst { pause: milliseconds(pause), rows, spread: milliseconds(137) };
    let at_once = |rows| Burst { pause: milliseconds(400), rows, spread: TimeDelta::zero() };
    History {
        messages: vec![around(150, 1), at_once(1_000), around(150, 900)],
        conversations: vec![around(60, 1), at_once(100), around(60, 300)],
        contacts: vec![around(60, 1), at_once(100), around(60, 300)],
        step: TimeDelta::microseconds(1),
        ended: TimeDelta::hours(1),
    }
}

/// The reading with pages of 30 rows, whatever is asked for.
fn thirty(paging: Paging) -> Rig {
    let paging = Paging { cap: 30, ..paging };
    let rig = Rig::new(SandboxOptions { paging, ..SandboxOptions::default() }).set("API__PAGE_SIZE", "30");
    broadcast().write(rig.state());
    rig
}

fn assert_done(rig: &Rig, view: DefaultView) {
    let settled = rig.settled();
    let end = rig.sync(None);
    assert!(matches!(end, End::Done), "{}", end.told());
    let open = Ledger::read(rig).open(rig, view, settled);
    assert!(open.is_empty(), "{open:?}");
    assert_equal(rig);
}

fn assert_read_whole(paging: Paging) {
    let view = paging.conversations;
    assert_done(&thirty(paging), view);
}

#[test]
fn an_exclusive_cursor() {
    assert_read_whole(Paging::default());
}

#[test]
fn an_inclusive_cursor() {
    assert_read_whole(Paging { inclusive: true, ..Paging::default() });
}

#[test]
fn a_cursor_cut_to_milliseconds() {
    for inclusive in [false, true] {
        assert_read_whole(Paging { precision: Precision::Milliseconds, inclusive, ..Paging::default() });
    }
}

#[test]
fn a_cursor_cut_to_seconds() {
    for inclusive in [false, true] {
        assert_read_whole(Paging { precision: Precision::Seconds, inclusive, ..Paging::default() });
    }
}

#[test]
fn a_limit_that_counts_for_nothing() {
    assert_read_whole(Paging { heeds_limit: false, default_limit: 17, ..Paging::default() });
}

#[test]
fn a_limit_honoured_up_to_the_whole_broadcast() {
    let rig = Rig::new(SandboxOptions::default()).set("API__PAGE_SIZE", "30");
    broadcast().write(rig.state());
    assert_done(&rig, DefaultView::Both);
}

#[test]
fn pages_counted_from_zero() {
    assert_read_whole(Paging { first_page: 0, ..Paging::default() });
}

#[test]
fn closed_conversations_left_out() {
    assert_read_whole(Paging { conversations: DefaultView::Open, ..Paging::default() });
}

#[test]
fn closed_conversations_have_one_line_even_if_one_is_closed_while_views_are_told_apart() {
    for nth in 1..20 {
        let paging = Paging { conversations: DefaultView::Open, ..Paging::default() };
        let rig = Rig::new(SandboxOptions { paging, ..SandboxOptions::default() });
        History { messages: Vec::new(), contacts: Vec::new(), ..broadcast() }.write(rig.state());
        rig.state().on_request(nth, |state| {
            state.change_conversation(FIRST_CONVERSATION + 1, |row| {
                row.status = Arc::from(CLOSED);
                row.updated = state.now().duration_trunc(TimeDelta::microseconds(1)).unwrap();
            });
        });
        rig.sync(None);
        let walked = |page: &&PageRead| !page.inboxes.is_empty() && page.limit != Some(1);
        assert_eq!(rig.state().page_log().iter().find(walked), None, "request {nth}");
        rig.pass(BEYOND_MARGIN);
        assert_done(&rig, DefaultView::Open);
    }
}

#[test]
fn closed_conversations_alone_that_heed_created_at_alone() {
    let paging = Paging {
        conversations: DefaultView::Open,
        row_cursor: CursorFields::CreatedAt,
        cap: 30,
        ..Paging::default()
    };
    let rig = Rig::new(SandboxOptions { paging, ..SandboxOptions::default() }).set("API__PAGE_SIZE", "30");
    broadcast().write(rig.state());
    for id in rig.state().conversations().into_keys() {
        rig.state().change_conversation(id, |row| row.status = Arc::from(CLOSED));
    }
    assert_done(&rig, DefaultView::Open);
}

#[test]
fn conversations_that_want_an_id() {
    for wanted in [WantedId::None, WantedId::Zero, WantedId::Member] {
        for otherwise in [OtherwiseGets::BadData, OtherwiseGets::Empty] {
            let conversation_id = IdRule { wanted, otherwise, own_inboxes_only: true, stands_for: None };
            assert_read_whole(Paging {
                conversation_id,
                conversations: DefaultView::Open,
                ..Paging::default()
            });
        }
    }
}

/// Every row is closed, and no list shows one that is not asked for as a member.
#[test]
fn closed_conversations_alone_that_want_a_members_id() {
    for otherwise in [OtherwiseGets::BadData, OtherwiseGets::Empty] {
        let wanted = WantedId::Member;
        let conversation_id = IdRule { wanted, otherwise, own_inboxes_only: true, stands_for: None };
        let paging = Paging { conversation_id, conversations: DefaultView::Open, ..Paging::default() };
        let rig = thirty(paging);
        for id in rig.state().conversations().into_keys() {
            rig.state().change_conversation(id, |row| row.status = Arc::from(CLOSED));
        }
        assert_done(&rig, DefaultView::Open);
    }
}

#[test]
fn messages_that_heed_created_at_alone() {
    assert_read_whole(Paging { message_cursor: CursorFields::CreatedAt, ..Paging::default() });
}

#[test]
fn a_page_number_that_counts_for_nothing_leaves_the_broadcast_open_and_nothing_else() {
    let rig = thirty(Paging { heeds_page: false, ..Paging::default() });
    let settled = rig.settled();
    let end = rig.sync(None);
    assert!(matches!(end, End::Open), "{}", end.told());
    assert_eq!(Ledger::read(&rig).open(&rig, DefaultView::Both, settled).len(), 3);
    assert_lost_is_open(&rig, DefaultView::Both);
    let missing = missing(&rig, "messages");
    assert!(missing.iter().all(|id| BROADCAST.contains(id)), "{missing:?}");
    assert!(!missing.is_empty() && missing.len() < 1_000, "{}", missing.len());
}

#[test]
fn a_cursor_that_counts_for_nothing_is_an_open_gap() {
    let none = CursorFields::None;
    let rig = thirty(Paging { message_cursor: none, row_cursor: none, ..Paging::default() });
    let settled = rig.settled();
    let end = rig.sync(None);
    assert!(matches!(end, End::Open), "{}", end.told());
    assert_eq!(Ledger::read(&rig).open(&rig, DefaultView::Both, settled).len(), 3);
    assert_lost_is_open(&rig, DefaultView::Both);
}

#[test]
fn an_order_by_change_that_is_void_or_half_done_proves_nothing_and_rechecks_carry_on() {
    for updated_order in [UpdatedOrder::Ignored, UpdatedOrder::CursorByDate] {
        let rig = thirty(Paging { updated_order, ..Paging::default() });
        assert_done(&rig, DefaultView::Both);
        for (message, days) in [(10, 1), (200, 2), (1_290, 3)] {
            rig.state().change_message(FIRST_MESSAGE + message, |row| {
                row.status = Arc::from("bounced");
                row.updated += TimeDelta::minutes(days);
            });
        }
        let rig = rig.set("STREAMS__MESSAGES__RECHECK", r#"[{window = "3650d", every = "1h"}]"#);
        rig.pass(TimeDelta::hours(2));
        assert_done(&rig, DefaultView::Both);
    }
}

#[test]
fn pages_that_slip() {
    for seed in 0..2 {
        let rig = thirty(Paging { inclusive: seed == 1, ..Paging::default() });
        rig.state().set_slips(Slips { probability: 0.25, most: 60, ..Slips::default() });
        // An older version for each of these, to be shown after the newer.
        for id in (0..200).step_by(7) {
            rig.state().change_contact(FIRST_CONTACT + id, |row| {
                row.rev += 1;
                row.updated += TimeDelta::seconds(3);
            });
        }
        rig.sync(None);
        assert_covered_is_held(&rig, DefaultView::Both);
        rig.state().set_slips(Slips::default());
        assert_done(&rig, DefaultView::Both);
    }
}

#[test]
fn rows_that_become_visible_late() {
    let rig = thirty(Paging::default());
    let late = Duration::from_secs(60);
    rig.state().set_slips(Slips { late, ..Slips::default() });
    for _ in 0..40 {
        Change::Messages(1).apply(rig.state());
        Change::NewContact.apply(rig.state());
    }
    let first = rig.sync(None);
    assert!(matches!(first, End::Done), "{}", first.told());
    assert!(!missing(&rig, "messages").is_empty(), "all were visible at once");
    for _ in 0..3 {
        rig.pass(TimeDelta::seconds(50));
        rig.sync(None);
        assert_covered_is_held(&rig, DefaultView::Both);
    }
    assert_done(&rig, DefaultView::Both);
}

#[test]
fn rows_that_arrive_change_and_move_up_while_the_walk_goes_down() {
    let rig = thirty(Paging::default());
    for nth in (1..200).step_by(3) {
        rig.state().on_request(nth, move |state| {
            let contacts: Vec<i64> = state.contacts().into_keys().collect();
            let moving = contacts[nth as usize * 31 % contacts.len()];
            state.change_contact(moving, |row| {
                row.rev += 1;
                row.updated = state.now().max(row.updated);
            });
            Change::Messages(2).apply(state);
            Change::LateMessage(3_000).apply(state);
            Change::NewContact.apply(state);
        });
    }
    rig.sync(None);
    assert_covered_is_held(&rig, DefaultView::Both);
    rig.state().clear_script();
    assert_done(&rig, DefaultView::Both);
}

#[test]
fn bodies_that_are_no_page_are_asked_for_again() {
    let rig = thirty(Paging::default()).set("API__MAX_BODY", "1MiB");
    for (nth, fault) in [
        (40, Fault::Null),
        (50, Fault::Object),
        (60, Fault::Html),
        (70, Fault::Oversized(2 << 20)),
        (80, Fault::Endless),
    ] {
        rig.state().on_request(nth, move |state| state.push_fault(fault));
    }
    assert_done(&rig, DefaultView::Both);
}

#[test]
fn a_row_larger_than_any_body_is_an_open_gap_and_what_is_below_is_read() {
    let rig = thirty(Paging::default()).set("API__MAX_BODY", "64KiB");
    let large = FIRST_CONTACT + 190;
    rig.state().change_contact(large, |row| row.display_name = Arc::from("x".repeat(100_000)));
    let settled = rig.settled();
    let end = rig.sync(None);
    assert!(matches!(end, End::Open), "{}", end.told());
    assert_eq!(Ledger::read(&rig).open(&rig, DefaultView::Both, settled).len(), 1);
    assert_eq!(missing(&rig, "contacts"), [large]);
    // It becomes readable.
    rig.state().put_contact(Contact::plain(large, rig.state().now()));
    assert_done(&rig, DefaultView::Both);
}

#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let elsewhere = Rig::new(SandboxOptions::default());
    let rig = thirty(Paging::default());
    let host = elsewhere.address();
    rig.state().on_request(40, move |state| state.push_fault(Fault::Redirect(host)));
    let end = rig.sync(None);
    assert!(matches!(end, End::Failed(_)), "{}", end.told());
    assert_eq!(elsewhere.state().counters().all_requests(), 0);
    assert_done(&rig, DefaultView::Both);
}

#[test]
fn a_team_younger_than_the_settle_margin() {
    let rig = Rig::new(SandboxOptions::default()).set("API__PAGE_SIZE", "2");
    let rows = Burst { pause: TimeDelta::milliseconds(300), rows: 19, spread: TimeDelta::milliseconds(5) };
    let (messages, ended) = (vec![rows], TimeDelta::seconds(10));
    History { messages, ended, conversations: Vec::new(), contacts: Vec::new(), ..broadcast() }
        .write(rig.state());
    rig.sync(None);
    rig.pass(BEYOND_MARGIN);
    assert_done(&rig, DefaultView::Both);
}
