//! Contacts with their notes \[S\].

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    entries::{self, Entry},
    extra::Extra,
    row::Row,
    scan::{Fault, Fields},
};
use crate::api::model::{Contact, Note, Rows, Stream, TimeField, Version};

/// Reads one contact into `rows`.
pub(super) fn read(placed_by: Option<TimeField>, raw: &Bytes, rows: &mut Rows) {
    let row = |version| Row { stream: Stream::Contacts, raw, version, embedded: false };
    let Draft { id, mut contact, extra } = match draft(raw) {
        Ok(draft) => draft,
        Err(fault) => return row(Version::default()).set_aside(fault.reason.to_owned(), rows),
    };
    let row = row(contact.version());
    let place = placed_by.map(|_| contact.updated);
    if let Some(id) = row.admit(id, place, &extra, rows) {
        contact.id = id;
        contact.raw = raw.clone();
        contact.extra = extra.finish(row, id, &mut rows.rejects);
        rows.contacts.push(contact);
    }
}

/// A contact whose fields are read.
#[derive(Default)]
struct Draft<'a> {
    id: Option<i64>,
    contact: Contact,
    extra: Extra<'a>,
}

fn draft(raw: &[u8]) -> Result<Draft<'_>, Fault> {
    let mut draft = Draft::default();
    let Draft { id, contact, extra } = &mut draft;
    let mut fields = Fields::of(raw)?;
    while let Some((name, value)) = fields.next()? {
        match &*name {
            b"id" => *id = extra.integer("id", value),
            b"avatar" => contact.avatar = extra.text("avatar", value),
            b"created" => contact.created = extra.time("created", value),
            b"creator_id" => contact.creator_id = extra.integer("creator_id", value),
            b"custom" => contact.custom = extra.any("custom", value),
            b"display_name" => contact.display_name = extra.text("display_name", value),
            b"email" => contact.email = extra.text("email", value),
            b"external_id" => contact.external_id = extra.text("external_id", value),
            b"external_ref" => contact.external_ref = extra.text("external_ref", value),
            b"first" => contact.first = extra.text("first", value),
            b"inbox_id" => contact.inbox_id = extra.integer("inbox_id", value),
            b"last" => contact.last = extra.text("last", value),
            b"note" => {
                contact.notes = entries::read("note", value, extra, note, |note| note.id.clone());
            }
            b"op" => contact.op = extra.text("op", value),
            b"parent_id" => contact.parent_id = extra.integer("parent_id", value),
            b"phone" => contact.phone = extra.text("phone", value),
            b"rev" => contact.rev = extra.integer("rev", value),
            b"shared" => contact.shared = extra.flag("shared", value),
            b"team_id" => contact.team_id = extra.integer("team_id", value),
            b"type" => contact.type_ = extra.text("type", value),
            b"updated" => contact.updated = extra.time("updated", value),
            b"assigned_user_id" => contact.assigned_user_id = extra.integer("assigned_user_id", value),
            b"tags" => contact.tags = extra.any("tags", value),
            b"is_opted_out" => contact.is_opted_out = extra.flag("is_opted_out", value),
            name => extra.unknown(name, value),
        }
    }
    Ok(draft)
}

/// A note's id is text \[S\]; an empty one would make all such notes one, so it is no id.
fn note<'a>(fields: &mut Fields<'a>, extra: &mut Extra<'a>) -> Entry<Note> {
    let mut note = Note::default();
    while let Some((field, value)) = fields.next().map_err(|fault| Cow::from(fault.reason))? {
        match &*field {
            b"id" => note.id = extra.text("id", value).unwrap_or_default(),
            b"date" => note.date = extra.time("date", value),
            b"name" => note.name = extra.text("name", value),
            b"text" => note.text = extra.text("text", value),
            b"user_id" => note.user_id = extra.integer("user_id", value),
            other => extra.unknown(other, value),
        }
    }
    if note.id.is_empty() { Err("an entry without a readable id".into()) } else { Ok(note) }
}
