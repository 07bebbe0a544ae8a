//! Random histories, and what happens to them while they are read.

use std::sync::Arc;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use heymarket_sync::sandbox::{CLOSED, Contact, Conversation, Message, Note, OPEN, SandboxState};
use proptest::{collection::vec, prelude::*, sample::select};

pub const FIRST_MESSAGE: i64 = 1_000_000;
pub const FIRST_CONVERSATION: i64 = 2_000_000;
pub const FIRST_CONTACT: i64 = 3_000_000;
/// Some of the sandbox's inboxes: conversations of others show in no list by inbox.
const INBOXES: [i64; 3] = [101, 102, 104];
/// Ids of rows that come while the history is read begin so much higher.
const LIVE: i64 = 500_000;
/// A row's content changes without a trace in its `updated` only while no sync can have settled it: less than
/// the settle margin of the default settings.
const REWRITABLE: TimeDelta = TimeDelta::seconds(90);

/// Rows one after the other, upwards in time.
#[derive(Clone, Debug)]
pub struct Burst {
    /// Time since the burst before.
    pub pause: TimeDelta,
    pub rows: usize,
    /// Time between rows; zero is a run of equal times.
    pub spread: TimeDelta,
}

#[derive(Clone, Debug)]
pub struct History {
    pub messages: Vec<Burst>,
    pub conversations: Vec<Burst>,
    pub contacts: Vec<Burst>,
    /// The resolution of times.
    pub step: TimeDelta,
    /// How long ago it ends.
    pub ended: TimeDelta,
}

impl History {
    /// Puts the rows into the sandbox.
    pub fn write(&self, state: &SandboxState) {
        let end = state.now() - self.ended;
        let conversations = self.times(&self.conversations, end);
        for (index, at) in conversations.iter().enumerate() {
            let mut row = Conversation::plain(FIRST_CONVERSATION + index as i64, *at);
            row.created = *at - TimeDelta::hours(1);
            row.status = Arc::from(if index % 7 < 3 { CLOSED } else { OPEN });
            row.name = Arc::from(format!("conversation {index}"));
            row.inbox = INBOXES[index % INBOXES.len()];
            state.put_conversation(row);
        }
        for (index, at) in self.times(&self.messages, end).into_iter().enumerate() {
            let conversation = FIRST_CONVERSATION + (index * 7 % conversations.len().max(1)) as i64;
            let mut row = Message::plain(FIRST_MESSAGE + index as i64, conversation, at);
            row.updated = at + TimeDelta::milliseconds(index as i64 * 7_919 % 5_000);
            row.text = Arc::from(format!("message {index}"));
            state.put_message(row);
        }
        for (index, at) in self.times(&self.contacts, end).into_iter().enumerate() {
            let mut row = Contact::plain(FIRST_CONTACT + index as i64, at);
            row.first = Arc::from(format!("contact {index}"));
            if index % 5 == 0 {
                let text = Arc::from("a note");
                row.notes.push(Note {
                    date: at,
                    id: Arc::from("n1"),
                    name: Arc::default(),
                    text,
                    user_id: 7,
                });
            }
            state.put_contact(row);
        }
    }

    fn times(&self, bursts: &[Burst], end: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let mut offsets = Vec::new();
        let mut offset = TimeDelta::zero();
        for burst in bursts {
            offset += burst.pause;
            for _ in 0..burst.rows {
                offset += burst.spread;
                offsets.push(offset);
            }
        }
        let start = end - offset;
        offsets.into_iter().map(|offset| (start + offset).duration_trunc(self.step).unwrap()).collect()
    }
}

/// Something that happens at the source.
#[derive(Clone, Debug)]
pub enum Change {
    /// Messages of one time, as a broadcast makes them, each moving its conversation to the top.
    Messages(u8),
    /// A message whose date lies so many milliseconds in the past.
    LateMessage(u16),
    /// A delivery status of any message, old ones included.
    Status(prop::sample::Index),
    /// A conversation moves to the top, and is closed or opened.
    Conversation(prop::sample::Index),
    /// Contacts move to the top, all with one time, as an import does it.
    Contacts(prop::sample::Index, u8),
    NewContact,
    /// A young row of each stream gets other content and keeps its version.
    Rewritten(prop::sample::Index),
}

