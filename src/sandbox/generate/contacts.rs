//! Made-up contacts.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rand::RngExt;

use super::{BULK, FIRST_CONTACT_ID, Maker, phone};
use crate::sandbox::{
    corpus, json,
    rows::{Contact, Note},
};

impl Maker {
    pub(super) fn contacts(&mut self, count: usize) -> Vec<Contact> {
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
            team_id: self.team,
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
        json::array(&mut out, 0..count, |out, _| {
            json::text(out, corpus::pick(&mut self.rng, &corpus::TAGS));
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
}
