//! A team made up from a seed: the same options give the same team.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    corpus,
    rows::{CLOSED, Contact, Conversation, Member, Message, Note, OPEN},
    team::{Inbox, TEAM_ID, TeamRows, User},
};

/// What team to make up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamOptions {
    pub messages: usize,
    /// At least one is made where there are messages.
    pub conversations: usize,
    pub contacts: usize,
    pub seed: u64,
    /// How far back from `end` the rows reach.
    pub span: Duration,
    /// The newest time in any row; `None` is the moment of generation.
    pub end: Option<DateTime<Utc>>,
}

impl Default for TeamOptions {
    /// A team small enough for a test: 2,000 messages, 200 conversations, 150 contacts over 30 days.
    fn default() -> Self {
        Self {
            messages: 2_000,
            conversations: 200,
            contacts: 150,
            seed: 1,
            span: Duration::from_secs(30 * 86_400),
            end: None,
        }
    }
}

pub(super) const FIRST_MESSAGE_ID: i64 = 90_000_000;
pub(super) const FIRST_CONVERSATION_ID: i64 = 50_000_000;
pub(super) const FIRST_CONTACT_ID: i64 = 30_000_000;
const FIRST_BROADCAST_ID: i64 = 7_000;
const INBOXES: [(i64, &str); 6] = [
    (101, "Front desk"),
    (102, "Sales"),
    (103, "Support"),
    (104, "Billing"),
    (105, "Día"),
    (106, "Recruiting"),
];
const USERS: usize = 12;
/// Rows of one broadcast, all with the same `date`.
const BROADCAST: std::ops::RangeInclusive<usize> = 200..=600;
/// Rows changed by one bulk action (an import, a bulk close), all with the same `updated`.
const BULK: usize = 150;

pub(super) fn generate(options: &TeamOptions, end: DateTime<Utc>) -> TeamRows {
    let mut maker = Maker::new(options, end);
    let contacts = maker.contacts(options.contacts);
    let wanted = options.conversations.max(usize::from(options.messages > 0));
    let mut conversations = maker.conversations(wanted, &contacts);
    let messages = maker.messages(options.messages, &conversations);
    maker.settle(&mut conversations, &messages);
    TeamRows { inboxes: maker.inboxes, users: maker.users, messages, conversations, contacts }
}

/// Words that very many rows share.
struct Words {
    empty: Arc<str>,
    null: Arc<str>,
    none: Arc<str>,
    text: Arc<str>,
    received: Arc<str>,
    sent: Arc<str>,
    delivered: Arc<str>,
    failed: Arc<str>,
    open: Arc<str>,
    closed: Arc<str>,
    sms: Arc<str>,
    direct: Arc<str>,
    group: Arc<str>,
    form: Arc<str>,
}

struct Maker {
    rng: ChaCha8Rng,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    /// Microseconds from `start` to `end`, at least 1.
    span: i64,
    inboxes: Vec<Inbox>,
    users: Vec<User>,
    words: Words,
}

