//! Made-up messages, single ones and broadcasts.

use std::{ops::RangeInclusive, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use rand::RngExt;

use super::{FIRST_MESSAGE_ID, INBOXES, Maker};
use crate::sandbox::{
    corpus,
    rows::{Conversation, Message},
};

const FIRST_BROADCAST_ID: i64 = 7_000;
/// Rows of one broadcast, all with the same `date`.
const BROADCAST: RangeInclusive<usize> = 200..=600;

impl Maker {
    pub(super) fn messages(&mut self, count: usize, conversations: &[Conversation]) -> Vec<Message> {
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
}