impl Change {
    pub fn apply(&self, state: &SandboxState) {
        // At the resolution of the mirror.
        let now = state.now().duration_trunc(TimeDelta::microseconds(1)).unwrap();
        let pick = |index: &prop::sample::Index, ids: Vec<i64>| {
            (!ids.is_empty()).then(|| ids[index.index(ids.len())])
        };
        match self {
            Self::Messages(count) => {
                for _ in 0..*count {
                    let (id, conversation) = new_message(state);
                    state.put_message(Message::plain(id, conversation, now));
                    state.change_conversation(conversation, |row| {
                        row.updated = now.max(row.updated);
                        row.last_inbound = now.timestamp();
                    });
                }
            }
            Self::LateMessage(milliseconds) => {
                let (id, conversation) = new_message(state);
                let date = now - TimeDelta::milliseconds((*milliseconds).into());
                state.put_message(Message { updated: now, ..Message::plain(id, conversation, date) });
            }
            Self::Status(index) => {
                if let Some(id) = pick(index, state.messages().into_keys().collect()) {
                    state.change_message(id, |row| {
                        row.status = Arc::from(format!("changed {}", now.timestamp_micros()));
                        row.updated = now.max(row.updated + TimeDelta::microseconds(1));
                    });
                }
            }
            Self::Conversation(index) => {
                if let Some(id) = pick(index, state.conversations().into_keys().collect()) {
                    state.change_conversation(id, |row| {
                        row.status = Arc::from(if row.is_closed() { OPEN } else { CLOSED });
                        row.updated = now.max(row.updated + TimeDelta::microseconds(1));
                    });
                }
            }
            Self::Contacts(index, count) => {
                let ids: Vec<i64> = state.contacts().into_keys().collect();
                if ids.is_empty() {
                    return;
                }
                let first = index.index(ids.len());
                for id in ids.iter().cycle().skip(first).take((*count as usize).min(ids.len())) {
                    state.change_contact(*id, |row| {
                        row.rev += 1;
                        row.last = Arc::from(format!("import {}", row.rev));
                        row.updated = now.max(row.updated + TimeDelta::microseconds(1));
                    });
                }
            }
            Self::NewContact => {
                let id = FIRST_CONTACT + LIVE + state.contacts().len() as i64;
                state.put_contact(Contact::plain(id, now));
            }
            Self::Rewritten(index) => {
                let young = |time: DateTime<Utc>| now - time < REWRITABLE;
                let messages = state.messages();
                let ids = messages.values().filter(|row| young(row.date) && young(row.updated));
                if let Some(id) = pick(index, ids.map(|row| row.id).collect()) {
                    state.change_message(id, |row| row.text = Arc::from(format!("{}, rewritten", row.text)));
                }
                let conversations = state.conversations();
                let ids = conversations.values().filter(|row| young(row.updated));
                if let Some(id) = pick(index, ids.map(|row| row.id).collect()) {
                    state.change_conversation(id, |row| {
                        row.name = Arc::from(format!("{}, rewritten", row.name))
                    });
                }
                let contacts = state.contacts();
                let ids = contacts.values().filter(|row| young(row.updated));
                if let Some(id) = pick(index, ids.map(|row| row.id).collect()) {
                    state
                        .change_contact(id, |row| row.first = Arc::from(format!("{}, rewritten", row.first)));
                }
            }
        }
    }
}

/// The id of the next message, and a conversation for it.
fn new_message(state: &SandboxState) -> (i64, i64) {
    let number = state.messages().len();
    let conversations: Vec<i64> = state.conversations().into_keys().collect();
    let conversation = conversations.get(number % conversations.len().max(1)).copied();
    (FIRST_MESSAGE + LIVE + number as i64, conversation.unwrap_or(FIRST_CONVERSATION))
}

pub fn any_history() -> impl Strategy<Value = History> {
    let steps = [1, 1, 1_000, 1_000_000].map(TimeDelta::microseconds);
    let ended = [10, 3_600, 40_000_000].map(TimeDelta::seconds);
    (any_bursts(10, 90), any_bursts(6, 40), any_bursts(6, 40), select(steps.to_vec()), select(ended.to_vec()))
        .prop_map(|(messages, conversations, contacts, step, ended)| History {
            messages,
            conversations,
            contacts,
            step,
            ended,
        })
}

/// Rows close together, and rows of one time.
fn any_bursts(bursts: usize, rows: usize) -> impl Strategy<Value = Vec<Burst>> {
    let pause = prop_oneof![1..3_000_000i64, 1..50_000_000_000i64];
    let spread = prop_oneof![2 => Just(0), 1 => Just(7), 2 => Just(50_000), 1 => Just(3_000_000)];
    let burst = (pause, 1..=rows, spread).prop_map(|(pause, rows, spread)| Burst {
        pause: TimeDelta::microseconds(pause),
        rows,
        spread: TimeDelta::microseconds(spread),
    });
    vec(burst, 0..bursts)
}

pub fn any_change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (1..40u8).prop_map(Change::Messages),
        (1..5_000u16).prop_map(Change::LateMessage),
        index().prop_map(Change::Status),
        index().prop_map(Change::Conversation),
        (index(), 1..40u8).prop_map(|(index, count)| Change::Contacts(index, count)),
        Just(Change::NewContact),
        index().prop_map(Change::Rewritten),
    ]
}