impl Maker {
    fn new(options: &TeamOptions, end: DateTime<Utc>) -> Self {
        let span = i64::try_from(options.span.as_micros()).unwrap_or(i64::MAX).clamp(1, MAX_SPAN);
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let users = (0..USERS)
            .map(|index| {
                let first = corpus::FIRST_NAMES[index];
                let last = corpus::pick(&mut rng, &corpus::LAST_NAMES);
                User { id: 2_001 + index as i64, name: Arc::from(format!("{first} {last}")) }
            })
            .collect();
        let inboxes = INBOXES
            .iter()
            .map(|&(id, name)| Inbox { id, name, phone: Arc::from(format!("1415555{:04}", id)) })
            .collect();
        let words = Words {
            empty: Arc::from(""),
            null: Arc::from("null"),
            none: Arc::from("{}"),
            text: Arc::from("text"),
            received: Arc::from("received"),
            sent: Arc::from("sent"),
            delivered: Arc::from("delivered"),
            failed: Arc::from("failed"),
            open: Arc::from(OPEN),
            closed: Arc::from(CLOSED),
            sms: Arc::from("sms"),
            direct: Arc::from("direct"),
            group: Arc::from("group"),
            form: Arc::from(r#"{"data":[11,12,15],"type":"form"}"#),
        };
        Self { rng, start: end - TimeDelta::microseconds(span), end, span, inboxes, users, words }
    }

    fn contacts(&mut self, count: usize) -> Vec<Contact> {
        let mut contacts = Vec::with_capacity(count);
        let mut import = None;
        for index in 0..count {
            let bulk = index % (BULK * 8) < BULK && index % (BULK * 8) < count / 4;
            if !bulk {
                import = None;
            } else if import.is_none() {
                import = Some(self.moment());
            }
            let contact = self.contact(index, import);
            contacts.push(contact);
        }
        contacts
    }

    fn contact(&mut self, index: usize, import: Option<DateTime<Utc>>) -> Contact {
        let created = import.unwrap_or_else(|| self.moment());
        let edits: i64 = if import.is_some() || self.rng.random_bool(0.4) { 0 } else { 1 + self.below(9) };
        let updated = if edits == 0 { created } else { self.between(created, self.end) };
        let id = FIRST_CONTACT_ID + 3 * index as i64;
        let first = corpus::pick(&mut self.rng, &corpus::FIRST_NAMES);
        let last = corpus::pick(&mut self.rng, &corpus::LAST_NAMES);
        let owner = self.user();
        let has_email = self.rng.random_bool(0.5);
        let email = if has_email { Arc::from(format!("c{index}@example.com")) } else { self.empty() };
        Contact {
            avatar: self.empty(),
            custom: self.custom_fields(),
            external_id: if import.is_some() { Arc::from(format!("crm-{index}")) } else { self.empty() },
            external_ref: self.empty(),
            inbox_id: self.inboxes[index % self.inboxes.len()].id,
            notes: self.notes(created, updated),
            tags: self.tags(),
            is_opted_out: self.rng.random_bool(0.03),
            shared: self.rng.random_bool(0.9),
            id,
            created,
            updated,
            creator_id: owner,
            display_name: Arc::from(format!("{first} {last}")),
            email,
            first: Arc::from(first),
            last: Arc::from(last),
            op: self.empty(),
            parent_id: 0,
            phone: phone(index),
            rev: 1 + edits,
            team_id: TEAM_ID,
            type_: Arc::from("person"),
            assigned_user_id: if index.is_multiple_of(5) { owner } else { 0 },
        }
    }

    fn custom_fields(&mut self) -> Arc<str> {
        match self.rng.random_range(0..4_u8) {
            0 => Arc::from(format!(
                r#"{{"501":"{}","502":"{}"}}"#,
                self.below(100_000),
                corpus::pick(&mut self.rng, &["gold", "silver", "größe \\\"XL\\\"", "金"])
            )),
            1 => Arc::from(r#"{"503":"2024-05-01","504":""}"#),
            _ => Arc::clone(&self.words.none),
        }
    }

    fn tags(&mut self) -> Arc<str> {
        let mut out = Vec::new();
        let count = self.rng.random_range(0..4_usize).saturating_sub(1);
        super::json::array(&mut out, 0..count, |out, _| {
            super::json::text(out, corpus::pick(&mut self.rng, &corpus::TAGS));
        });
        Arc::from(String::from_utf8(out).expect("invariant: JSON is written from UTF-8 text"))
    }

    fn notes(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Note> {
        let count = self.rng.random_range(0..8_usize).saturating_sub(4);
        let mut notes: Vec<Note> = (0..count)
            .map(|_| {
                let author = self.rng.random_range(0..self.users.len());
                Note {
                    date: self.between(from, to),
                    id: corpus::local_id(&mut self.rng),
                    name: Arc::clone(&self.users[author].name),
                    text: corpus::text(&mut self.rng),
                    user_id: self.users[author].id,
                }
            })
            .collect();
        if count > 0 && self.rng.random_bool(0.1) {
            let mut again = notes[0].clone();
            again.text = corpus::text(&mut self.rng);
            notes.push(again);
        }
        notes
    }

    fn conversations(&mut self, count: usize, contacts: &[Contact]) -> Vec<Conversation> {
        (0..count).map(|index| self.conversation(index, contacts)).collect()
    }

    /// Times, status and reading marks are settled once the messages are known.
    fn conversation(&mut self, index: usize, contacts: &[Contact]) -> Conversation {
        let contact = index.checked_rem(contacts.len()).map(|position| &contacts[position]);
        let round = index.checked_div(contacts.len()).unwrap_or(0);
        let inbox = self.inboxes[(index + round) % self.inboxes.len()].id;
        let group = index % 40 == 39;
        let mut members: Vec<Member> = (0..if group { 3 } else { 1 })
            .map(|step| {
                let user = &self.users[(index + step * 5) % self.users.len()];
                Member { id: user.id, name: Arc::clone(&user.name) }
            })
            .collect();
        if index.is_multiple_of(15) {
            members.extend(members.first().cloned());
        }
        let created = self.moment();
        Conversation {
            id: FIRST_CONVERSATION_ID + 2 * index as i64,
            assigned: if self.rng.random_bool(0.6) { self.user() } else { 0 },
            blocked: self.rng.random_bool(0.01),
            channel: Arc::clone(&self.words.sms),
            created,
            creator: self.user(),
            email_noti: self.rng.random_bool(0.2),
            inbox,
            last_inbound: 0,
            local_id: corpus::local_id(&mut self.rng),
            members,
            muted: self.rng.random_bool(0.05),
            name: contact.map_or_else(|| self.empty(), |contact| Arc::clone(&contact.display_name)),
            noreply: self.empty(),
            op: self.empty(),
            read: 0,
            replied: false,
            snooze_till: self.rng.random_bool(0.03).then(|| self.end + TimeDelta::days(1)),
            status: Arc::clone(&self.words.open),
            super_: 0,
            support: false,
            target: contact.map_or_else(|| phone(index), |contact| Arc::clone(&contact.phone)),
            type_: Arc::clone(if group { &self.words.group } else { &self.words.direct }),
            updated: created,
        }
    }

    fn messages(&mut self, count: usize, conversations: &[Conversation]) -> Vec<Message> {
        let mut dates: Vec<i64> = (0..count).map(|_| self.rng.random_range(0..self.span)).collect();
        dates.sort_unstable();
        let mut messages = Vec::with_capacity(count);
        let mut broadcasts = 0;
        while messages.len() < count {
            let index = messages.len();
            let date = self.start + TimeDelta::microseconds(dates[index]);
            // About one message in seven is part of a broadcast, and a team of some size has one at least.
            if self.rng.random_bool(0.0004) || (broadcasts == 0 && index >= count / 3) {
                let size = self.rng.random_range(BROADCAST).min(count / 4).min(count - index).max(1);
                self.broadcast(&mut messages, FIRST_BROADCAST_ID + broadcasts, date, size, conversations);
                broadcasts += 1;
            } else {
                let skew: f64 = self.rng.random();
                let conversation = (skew * skew * conversations.len() as f64) as usize;
                let message = self.single(index, date, &conversations[conversation]);
                messages.push(message);
            }
        }
        self.mix_ids(&mut messages);
        messages
    }

    fn broadcast(
        &mut self,
        messages: &mut Vec<Message>,
        id: i64,
        date: DateTime<Utc>,
        size: usize,
        conversations: &[Conversation],
    ) {
        let first = self.rng.random_range(0..conversations.len());
        let settled_together = (id % 2 == 0).then(|| self.soon(date, 120));
        let text = corpus::text(&mut self.rng);
        let author = self.rng.random_range(0..self.users.len());
        for step in 0..size {
            let conversation = &conversations[(first + step) % conversations.len()];
            let mut message = self.outbound(messages.len(), date, conversation, author);
            message.broadcast_id = id;
            message.text = Arc::clone(&text);
            message.updated = settled_together.unwrap_or(message.updated);
            messages.push(message);
        }
    }

    fn single(&mut self, index: usize, date: DateTime<Utc>, conversation: &Conversation) -> Message {
        if self.rng.random_bool(0.45) {
            let updated = self.soon(date, 1);
            return Message {
                author: Arc::clone(&conversation.name),
                status: Arc::clone(&self.words.received),
                local_id: self.empty(),
                user: 0,
                updated,
                ..self.outbound(index, date, conversation, 0)
            };
        }
        let author = self.rng.random_range(0..self.users.len());
        self.outbound(index, date, conversation, author)
    }

    fn outbound(
        &mut self,
        index: usize,
        date: DateTime<Utc>,
        conversation: &Conversation,
        author: usize,
    ) -> Message {
        let (status, settles_within) = match self.rng.random_range(0..100_u8) {
            0..=84 => (&self.words.delivered, 20),
            85..=90 => (&self.words.delivered, 40_000),
            91..=94 => (&self.words.failed, 600),
            _ => (&self.words.sent, 2),
        };
        let status = Arc::clone(status);
        let picture = self.rng.random_bool(0.04);
        let inbox = usize::try_from(conversation.inbox - INBOXES[0].0)
            .expect("invariant: generated conversations lie in generated inboxes");
        Message {
            id: FIRST_MESSAGE_ID + 2 * index as i64,
            conversation_id: conversation.id,
            author: Arc::clone(&self.users[author].name),
            broadcast_id: 0,
            custom: Arc::clone(if self.rng.random_bool(0.02) { &self.words.form } else { &self.words.null }),
            date,
            flagged: self.rng.random_bool(0.01),
            link_url: self.empty(),
            local_id: corpus::local_id(&mut self.rng),
            media: if picture {
                Arc::from(format!("https://media.example.com/{index}.jpg"))
            } else {
                self.empty()
            },
            phone: Arc::clone(&self.inboxes[inbox].phone),
            status,
            super_: 0,
            support: false,
            target: Arc::clone(&conversation.target),
            text: corpus::text(&mut self.rng),
            type_: Arc::clone(&self.words.text),
            updated: self.soon(date, settles_within),
            user: self.users[author].id,
        }
    }

    /// Ids follow dates, but not everywhere: some rows came in late.
    fn mix_ids(&mut self, messages: &mut [Message]) {
        for _ in 0..messages.len() / 100 {
            let index = self.rng.random_range(0..messages.len());
            let earlier = index.saturating_sub(self.rng.random_range(1..50));
            let id = messages[index].id;
            messages[index].id = messages[earlier].id;
            messages[earlier].id = id;
        }
    }

    fn settle(&mut self, conversations: &mut [Conversation], messages: &[Message]) {
        let mut positions = HashMap::with_capacity(conversations.len());
        positions.extend(conversations.iter().enumerate().map(|(position, row)| (row.id, position)));
        let mut seen = vec![false; conversations.len()];
        for message in messages {
            let position = positions[&message.conversation_id];
            let conversation = &mut conversations[position];
            if !seen[position] {
                seen[position] = true;
                conversation.created = message.date;
            }
            let inbound = message.user == 0;
            if inbound {
                conversation.last_inbound = message.date.timestamp();
            }
            conversation.replied = !inbound;
            conversation.updated = message.date;
        }
        for conversation in &mut *conversations {
            let unread = self.rng.random_bool(0.15) && conversation.last_inbound > 0;
            conversation.read = conversation.last_inbound - i64::from(unread) * 60;
            if self.rng.random_bool(0.55) {
                conversation.status = Arc::clone(&self.words.closed);
                conversation.updated = self.soon(conversation.updated, 100_000);
            }
        }
        for bulk in conversations.chunks_mut(BULK).step_by(10) {
            let at = bulk.iter().map(|conversation| conversation.updated).max().unwrap_or(self.end);
            for conversation in bulk {
                conversation.status = Arc::clone(&self.words.closed);
                conversation.updated = at;
            }
        }
    }

    /// Any time of the span; a few on the whole second.
    fn moment(&mut self) -> DateTime<Utc> {
        let at = self.start + TimeDelta::microseconds(self.rng.random_range(0..self.span));
        if self.rng.random_bool(0.02) && at.timestamp() > self.start.timestamp() {
            return DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at);
        }
        at
    }

    fn between(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
        let width = (to - from).num_microseconds().unwrap_or(0).max(0);
        from + TimeDelta::microseconds(self.rng.random_range(0..=width))
    }

    /// Up to so many seconds after `time`, never past the end.
    fn soon(&mut self, time: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
        let after = self.rng.random_range(0..=seconds * 1_000_000);
        (time + TimeDelta::microseconds(after)).min(self.end)
    }

    fn user(&mut self) -> i64 {
        self.users[self.rng.random_range(0..self.users.len())].id
    }

    fn below(&mut self, bound: i64) -> i64 {
        self.rng.random_range(0..bound)
    }

    fn empty(&self) -> Arc<str> {
        Arc::clone(&self.words.empty)
    }
}

/// A hundred years: keeps the arithmetic within chrono's range.
const MAX_SPAN: i64 = 100 * 365 * 86_400 * 1_000_000;

/// The phone of the `index`th contact: E.164 digits without `+`.
pub(super) fn phone(index: usize) -> Arc<str> {
    Arc::from(format!("1{:010}", 2_025_550_100 + 7 * index as u64))
}
