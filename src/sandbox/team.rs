//! The whole team: its rows, the indexes over them, and how each is printed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    endpoint::Endpoint,
    json::{self, Object},
    rows::{Contact, Conversation, Message, Row},
    table::{Line, Place, Table},
};

/// The id of the generated team.
pub const TEAM_ID: i64 = 4_711;

/// A number that the team texts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    pub id: i64,
    pub name: Arc<str>,
    /// E.164 digits without `+`.
    pub phone: Arc<str>,
    /// The user ids of who may see its conversations.
    pub members: Vec<i64>,
}

pub struct User {
    pub id: i64,
    pub name: Arc<str>,
}

pub(super) struct Team {
    pub id: i64,
    pub inboxes: Vec<Inbox>,
    pub users: Vec<User>,
    messages: Table<Message>,
    messages_by_date: Line,
    messages_by_conversation: BTreeMap<(i64, Place), u32>,
    conversations: Table<Conversation>,
    conversations_by_phone: HashMap<(i64, Arc<str>), BTreeSet<i64>>,
    contacts: Table<Contact>,
    /// What is printed in place of a row.
    raw: HashMap<(Endpoint, i64), Bytes>,
    /// Rows that no list shows.
    hidden: HashMap<Endpoint, HashSet<i64>>,
}

/// The rows of a team before they are indexed.
pub(super) struct TeamRows {
    pub id: i64,
    pub inboxes: Vec<Inbox>,
    pub users: Vec<User>,
    pub messages: Vec<Message>,
    pub conversations: Vec<Conversation>,
    pub contacts: Vec<Contact>,
}

/// What a team calls itself.
fn team_name(id: i64) -> String {
    if id == TEAM_ID { "Sandbox Outfitters".to_owned() } else { format!("Sandbox Outfitters {id}") }
}

impl Team {
    pub(super) fn new(rows: TeamRows) -> Self {
        let place = |(slot, message): (usize, &Message)| ((message.date, message.id), slot as u32);
        let messages_by_date = rows.messages.iter().enumerate().map(place).collect();
        let messages_by_conversation = rows
            .messages
            .iter()
            .enumerate()
            .map(|(slot, message)| ((message.conversation_id, (message.date, message.id)), slot as u32))
            .collect();
        let mut conversations_by_phone: HashMap<_, BTreeSet<i64>> = HashMap::new();
        for conversation in &rows.conversations {
            let key = (conversation.inbox, Arc::clone(&conversation.target));
            conversations_by_phone.entry(key).or_default().insert(conversation.id);
        }
        Self {
            id: rows.id,
            inboxes: rows.inboxes,
            users: rows.users,
            messages: Table::new(rows.messages),
            messages_by_date,
            messages_by_conversation,
            conversations: Table::new(rows.conversations),
            conversations_by_phone,
            contacts: Table::new(rows.contacts),
            raw: HashMap::new(),
            hidden: HashMap::new(),
        }
    }

    pub(super) fn messages(&self) -> &Table<Message> {
        &self.messages
    }

    pub(super) fn conversations(&self) -> &Table<Conversation> {
        &self.conversations
    }

    pub(super) fn contacts(&self) -> &Table<Contact> {
        &self.contacts
    }

    pub(super) fn messages_by_date(&self) -> &Line {
        &self.messages_by_date
    }

    /// Inserts, or replaces the message of that id.
    pub(super) fn put_message(&mut self, message: Message) {
        let place = (message.date, message.id);
        let conversation = message.conversation_id;
        let (slot, old) = self.messages.put(message);
        if let Some(old) = old {
            self.unplace(&old);
        }
        self.messages_by_date.insert(place, slot);
        self.messages_by_conversation.insert((conversation, place), slot);
    }

    pub(super) fn put_conversation(&mut self, conversation: Conversation) {
        let key = (conversation.inbox, Arc::clone(&conversation.target));
        let id = conversation.id;
        if let (_, Some(old)) = self.conversations.put(conversation) {
            self.forget_phone(&old);
        }
        self.conversations_by_phone.entry(key).or_default().insert(id);
    }

    /// Inserts, or replaces the inbox of that id.
    pub(super) fn put_inbox(&mut self, inbox: Inbox) {
        self.remove_inbox(inbox.id);
        self.inboxes.push(inbox);
    }

    /// Takes the inbox out of the list; its conversations stay.
    pub(super) fn remove_inbox(&mut self, id: i64) -> bool {
        let before = self.inboxes.len();
        self.inboxes.retain(|inbox| inbox.id != id);
        self.inboxes.len() < before
    }

    pub(super) fn put_contact(&mut self, contact: Contact) {
        self.contacts.put(contact);
    }

