//! The truth that a mirror is compared with.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    endpoint::Endpoint,
    rows::{Contact, Conversation, Message},
    state::SandboxState,
    table::Table,
    team::Team,
};

impl SandboxState {
    pub fn message(&self, id: i64) -> Option<Message> {
        self.team().messages().get(id).cloned()
    }

    pub fn conversation(&self, id: i64) -> Option<Conversation> {
        self.team().conversations().get(id).cloned()
    }

    pub fn contact(&self, id: i64) -> Option<Contact> {
        self.team().contacts().get(id).cloned()
    }

    /// All messages by id.
    pub fn messages(&self) -> BTreeMap<i64, Message> {
        all(self.team().messages())
    }

    /// All conversations by id.
    pub fn conversations(&self) -> BTreeMap<i64, Conversation> {
        all(self.team().conversations())
    }

    /// All contacts by id.
    pub fn contacts(&self) -> BTreeMap<i64, Contact> {
        all(self.team().contacts())
    }

    /// The row as it is printed; `None` where there is no such row, or what is printed is no JSON.
    pub fn json(&self, rows: Endpoint, id: i64) -> Option<Value> {
        let mut out = Vec::new();
        print_row(&self.team(), rows, id, &mut out).then(|| serde_json::from_slice(&out).ok()).flatten()
    }

    /// Gives each row of a paged endpoint as it is printed (bytes, since it may be no JSON), in order of id.
    /// The team does not change meanwhile.
    pub fn for_each_printed(&self, rows: Endpoint, mut see: impl FnMut(i64, &[u8])) {
        let team = self.team();
        let mut ids = match rows {
            Endpoint::Messages => ids(team.messages()),
            Endpoint::Conversations => ids(team.conversations()),
            Endpoint::Contacts => ids(team.contacts()),
            _ => Vec::new(),
        };
        ids.sort_unstable();
        let mut out = Vec::new();
        for id in ids {
            out.clear();
            if print_row(&team, rows, id, &mut out) {
                see(id, &out);
            }
        }
    }
}

fn ids<R: super::rows::Row>(table: &Table<R>) -> Vec<i64> {
    table.slots().map(|slot| table.at(slot).id()).collect()
}

fn all<R: super::rows::Row>(table: &Table<R>) -> BTreeMap<i64, R> {
    table.slots().map(|slot| (table.at(slot).id(), table.at(slot).clone())).collect()
}

fn print_row(team: &Team, rows: Endpoint, id: i64, out: &mut Vec<u8>) -> bool {
    match rows {
        Endpoint::Messages => team.messages().get(id).map(|row| team.write_message(out, row)),
        Endpoint::Conversations => team.conversations().get(id).map(|row| team.write_conversation(out, row)),
        Endpoint::Contacts => team.contacts().get(id).map(|row| team.write_contact(out, row)),
        _ => None,
    }
    .is_some()
}
