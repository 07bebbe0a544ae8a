//! Live traffic: what happens to a team while it is mirrored.

use std::{collections::VecDeque, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    corpus, generate,
    rows::{CLOSED, Contact, Conversation, Message, OPEN},
    team::Team,
};

/// Sent messages whose delivery is still to be told; the oldest are given up beyond it.
const UNDELIVERED_MAX: usize = 10_000;
/// Events of one tick; what is beyond is dropped, so that a sleeping machine does not wake to a flood.
const EVENTS_PER_TICK_MAX: usize = 10_000;
/// How far in the past a late message may lie.
const LATE_SECONDS: i64 = 30;

/// Something that happened, with the id of the row it happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Received(i64),
    Sent(i64),
    /// A message's status and `updated` changed, not its `date`.
    StatusChanged(i64),
    /// A message became visible whose `date` lies in the past.
    ArrivedLate(i64),
    Closed(i64),
    Reopened(i64),
    ContactEdited(i64),
    /// Someone wrote for the first time: a contact, a conversation and this message are new.
    FirstContact(i64),
}

pub(super) struct Traffic {
    rng: ChaCha8Rng,
    undelivered: VecDeque<i64>,
    next_message: i64,
    next_conversation: i64,
    next_contact: i64,
    newcomers: usize,
    last_tick: Option<DateTime<Utc>>,
    /// The part of an event that is due.
    due: f64,
}

