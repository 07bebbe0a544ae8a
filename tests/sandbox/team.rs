//! The rows: their fields, how real they look, and changing them by hand.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use heymarket_sync::sandbox::{Endpoint, SandboxOptions, SandboxState, TeamOptions};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{CONTACTS, CONVERSATIONS, Client, MESSAGES, id, options};

#[tokio::test]
async fn rows_bear_the_fields_of_the_endpoint_pages() {
    const MESSAGE: &str = "author broadcast_id conversation custom date flagged id link_url local_id media phone \
                           status super support target text type updated user";
    const CONVERSATION: &str = "assigned blocked channel created creator email_noti id inbox last_inbound local_id \
                                members muted name noreply op read replied snooze_till status super support \
                                target type updated";
    const CONTACT: &str = "avatar created creator_id custom display_name email external_id external_ref first id \
                           inbox_id last note op parent_id phone rev shared team_id type updated \
                           assigned_user_id tags is_opted_out";
    let client = Client::new(options()).await;
    for (path, fields) in [(MESSAGES, MESSAGE), (CONVERSATIONS, CONVERSATION), (CONTACTS, CONTACT)] {
        let names: BTreeSet<_> = fields.split_whitespace().collect();
        for row in client.page(path, json!({"limit": 1_000})).await {
            let found: BTreeSet<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(found, names, "{path}");
        }
    }
}

#[tokio::test]
async fn messages_embed_their_conversation_as_it_is_now() {
    let client = Client::new(options()).await;
    for message in client.page(MESSAGES, json!({"limit": 200})).await {
        let embedded = &message["conversation"];
        assert_eq!(Some(embedded), client.state().json(Endpoint::Conversations, id(embedded)).as_ref());
    }
}

#[tokio::test]
async fn the_generated_team_is_realistic() {
    let state = SandboxState::generate(&options());
    let messages = state.messages();
    let mut dates = BTreeMap::<_, usize>::new();
    let mut updates = BTreeMap::<_, usize>::new();
    for message in messages.values() {
        *dates.entry((message.broadcast_id, message.date)).or_default() += 1;
        *updates.entry(message.updated).or_default() += 1;
        assert!(message.updated >= message.date);
    }
    let broadcasts: Vec<_> = dates.iter().filter(|((broadcast, _), _)| *broadcast != 0).collect();
    assert!(broadcasts.iter().any(|(_, rows)| **rows >= 200), "{broadcasts:?}");
    assert!(updates.values().any(|&rows| rows >= 100), "a run of equal updated");
    for status in ["received", "sent", "delivered", "failed"] {
        assert!(messages.values().any(|message| &*message.status == status), "{status}");
    }
    let conversations = state.conversations();
    let twice = |ids: Vec<&str>| ids.iter().collect::<BTreeSet<_>>().len() < ids.len();
    assert!(conversations.values().any(|row| row.members.windows(2).any(|pair| pair[0].id == pair[1].id)));
    assert!(conversations.values().any(|row| row.is_closed() && row.snooze_till.is_none()));
    let contacts = state.contacts();
    assert!(contacts.values().any(|row| twice(row.notes.iter().map(|note| &*note.id).collect())));
    assert!(contacts.values().any(|row| row.is_opted_out && row.rev > 1));
    assert!(contacts.values().any(|row| &*row.tags != "[]" && &*row.custom != "{}"));
}

#[tokio::test]
async fn the_same_seed_makes_the_same_team() {
    let of = |seed| {
        let base = options();
        let options = SandboxOptions { team: TeamOptions { seed, ..base.team.clone() }, ..base };
        let state = SandboxState::generate(&options);
        let mut printed = Vec::new();
        for rows in [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts] {
            state.for_each_printed(rows, |_, bytes| printed.extend_from_slice(bytes));
        }
        printed
    };
    assert!(of(1) == of(1));
    assert!(of(1) != of(2));
}

#[tokio::test]
async fn rows_can_be_changed_removed_and_spoilt() {
    let client = Client::new(options()).await;
    let state = client.state();
    let message = client.page(MESSAGES, json!({"limit": 1})).await.remove(0);
    let (message_id, conversation_id) = (id(&message), id(&message["conversation"]));

    let moved: DateTime<Utc> = "2025-01-01T00:00:00.000001Z".parse().unwrap();
    assert!(state.change_message(message_id, |row| {
        row.date = moved;
        row.text = "moved".into();
    }));
    assert!(!state.change_message(1, |_| ()));
    let newest = client.page(MESSAGES, json!({"limit": 2})).await;
    assert_eq!((id(&newest[0]), &newest[0]["date"]), (message_id, &json!("2025-01-01T00:00:00.000001Z")));
    assert_ne!(id(&newest[1]), message_id);

    state.set_raw(Endpoint::Conversations, conversation_id, Some(Bytes::from_static(b"{\"id\":\"odd\"}")));
    let shown: Value =
        client.get(&format!("/v1/conversations/{conversation_id}")).await.json().await.unwrap();
    assert_eq!(shown, json!({"id": "odd"}));
    assert_eq!(client.page(MESSAGES, json!({"limit": 1})).await[0]["conversation"], shown);
    state.set_raw(Endpoint::Conversations, conversation_id, None);

    state.set_raw(Endpoint::Messages, message_id, Some(Bytes::from_static(b"17")));
    assert_eq!(client.page(MESSAGES, json!({"limit": 2})).await[0], json!(17));
    state.set_raw(Endpoint::Messages, message_id, None);

    assert!(state.remove(Endpoint::Messages, message_id));
    assert!(!state.remove(Endpoint::Messages, message_id));
    assert_ne!(id(&client.page(MESSAGES, json!({"limit": 1})).await[0]), message_id);
    assert!(state.remove(Endpoint::Conversations, conversation_id));
    let gone = client.get(&format!("/v1/conversations/{conversation_id}")).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[test]
fn teams_of_any_size_can_be_made() {
    for (messages, conversations, contacts) in
        [(0, 0, 0), (1, 0, 0), (3, 2, 0), (0, 0, 7), (50, 10, 1), (2_000, 1, 1)]
    {
        let team = TeamOptions { messages, conversations, contacts, ..options().team };
        let state = SandboxState::generate(&SandboxOptions { team, ..options() });
        let made = (state.messages().len(), state.conversations().len(), state.contacts().len());
        assert_eq!(made, (messages, conversations.max(messages.min(1)), contacts));
    }
}

#[test]
fn small_teams_have_open_and_closed_conversations() {
    let state = SandboxState::generate(&SandboxOptions { team: TeamOptions::default(), ..options() });
    let closed = state.conversations().values().filter(|row| row.is_closed()).count();
    assert!((40..160).contains(&closed), "{closed} of 200");
}
