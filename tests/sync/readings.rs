//! What is found out about the API, and what follows when that changes.

use chrono::{DurationRound, TimeDelta};
use heymarket_sync::api::model::Stream;
use heymarket_sync::app::App;
use heymarket_sync::interval::Interval;
use heymarket_sync::sandbox::{
    Contact, Conversation, CursorFields, DefaultView, Endpoint, Message, Paging, Precision, SandboxOptions,
    TeamOptions, UpdatedOrder,
};
use heymarket_sync::store::{Batch, LineKey, STANDING};
use tokio_util::sync::CancellationToken;

use crate::Rig;
use crate::support::team::team;

/// What was found about a question, and when it was tested.
async fn reading(app: &App, question: &str) -> String {
    let readings = app.store.readings().await.unwrap();
    let found = readings.into_iter().find(|row| row.stream == "messages" && row.question.contains(question));
    found.expect("the question has been asked").answer
}

/// Makes what was found about the API so old that it is tested again.
async fn age_readings(app: &App) {
    let age = "UPDATE heymarket_sync.readings SET tested_at = now() - interval '2 hours'";
    sqlx::query(age).execute(app.store.pool()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_field_that_carries_the_cursor_is_found_out_again_when_pages_contradict() {
    let only = |fields| Paging { message_cursor: fields, row_cursor: fields, ..Paging::default() };
    let options = SandboxOptions { team: team(1_000), ..SandboxOptions::default() };
    let rig = Rig::new(options).await.set("API__PAGE_SIZE", "50");
    let fields = [(CursorFields::CreatedAt, "created_at"), (CursorFields::Date, "date")];
    for (field, name) in fields {
        rig.sandbox.state().set_paging(only(field));
        // More new rows than a page has that is asked for at once, so that a cursor is needed.
        for _ in 0..4_000 {
            rig.sandbox.state().apply_event(rig.sandbox.state().now());
        }
        let app = rig.sync().await;
        assert_eq!(reading(&app, "carries the cursor").await, name);
        rig.assert_equal(&app.store).await;
        app.close().await;
    }
}

/// What was found of each stream's cursor: its bound and its cut.
async fn comparisons(app: &App) -> Vec<(String, String)> {
    let readings = app.store.readings().await.unwrap();
    let answer = |stream: Stream, question: &str| {
        let found = readings.iter().find(|row| row.stream == stream.name() && row.question == question);
        found.expect("the question has been asked").answer.clone()
    };
    let of = |stream| {
        (
            answer(stream, "whether the cursor is inclusive or exclusive"),
            answer(stream, "what the cursor is cut to"),
        )
    };
    Stream::ALL.map(of).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn which_way_the_cursor_works_is_found_out_where_the_rows_can_tell() {
    let nobody = TeamOptions { messages: 0, conversations: 0, contacts: 0, ..TeamOptions::default() };
    let readings = [
        Paging::default(),
        Paging { heeds_limit: false, ..Paging::default() },
        Paging { cap: 4, ..Paging::default() },
        Paging {
            message_cursor: CursorFields::Date,
            row_cursor: CursorFields::CreatedAt,
            ..Paging::default()
        },
        Paging { conversations: DefaultView::Open, first_page: 0, ..Paging::default() },
        Paging { updated_order: UpdatedOrder::CursorByDate, heeds_page: false, ..Paging::default() },
    ];
    let cuts = [
        (Precision::Exact, "nothing"),
        (Precision::Milliseconds, "milliseconds"),
        (Precision::Seconds, "seconds"),
    ];
    for (base, (precision, cut), inclusive) in readings
        .into_iter()
        .flat_map(|base| cuts.map(|cut| (base.clone(), cut)))
        .flat_map(|(base, cut)| [false, true].map(|inclusive| (base.clone(), cut, inclusive)))
    {
        let paging = Paging { precision, inclusive, ..base };
        let told = format!("{paging:?}");
        let rig =
            Rig::new(SandboxOptions { team: nobody.clone(), paging, ..SandboxOptions::default() }).await;
        let state = rig.sandbox.state();
        let hour = (state.now() - TimeDelta::hours(2)).duration_trunc(TimeDelta::hours(1)).unwrap();
        for (id, micros) in (1..).zip([-86_400_000_000, 1_000_000, 5_123_456, 5_654_321, 9_000_017]) {
            let at = hour + TimeDelta::microseconds(micros);
            state.put_message(Message::plain(id, id, at));
            state.put_conversation(Conversation::plain(id, at));
            state.put_contact(Contact::plain(id, at));
        }
        let app = rig.sync().await;
        let bound = if inclusive { "inclusive" } else { "exclusive" };
        assert_eq!(comparisons(&app).await, vec![(bound.to_owned(), cut.to_owned()); 3], "{told}");
        let asked = state
            .page_log()
            .iter()
            .filter(|page| page.endpoint == Endpoint::Contacts && page.limit == Some(2))
            .count();
        // One of them finds out which field carries the cursor; the one that is not heeded is tried twice.
        let most = if told.contains("row_cursor: CreatedAt") { 4 } else { 2 };
        assert!(asked <= most, "{asked} requests, {told}");
        app.close().await;
    }
    // Rows of one time tell nothing.
    let rig = Rig::new(SandboxOptions { team: nobody, ..SandboxOptions::default() }).await;
    let at = rig.sandbox.state().now() - TimeDelta::hours(1);
    for id in 1..5 {
        rig.sandbox.state().put_message(Message::plain(id, id, at));
        rig.sandbox.state().put_conversation(Conversation::plain(id, at));
        rig.sandbox.state().put_contact(Contact::plain(id, at));
    }
    let app = rig.sync().await;
    assert_eq!(comparisons(&app).await, vec![("undecided".to_owned(), "undecided".to_owned()); 3]);
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_reading_changes_loses_what_it_proved_since_the_last_test() {
    let rig = Rig::new(SandboxOptions { team: team(1_000), ..SandboxOptions::default() }).await;
    let order = |updated_order| Paging { updated_order, ..Paging::default() };
    let key = LineKey { stream: Stream::Messages, line: "updated".to_owned(), pass: STANDING.to_owned() };
    let app = rig.sync().await;
    assert_eq!(reading(&app, "updated_at").await, "yes");
    let confirmed = app.store.pass(&key).await.unwrap().unwrap().covered;
    let lease = app.store.acquire_lease("test").await.unwrap().unwrap();
    app.store.confirm(&lease, &key).await.unwrap();
    // Beyond what the settle margin reads again anyway.
    let proof = Interval::new(confirmed[0].start(), confirmed[0].end() + TimeDelta::hours(1)).unwrap();
    let batch = Batch { proofs: vec![(key.clone(), proof)], ..Batch::default() };
    app.store.commit(&lease, &batch).await.unwrap();
    app.store.release_lease(&lease).await.unwrap();

    rig.sandbox.state().set_paging(order(UpdatedOrder::CursorByDate));
    age_readings(&app).await;
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    assert_eq!(reading(&app, "updated_at").await, "no");
    assert_eq!(app.store.pass(&key).await.unwrap().unwrap().covered, confirmed);

    rig.sandbox.state().set_paging(order(UpdatedOrder::Honoured));
    age_readings(&app).await;
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    assert_eq!(reading(&app, "updated_at").await, "yes");
    rig.assert_equal(&app.store).await;
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_hidden_conversations_ends_when_the_endpoint_shows_them_and_leaves_nothing_unread() {
    // Small pages, so that the newest one does not show everything.
    let view = |conversations| Paging { conversations, cap: 20, ..Paging::default() };
    let paging = view(DefaultView::Open);
    let rig = Rig::new(SandboxOptions { team: team(2_000), paging, ..SandboxOptions::default() }).await;
    let app = rig.sync().await;
    let state = rig.sandbox.state();
    let key = |line: &str| LineKey {
        stream: Stream::Conversations,
        line: line.to_owned(),
        pass: STANDING.to_owned(),
    };
    let closed = app.store.pass(&key("updated/closed")).await.unwrap().unwrap();
    let main = app.store.pass(&key("updated")).await.unwrap().unwrap();

    // Nothing is closed: nothing can tell.
    let mut was_closed = Vec::new();
    for id in state.conversations().into_values().filter(|row| row.is_closed()).map(|row| row.id) {
        state.change_conversation(id, |row| {
            was_closed.push((id, std::mem::replace(&mut row.status, "opened".into())))
        });
    }
    age_readings(&app).await;
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    assert_eq!(app.store.pass(&key("updated/closed")).await.unwrap().unwrap().covered, closed.covered);
    for (id, status) in &was_closed {
        state.change_conversation(*id, |row| row.status = status.clone());
    }

    // Closed ones that their line has not read yet, while the other line has read past them.
    let mut times: Vec<_> =
        was_closed.iter().map(|(id, _)| state.conversation(*id).unwrap().updated).collect();
    times.sort();
    let unread = Interval::new(Some(times[times.len() / 4]), times[times.len() / 2]).unwrap();
    let lease = app.store.acquire_lease("test").await.unwrap().unwrap();
    app.store.withdraw(&lease, &key("updated/closed"), unread, "a test").await.unwrap();
    app.store.release_lease(&lease).await.unwrap();
    let delete = "DELETE FROM heymarket.conversations WHERE id = ANY ($1) AND updated >= $2 AND updated < $3";
    let ids: Vec<_> = was_closed.iter().map(|(id, _)| *id).collect();
    let delete = sqlx::query(delete).bind(ids).bind(unread.start()).bind(unread.end());
    assert!(delete.execute(app.store.pool()).await.unwrap().rows_affected() > 0);
    assert_eq!(main.covered.len(), 1);

    state.set_paging(view(DefaultView::Both));
    app.sync(&[], &CancellationToken::new()).await.unwrap();
    rig.assert_equal(&app.store).await;
    let coverage = app.store.coverage().await.unwrap();
    let lines: Vec<_> = coverage.iter().filter(|(key, _)| key.stream == Stream::Conversations).collect();
    assert!(lines.iter().all(|(key, _)| key.line == "updated"), "{lines:?}");
    let standing = &lines.iter().find(|(key, _)| key.pass == STANDING).unwrap().1;
    assert_eq!((standing.covered.len(), standing.covered[0].start()), (1, None));
    app.close().await;
}