impl Traffic {
    pub(super) fn new(seed: u64, options: &generate::TeamOptions) -> Self {
        let after = |first: i64, rows: usize| first + 4 * rows as i64 + 1_001;
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            undelivered: VecDeque::new(),
            next_message: after(generate::FIRST_MESSAGE_ID, options.messages),
            next_conversation: after(generate::FIRST_CONVERSATION_ID, options.conversations),
            next_contact: after(generate::FIRST_CONTACT_ID, options.contacts),
            newcomers: options.contacts.max(options.conversations),
            last_tick: None,
            due: 0.0,
        }
    }

    /// Applies what is due at `rate` events a second since the last tick.
    pub(super) fn tick(&mut self, team: &mut Team, rate: f64, now: DateTime<Utc>) -> Vec<Event> {
        let elapsed = now - self.last_tick.replace(now).unwrap_or(now);
        self.due += rate * elapsed.as_seconds_f64().max(0.0);
        let whole = self.due.floor();
        self.due -= whole;
        (0..(whole as usize).min(EVENTS_PER_TICK_MAX)).map(|_| self.event(team, now)).collect()
    }

    /// Forgets the time of the last tick: what passes until the next one brings no events.
    pub(super) fn pause(&mut self) {
        self.last_tick = None;
    }

    /// Applies one event.
    pub(super) fn event(&mut self, team: &mut Team, now: DateTime<Utc>) -> Event {
        match self.rng.random_range(0..100_u8) {
            0..=29 => self.received(team, now, now),
            30..=51 => self.sent(team, now),
            52..=73 => self.status_changed(team, now),
            74..=78 => {
                let late = TimeDelta::microseconds(self.rng.random_range(1..=LATE_SECONDS * 1_000_000));
                match self.received(team, now - late, now) {
                    Event::Received(id) => Event::ArrivedLate(id),
                    other => other,
                }
            }
            79..=87 => self.closed_or_reopened(team, now),
            88..=96 => self.contact_edited(team, now),
            _ => self.first_contact(team, now),
        }
    }

    fn received(&mut self, team: &mut Team, date: DateTime<Utc>, now: DateTime<Utc>) -> Event {
        let Some(mut conversation) = self.conversation(team) else {
            return self.first_contact(team, now);
        };
        conversation.last_inbound = conversation.last_inbound.max(date.timestamp());
        conversation.replied = false;
        conversation.status = Arc::from(OPEN);
        conversation.updated = later(now, conversation.updated);
        let message = Message {
            author: Arc::clone(&conversation.name),
            status: Arc::from("received"),
            updated: now,
            ..self.message(team, &conversation, date)
        };
        let id = message.id;
        team.put_conversation(conversation);
        team.put_message(message);
        Event::Received(id)
    }

    fn sent(&mut self, team: &mut Team, now: DateTime<Utc>) -> Event {
        let Some(mut conversation) = self.conversation(team) else {
            return self.first_contact(team, now);
        };
        conversation.read = conversation.last_inbound;
        conversation.replied = true;
        conversation.updated = later(now, conversation.updated);
        let author = self.rng.random_range(0..team.users.len());
        let message = Message {
            author: Arc::clone(&team.users[author].name),
            user: team.users[author].id,
            local_id: corpus::local_id(&mut self.rng),
            status: Arc::from("sent"),
            ..self.message(team, &conversation, now)
        };
        let id = message.id;
        if self.undelivered.len() == UNDELIVERED_MAX {
            self.undelivered.pop_front();
        }
        self.undelivered.push_back(id);
        team.put_conversation(conversation);
        team.put_message(message);
        Event::Sent(id)
    }

    /// Of what was sent lately the oldest; now and then, or where nothing was, any sent message of all history.
    fn status_changed(&mut self, team: &mut Team, now: DateTime<Utc>) -> Event {
        let lately = if self.rng.random_bool(0.8) { self.undelivered.pop_front() } else { None };
        let lately = lately.and_then(|id| team.messages().get(id));
        let drawn = self.rng.random();
        let any = || team.messages().pick(drawn).filter(|message| message.user != 0);
        let Some(message) = lately.or_else(any) else {
            return self.sent(team, now);
        };
        let mut message = message.clone();
        let delivered = &*message.status != "delivered" && self.rng.random_bool(0.9);
        message.status = Arc::from(if delivered { "delivered" } else { "failed" });
        message.updated = later(now, message.updated);
        let id = message.id;
        team.put_message(message);
        Event::StatusChanged(id)
    }

    fn closed_or_reopened(&mut self, team: &mut Team, now: DateTime<Utc>) -> Event {
        let Some(mut conversation) = self.conversation(team) else {
            return self.first_contact(team, now);
        };
        let (id, was_closed) = (conversation.id, conversation.is_closed());
        conversation.status = Arc::from(if was_closed { OPEN } else { CLOSED });
        conversation.updated = later(now, conversation.updated);
        team.put_conversation(conversation);
        if was_closed { Event::Reopened(id) } else { Event::Closed(id) }
    }

    fn contact_edited(&mut self, team: &mut Team, now: DateTime<Utc>) -> Event {
        let Some(mut contact) = team.contacts().pick(self.rng.random()).cloned() else {
            return self.first_contact(team, now);
        };
        contact.rev += 1;
        contact.updated = later(now, contact.updated);
        match self.rng.random_range(0..4_u8) {
            0 => contact.is_opted_out = !contact.is_opted_out,
            1 => contact.last = Arc::from(corpus::pick(&mut self.rng, &corpus::LAST_NAMES)),
            2 => contact.tags = Arc::from(format!(r#"["vip","edit {}"]"#, contact.rev)),
            _ => {
                contact.notes.pop();
            }
        }
        let id = contact.id;
        team.put_contact(contact);
        Event::ContactEdited(id)
    }

    fn first_contact(&mut self, team: &mut Team, now: DateTime<Utc>) -> Event {
        let phone = generate::phone(self.newcomers);
        self.newcomers += 1;
        let mut contact = Contact::plain(self.next_contact, now);
        self.next_contact += 1;
        contact.first = Arc::from(corpus::pick(&mut self.rng, &corpus::FIRST_NAMES));
        contact.display_name = Arc::clone(&contact.first);
        contact.phone = Arc::clone(&phone);
        contact.team_id = team.id;
        let mut conversation = Conversation::plain(self.next_conversation, now);
        self.next_conversation += 1;
        conversation.inbox = team.inboxes[self.rng.random_range(0..team.inboxes.len())].id;
        conversation.last_inbound = now.timestamp();
        conversation.name = Arc::clone(&contact.display_name);
        conversation.target = phone;
        let mut message = self.message(team, &conversation, now);
        message.status = Arc::from("received");
        message.author = Arc::clone(&conversation.name);
        let id = message.id;
        team.put_contact(contact);
        team.put_conversation(conversation);
        team.put_message(message);
        Event::FirstContact(id)
    }

    fn conversation(&mut self, team: &Team) -> Option<Conversation> {
        team.conversations().pick(self.rng.random()).cloned()
    }

    fn message(&mut self, team: &Team, conversation: &Conversation, date: DateTime<Utc>) -> Message {
        let mut message = Message::plain(self.next_message, conversation.id, date);
        self.next_message += 1;
        let inbox = team.inboxes.iter().find(|inbox| inbox.id == conversation.inbox);
        if let Some(inbox) = inbox {
            message.phone = Arc::clone(&inbox.phone);
        }
        message.target = Arc::clone(&conversation.target);
        message.text = corpus::text(&mut self.rng);
        message
    }
}

/// A version's time is always after the one before it, also where the clock did not move.
fn later(now: DateTime<Utc>, before: DateTime<Utc>) -> DateTime<Utc> {
    now.max(before + TimeDelta::microseconds(1))
}
