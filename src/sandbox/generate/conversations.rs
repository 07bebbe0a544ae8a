//! Made-up conversations.

use std::{collections::HashMap, sync::Arc};

use chrono::TimeDelta;
use rand::RngExt;

use super::{BULK, FIRST_CONVERSATION_ID, Maker, phone};
use crate::sandbox::{
    corpus,
    rows::{Contact, Conversation, Member, Message},
};

impl Maker {
    pub(super) fn conversations(&mut self, count: usize, contacts: &[Contact]) -> Vec<Conversation> {
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

    /// Times, status and reading marks as the messages left them; then some are closed, one by one or in bulk.
    pub(super) fn settle(&mut self, conversations: &mut [Conversation], messages: &[Message]) {
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
        let size = BULK.min(conversations.len() / 5).max(1);
        for bulk in conversations.chunks_mut(size).step_by(10) {
            let at = bulk.iter().map(|conversation| conversation.updated).max().unwrap_or(self.end);
            for conversation in bulk {
                conversation.status = Arc::clone(&self.words.closed);
                conversation.updated = at;
            }
        }
    }
}
