//! What happens to the team while it is served.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use heymarket_sync::{
    clock,
    sandbox::{Endpoint, Event, SandboxOptions, SandboxState, TeamOptions},
};
use serde_json::json;

use crate::{Client, MESSAGES, options, time, truth};

#[test]
fn live_traffic_follows_the_seed() {
    let run = || {
        let state = SandboxState::generate(&options());
        let start: DateTime<Utc> = "2024-12-23T00:00:00Z".parse().unwrap();
        let events: Vec<Event> =
            (0..2_000).map(|step| state.apply_event(start + TimeDelta::milliseconds(step))).collect();
        let truth =
            [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts].map(|rows| truth(&state, rows));
        (events, truth)
    };
    let (events, after) = run();
    assert!((events.clone(), after) == run());
    let kinds: [fn(&Event) -> bool; 8] = [
        |event| matches!(event, Event::Received(_)),
        |event| matches!(event, Event::Sent(_)),
        |event| matches!(event, Event::StatusChanged(_)),
        |event| matches!(event, Event::ArrivedLate(_)),
        |event| matches!(event, Event::Closed(_)),
        |event| matches!(event, Event::Reopened(_)),
        |event| matches!(event, Event::ContactEdited(_)),
        |event| matches!(event, Event::FirstContact(_)),
    ];
    for (kind, is) in kinds.into_iter().enumerate() {
        assert!(events.iter().any(is), "kind {kind}");
    }
}

#[test]
fn events_move_the_times_they_should() {
    let small = TeamOptions { messages: 100, conversations: 20, contacts: 20, ..options().team };
    let state = SandboxState::generate(&SandboxOptions { team: small, ..options() });
    let start: DateTime<Utc> = "2024-12-23T00:00:00Z".parse().unwrap();
    for step in 0..500 {
        let now = start + TimeDelta::milliseconds(step);
        let (messages, conversations, contacts) = (state.messages(), state.conversations(), state.contacts());
        match state.apply_event(now) {
            Event::Received(id) | Event::Sent(id) | Event::FirstContact(id) => {
                let message = state.message(id).unwrap();
                assert!(!messages.contains_key(&id));
                assert_eq!((message.date, message.updated), (now, now));
                assert!(state.conversation(message.conversation_id).unwrap().updated >= now);
            }
            Event::ArrivedLate(id) => {
                let message = state.message(id).unwrap();
                assert!(!messages.contains_key(&id));
                assert!(message.date < now && message.updated == now);
            }
            Event::StatusChanged(id) => {
                let (before, after) = (&messages[&id], state.message(id).unwrap());
                assert!(after.updated > before.updated && after.date == before.date);
                assert_ne!(after.status, before.status);
            }
            Event::Closed(id) | Event::Reopened(id) => {
                let (before, after) = (&conversations[&id], state.conversation(id).unwrap());
                assert!(after.updated > before.updated && after.is_closed() != before.is_closed());
            }
            Event::ContactEdited(id) => {
                let (before, after) = (&contacts[&id], state.contact(id).unwrap());
                assert!(after.updated > before.updated && after.rev == before.rev + 1);
            }
        }
    }
}

#[test]
fn ticks_apply_the_rate() {
    let state = SandboxState::generate(&SandboxOptions { live_rate: 2.5, ..options() });
    let start: DateTime<Utc> = "2024-12-23T00:00:00Z".parse().unwrap();
    let at = |millis| state.tick(start + TimeDelta::milliseconds(millis)).len();
    assert_eq!([at(0), at(400), at(600), at(2_000), at(1_000)], [0, 1, 0, 4, 0]);
    state.set_live_rate(0.0);
    assert_eq!(at(9_000), 0);
}

#[tokio::test]
async fn a_running_sandbox_is_live() {
    let client = Client::new(SandboxOptions { live_rate: 1_000.0, ..options() }).await;
    let arrived = async {
        while client.state().messages().len() == 4_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived).await.unwrap();
    let newest = client.page(MESSAGES, json!({"order": "updated_at", "limit": 1})).await.remove(0);
    assert!(clock::now() - time(&newest, "updated") < TimeDelta::minutes(1));
}
