//! Faults that last: what an API does for seconds, or for good.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DurationRound as _, TimeDelta};
use heymarket_sync::sandbox::{
    Contact, DefaultView, Endpoint, Fault, Message, Paging, SandboxOptions, Slip, Slips,
};

use crate::history::{Burst, FIRST_CONTACT, FIRST_CONVERSATION, FIRST_MESSAGE, History};
use crate::judge::{Ledger, assert_covered_is_held, assert_equal, missing};
use crate::rig::{BEYOND_MARGIN, End, Rig};

const LISTS: [Endpoint; 3] = [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts];

/// Some hundred rows of each stream, seconds apart, ended an hour ago.
fn plain() -> History {
    let rows =
        |rows| vec![Burst { pause: TimeDelta::seconds(1), rows, spread: TimeDelta::milliseconds(1_937) }];
    History {
        messages: rows(400),
        conversations: rows(120),
        contacts: rows(200),
        step: TimeDelta::microseconds(1),
        ended: TimeDelta::hours(1),
    }
}

fn rig_with(paging: Paging, history: &History) -> Rig {
    let rig = Rig::new(SandboxOptions { paging, ..SandboxOptions::default() }).set("API__PAGE_SIZE", "30");
    history.write(rig.state());
    rig
}

fn rig() -> Rig {
    rig_with(Paging { cap: 30, ..Paging::default() }, &plain())
}

fn lasting(kind: Slip) -> Slips {
    Slips { probability: 1.0, most: u32::MAX, kinds: vec![kind], ..Slips::default() }
}

fn assert_done(rig: &Rig) {
    let settled = rig.settled();
    let end = rig.sync(None);
    assert!(matches!(end, End::Done), "{}", end.told());
    let open = Ledger::read(rig).open(rig, DefaultView::Both, settled);
    assert!(open.is_empty(), "{open:?}");
    assert_equal(rig);
}

fn contradictions(rig: &Rig) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM heymarket_sync.contradictions");
    rig.wait(count.fetch_one(rig.pool())).unwrap()
}

#[test]
fn lists_that_are_empty_for_a_while_are_read_once_they_are_not() {
    let rig = rig().set("SYNC__EMPTY_APART", "4s").set("SYNC__PATIENCE", "30s");
    rig.state().set_all_empty(true);
    rig.after(Duration::from_secs(2), |state| state.set_all_empty(false));
    assert_done(&rig);
    assert_eq!(contradictions(&rig), 0);
}

#[test]
fn lists_that_turn_empty_midway_prove_nothing() {
    for nth in [20, 35, 50] {
        let rig = rig().set("SYNC__EMPTY_APART", "4s").set("SYNC__PATIENCE", "30s");
        let (tell, told) = std::sync::mpsc::channel();
        rig.state().on_request(nth, move |state| {
            state.set_all_empty(true);
            let _ = tell.send(());
        });
        rig.once(told, Duration::from_secs(2), |state| state.set_all_empty(false));
        assert_done(&rig);
    }
}

#[test]
fn an_empty_list_is_not_believed_while_rows_are_counted() {
    let rig = rig();
    for list in LISTS {
        rig.state().set_lasting_fault_on(list, Some(Fault::EmptyArray));
    }
    let end = rig.sync(None);
    assert!(matches!(end, End::Open), "{}", end.told());
    rig.state().clear_faults();
    assert_done(&rig);
}

#[test]
fn what_was_believed_is_withdrawn_when_rows_turn_up() {
    let rig = rig();
    rig.state().set_all_empty(true);
    let end = rig.sync(None);
    assert!(matches!(end, End::Done), "a team without rows: {}", end.told());
    rig.state().set_all_empty(false);
    assert_done(&rig);
}

/// The oldest messages turn up after the line was believed to end above them.
fn assert_what_turns_up_below_is_found(rig: &Rig) {
    let oldest: Vec<i64> = (FIRST_MESSAGE..FIRST_MESSAGE + 150).collect();
    rig.state().hide(Endpoint::Messages, oldest.clone());
    let end = rig.sync(None);
    assert!(matches!(end, End::Done), "{}", end.told());
    assert_eq!(missing(rig, "messages"), oldest);
    rig.state().hide(Endpoint::Messages, []);
    assert_done(rig);
}

#[test]
fn what_lies_below_the_believed_end_is_found() {
    assert_what_turns_up_below_is_found(&rig());
}

/// The page at the edge is full of rows above it, of the same second.
#[test]
fn what_lies_below_the_believed_end_within_a_busy_second_is_found() {
    let mut history = plain();
    history.messages[0].spread = TimeDelta::milliseconds(50);
    let rig = rig_with(Paging::default(), &history).set("API__PAGE_SIZE", "7");
    assert_what_turns_up_below_is_found(&rig);
}