    /// Takes the row out; whether there was one.
    pub(super) fn remove(&mut self, rows: Endpoint, id: i64) -> bool {
        match rows {
            Endpoint::Messages => self.messages.remove(id).map(|message| self.unplace(&message)).is_some(),
            Endpoint::Conversations => {
                self.conversations.remove(id).map(|old| self.forget_phone(&old)).is_some()
            }
            Endpoint::Contacts => self.contacts.remove(id).is_some(),
            _ => false,
        }
    }

    /// From now on the row of that id is printed as `bytes`; `None` prints the row itself again.
    pub(super) fn set_raw(&mut self, rows: Endpoint, id: i64, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => self.raw.insert((rows, id), bytes),
            None => self.raw.remove(&(rows, id)),
        };
    }

    /// From now on these rows, and no others, are in no list.
    pub(super) fn hide(&mut self, rows: Endpoint, ids: HashSet<i64>) {
        self.hidden.insert(rows, ids);
    }

    pub(super) fn is_listed(&self, rows: Endpoint, id: i64) -> bool {
        !self.hidden.get(&rows).is_some_and(|hidden| hidden.contains(&id))
    }

    /// Newest first, of all conversations of that phone in that inbox, up to and including `latest`.
    pub(super) fn history(
        &self,
        inbox: i64,
        phone: &str,
        latest: Option<DateTime<Utc>>,
        limit: usize,
    ) -> Vec<u32> {
        let Some(ids) = self.conversations_by_phone.get(&(inbox, Arc::from(phone))) else {
            return Vec::new();
        };
        let last = (latest.unwrap_or(DateTime::<Utc>::MAX_UTC), i64::MAX);
        let mut found: Vec<(Place, u32)> = ids
            .iter()
            .flat_map(|&id| {
                let range = (id, (DateTime::<Utc>::MIN_UTC, i64::MIN))..=(id, last);
                self.messages_by_conversation.range(range).rev().take(limit)
            })
            .map(|(&(_, place), &slot)| (place, slot))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().take(limit).map(|(_, slot)| slot).collect()
    }

    pub(super) fn write_message(&self, out: &mut Vec<u8>, message: &Message) {
        if self.write_raw(out, Endpoint::Messages, message.id) {
            return;
        }
        message.write(out, |out| match self.conversations.get(message.conversation_id) {
            Some(conversation) => self.write_conversation(out, conversation),
            None => out.extend_from_slice(b"null"),
        });
    }

    pub(super) fn write_conversation(&self, out: &mut Vec<u8>, conversation: &Conversation) {
        if !self.write_raw(out, Endpoint::Conversations, conversation.id) {
            conversation.write(out);
        }
    }

    pub(super) fn write_contact(&self, out: &mut Vec<u8>, contact: &Contact) {
        if !self.write_raw(out, Endpoint::Contacts, contact.id) {
            contact.write(out);
        }
    }

    /// `GET /v1/inboxes` \[V\], of the team that calls itself `team`.
    pub(super) fn write_inboxes(&self, out: &mut Vec<u8>, team: i64) {
        json::array(out, &self.inboxes, |out, inbox| {
            let mut object = Object::open(out);
            object.integer("id", inbox.id);
            object.text("name", &inbox.name);
            object.integer("team", team);
            json::array(object.value("members"), &inbox.members, |out, member| json::integer(out, *member));
            json::array(object.value("phones"), [&inbox.phone], |out, phone| json::text(out, phone));
            object.text("phone", &inbox.phone);
            object.flag("auto_assignable", false);
            object.integer("rev", 1);
            object.close();
        });
    }

    /// `GET /v1/team` \[V\], of the team that calls itself `team`.
    pub(super) fn write_team(&self, out: &mut Vec<u8>, team: i64) {
        let mut object = Object::open(out);
        object.integer("id", team);
        object.text("name", &team_name(team));
        json::array(object.value("members"), &self.users, |out, user| {
            let mut member = Object::open(out);
            member.integer("id", user.id);
            member.text("name", &user.name);
            member.close();
        });
        object.close();
    }

    fn write_raw(&self, out: &mut Vec<u8>, rows: Endpoint, id: i64) -> bool {
        if self.raw.is_empty() {
            return false;
        }
        match self.raw.get(&(rows, id)) {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn unplace(&mut self, message: &Message) {
        let place = (message.date, message.id());
        self.messages_by_date.remove(&place);
        self.messages_by_conversation.remove(&(message.conversation_id, place));
    }

    fn forget_phone(&mut self, conversation: &Conversation) {
        let key = (conversation.inbox, Arc::clone(&conversation.target));
        if let Some(ids) = self.conversations_by_phone.get_mut(&key) {
            ids.remove(&conversation.id);
        }
    }
}