/// The row that turns up has the time of the oldest one, at the edge of what is believed to be empty.
#[test]
fn a_row_that_turns_up_at_the_believed_end_withdraws_it_once() {
    let rig = rig();
    rig.state().hide(Endpoint::Contacts, [FIRST_CONTACT]);
    let edge = rig.state().contact(FIRST_CONTACT + 1).unwrap().updated;
    rig.state().change_contact(FIRST_CONTACT, |row| row.updated = edge);
    let end = rig.sync(None);
    assert!(matches!(end, End::Done), "{}", end.told());
    rig.state().hide(Endpoint::Contacts, []);
    let before = rig.state().counters().all_requests();
    assert_done(&rig);
    let requests = rig.state().counters().all_requests() - before;
    assert!(requests < 100, "{requests} requests");
    assert_eq!(contradictions(&rig), 1);
    assert_done(&rig);
}

#[test]
fn rows_that_turn_up_in_covered_time_are_counted_and_their_neighbours_read_again() {
    let rig = rig().set("STREAMS__CONTACTS__RECHECK", r#"[{window = "70m", every = "1s"}]"#);
    // Contacts of six minutes and a half, of which those of the last four are hidden in pairs.
    let hidden: Vec<i64> = (FIRST_CONTACT + 80..FIRST_CONTACT + 200).filter(|id| id % 4 < 2).collect();
    rig.state().hide(Endpoint::Contacts, hidden.clone());
    let end = rig.sync(None);
    assert!(matches!(end, End::Done), "{}", end.told());
    assert_eq!(missing(&rig, "contacts"), hidden);
    rig.state().hide(Endpoint::Contacts, []);
    rig.pass(TimeDelta::seconds(5));
    assert_done(&rig);
    assert!(contradictions(&rig) >= 3, "{}", contradictions(&rig));
    let open = "SELECT count(*) FROM heymarket_sync.contradictions WHERE resolved_at IS NULL";
    let open: i64 = rig.wait(sqlx::query_scalar(open).fetch_one(rig.pool())).unwrap();
    assert_eq!(open, 0, "what was withdrawn is read again");
    let withdrawals: Option<i32> = rig
        .wait(
            sqlx::query_scalar(
                "SELECT withdrawals FROM heymarket_sync.coverage
                 WHERE stream = 'contacts' AND line = 'updated' AND pass = 'standing'",
            )
            .fetch_one(rig.pool()),
        )
        .unwrap();
    assert_eq!(withdrawals, Some(1));
}

#[test]
fn rows_that_the_source_stamps_after_the_proof_contradict_nothing() {
    let rig = rig();
    assert_done(&rig);
    let now = rig.state().now().duration_trunc(TimeDelta::microseconds(1)).unwrap();
    for index in 0..5 {
        // A receipt that a carrier hands over an hour late.
        let (id, date) = (FIRST_MESSAGE + 10_000 + index, now - TimeDelta::minutes(30 + index));
        rig.state().put_message(Message { updated: now, ..Message::plain(id, FIRST_CONVERSATION, date) });
    }
    assert_done(&rig);
    assert_eq!(contradictions(&rig), 0);
}

#[test]
fn a_date_that_lies_moves_nothing_into_the_future() {
    for days in [1, -1] {
        let rig = rig();
        rig.state().set_date_lie(TimeDelta::days(days));
        rig.sync(None);
        assert_covered_is_held(&rig, DefaultView::Both);
        rig.state().set_date_lie(TimeDelta::zero());
        let now = rig.state().now();
        for stream in LISTS {
            let covered = Ledger::read(&rig).top(stream);
            assert!(covered.is_none_or(|top| top <= now), "{stream:?} is covered up to {covered:?} at {now}");
        }
        // Rows that come now are read.
        for index in 0..40 {
            let at = now.duration_trunc(TimeDelta::microseconds(1)).unwrap() + TimeDelta::milliseconds(index);
            rig.state().put_message(Message::plain(FIRST_MESSAGE + 10_000 + index, FIRST_CONVERSATION, at));
            rig.state().put_contact(Contact::plain(FIRST_CONTACT + 10_000 + index, at));
        }
        rig.pass(BEYOND_MARGIN);
        assert_done(&rig);
    }
}

#[test]
fn a_single_wrong_date_in_each_place_costs_no_row() {
    for nth in (1..40).step_by(3) {
        let rig = rig();
        rig.state().on_request(nth, |state| state.set_date_lie(TimeDelta::days(1)));
        rig.state().on_request(nth + 1, |state| state.set_date_lie(TimeDelta::zero()));
        rig.sync(None);
        rig.pass(BEYOND_MARGIN);
        assert_done(&rig);
    }
}

#[test]
fn rows_above_the_cursor_at_the_top_of_each_page() {
    let rig = rig();
    rig.state().set_slips(lasting(Slip::Overlapping));
    assert_done(&rig);
}

#[test]
fn older_versions_behind_the_newer_ones_on_each_page() {
    let rig = rig();
    for index in (0..200).step_by(5) {
        rig.state().change_contact(FIRST_CONTACT + index, |row| {
            row.rev += 1;
            row.updated += TimeDelta::seconds(3);
        });
        rig.state().change_conversation(FIRST_CONVERSATION + index / 2, |row| {
            row.name = Arc::from("renamed");
            row.updated += TimeDelta::seconds(3);
        });
    }
    rig.state().set_slips(lasting(Slip::Stale));
    assert_done(&rig);
}

#[test]
fn rows_that_are_repeated_on_each_page_hide_none_of_a_long_run() {
    let at_once = |rows| Burst { pause: TimeDelta::seconds(1), rows, spread: TimeDelta::zero() };
    let around = |rows| Burst { pause: TimeDelta::seconds(1), rows, spread: TimeDelta::milliseconds(700) };
    let messages = vec![around(50), at_once(400), around(50)];
    let rig = rig_with(Paging { cap: 30, ..Paging::default() }, &History { messages, ..plain() });
    rig.state().set_slips(lasting(Slip::Repeated));
    assert_done(&rig);
}

/// Prints these messages with a date that cannot be read, and one without any.
fn without_dates(rig: &Rig, ids: impl Iterator<Item = i64>) {
    for id in ids {
        let mut row = rig.state().json(Endpoint::Messages, id).unwrap();
        row["date"] = if id % 2 == 0 { "soon".into() } else { serde_json::Value::Null };
        rig.state().set_raw(Endpoint::Messages, id, Some(row.to_string().into()));
    }
}

#[test]
fn rows_without_a_readable_date_land_wherever_they_are_and_hold_nothing_up() {
    let all = FIRST_MESSAGE..FIRST_MESSAGE + 400;
    let cases = [
        ("the oldest", all.start..all.start + 1),
        ("the oldest of a page and more", all.start..all.start + 45),
        ("one in between", all.start + 200..all.start + 201),
        ("a page and more in between", all.start + 200..all.start + 275),
        ("the newest", all.end - 1..all.end),
        ("a page and more at the top", all.end - 70..all.end),
        ("all of them", all.clone()),
    ];
    for (name, ids) in cases {
        for heeds_page in [true, false] {
            let rig = rig_with(Paging { cap: 1_000, heeds_page, ..Paging::default() }, &plain());
            without_dates(&rig, ids.clone());
            let end = rig.sync(None);
            // Where page numbers count for nothing, a page that may have been cut stays open.
            let ended = matches!(end, End::Done) || !heeds_page && matches!(end, End::Open);
            assert!(ended, "{name}, page heeded {heeds_page}: {}", end.told());
            let landed: i64 = rig
                .wait(sqlx::query_scalar("SELECT count(*) FROM heymarket.messages").fetch_one(rig.pool()))
                .unwrap();
            assert_eq!(landed, 400, "{name}");
            assert_covered_is_held(&rig, DefaultView::Both);
        }
    }
}

#[test]
fn pages_of_rows_without_a_date_that_no_limit_passes_are_passed_by_number() {
    let rig = rig();
    let ids = FIRST_MESSAGE + 200..FIRST_MESSAGE + 275;
    without_dates(&rig, ids);
    rig.sync(None);
    let landed = "SELECT count(*) FROM heymarket.messages";
    let landed: i64 = rig.wait(sqlx::query_scalar(landed).fetch_one(rig.pool())).unwrap();
    assert_eq!(landed, 400);
    assert_covered_is_held(&rig, DefaultView::Both);
}

#[test]
fn a_stream_that_is_refused_holds_up_no_other() {
    for refused in LISTS {
        let rig = rig();
        rig.state().set_lasting_fault_on(refused, Some(Fault::Status(403)));
        let end = rig.sync(None);
        assert!(matches!(end, End::Failed(_)), "{refused:?}: {}", end.told());
        for (list, table) in LISTS.iter().zip(["messages", "conversations", "contacts"]) {
            let lost = missing(&rig, table).len();
            assert!(*list == refused || lost == 0, "{lost} {table} without {refused:?}");
        }
        rig.state().clear_faults();
        assert_done(&rig);
    }
}

#[test]
fn a_row_that_can_never_be_read_holds_up_no_recheck_and_no_backfill() {
    let rig = rig().set("API__MAX_BODY", "64KiB");
    let large = FIRST_CONTACT + 100;
    rig.state().change_contact(large, |row| row.display_name = Arc::from("x".repeat(100_000)));
    let end = rig.sync(None);
    assert!(matches!(end, End::Open), "{}", end.told());
    let rig = rig.set("STREAMS__CONTACTS__RECHECK", r#"[{window = "3650d", every = "1s"}]"#);
    for round in 0..3 {
        for id in [large - 90, large - 1, large + 1, large + 90] {
            // No time line shows that.
            rig.state().change_contact(id, |row| row.first = Arc::from(format!("renamed in {round}")));
        }
        rig.pass(TimeDelta::seconds(5));
        rig.sync(None);
        let stale = rig.wait(crate::support::mirror::differences(rig.state(), rig.pool()));
        assert_eq!(stale, [format!("contacts {large}: missing")], "round {round}");
    }
}
