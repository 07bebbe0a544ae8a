//! Conversations, alone or embedded in a message, with their members \[S\].

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    IsHeld,
    entries::{self, Entry},
    extra::Extra,
    row::Row,
    scalar,
    scan::{Fault, Fields},
};
use crate::api::model::{Conversation, Member, Rows, Stream, TimeField, Version};

/// Reads one row of the conversations endpoints into `rows`.
pub(super) fn read(placed_by: Option<TimeField>, raw: &Bytes, rows: &mut Rows) {
    let row = |version| Row { stream: Stream::Conversations, raw, version, embedded: false };
    let Draft { id, mut conversation, extra } = match draft(raw) {
        Ok(draft) => draft,
        Err(fault) => return row(Version::default()).set_aside(fault.reason.to_owned(), rows),
    };
    let row = row(conversation.version());
    let place = placed_by.map(|_| conversation.updated);
    if let Some(id) = row.admit(id, place, &extra, rows) {
        conversation.id = id;
        conversation.raw = raw.clone();
        conversation.extra = extra.finish(row, id, &mut rows.rejects);
        rows.conversations.push(conversation);
    }
}

/// Reads a conversation embedded in a message into `rows`, unless it is held; returns its id.
///
/// # Errors
///
/// Why its id could not be read; then `rows` is left alone.
pub(super) fn read_embedded(is_held: IsHeld<'_>, raw: &Bytes, rows: &mut Rows) -> Result<i64, String> {
    if let Some((id, updated)) = version(raw)
        && is_held(id, updated)
    {
        return Ok(id);
    }
    let Draft { id, mut conversation, extra } = draft(raw).map_err(|fault| fault.reason.to_owned())?;
    let Some(id) = id else { return Err(format!("its id: {}", extra.reason("id").unwrap_or("not set"))) };
    conversation.id = id;
    conversation.raw = raw.clone();
    let version = conversation.version();
    let row = Row { stream: Stream::Conversations, raw, version, embedded: true };
    conversation.extra = extra.finish(row, id, &mut rows.rejects);
    rows.embedded.push(conversation);
    Ok(id)
}

/// The id and `updated` of the conversation `raw`; `None` where one of them is unreadable.
fn version(raw: &[u8]) -> Option<(i64, Option<DateTime<Utc>>)> {
    let (mut id, mut updated) = (None, None);
    let mut fields = Fields::of(raw).ok()?;
    while let Some((name, value)) = fields.next().ok()? {
        match &*name {
            b"id" => id = scalar::integer(value).ok()?,
            b"updated" => updated = scalar::time(value).ok()?,
            _ => {}
        }
    }
    id.map(|id| (id, updated))
}

/// Whether the object `raw` has no fields.
pub(super) fn is_empty(raw: &[u8]) -> bool {
    matches!(Fields::of(raw).and_then(|mut fields| fields.next()), Ok(None))
}

/// A conversation whose fields are read.
#[derive(Default)]
struct Draft<'a> {
    id: Option<i64>,
    conversation: Conversation,
    extra: Extra<'a>,
}

fn draft(raw: &[u8]) -> Result<Draft<'_>, Fault> {
    let mut draft = Draft::default();
    let Draft { id, conversation, extra } = &mut draft;
    let mut fields = Fields::of(raw)?;
    while let Some((name, value)) = fields.next()? {
        match &*name {
            b"id" => *id = extra.integer("id", value),
            b"assigned" => conversation.assigned = extra.integer("assigned", value),
            b"blocked" => conversation.blocked = extra.flag("blocked", value),
            b"channel" => conversation.channel = extra.text("channel", value),
            b"created" => conversation.created = extra.time("created", value),
            b"creator" => conversation.creator = extra.integer("creator", value),
            b"email_noti" => conversation.email_noti = extra.flag("email_noti", value),
            b"inbox" => conversation.inbox = extra.integer("inbox", value),
            b"last_inbound" => conversation.last_inbound = extra.integer("last_inbound", value),
            b"local_id" => conversation.local_id = extra.text("local_id", value),
            b"members" => {
                conversation.members = entries::read("members", value, extra, member, |member| member.id);
            }
            b"muted" => conversation.muted = extra.flag("muted", value),
            b"name" => conversation.name = extra.text("name", value),
            b"noreply" => conversation.noreply = extra.text("noreply", value),
            b"op" => conversation.op = extra.text("op", value),
            b"read" => conversation.read = extra.integer("read", value),
            b"replied" => conversation.replied = extra.flag("replied", value),
            b"snooze_till" => conversation.snooze_till = extra.time("snooze_till", value),
            b"status" => conversation.status = extra.text("status", value),
            b"super" => conversation.super_ = extra.integer("super", value),
            b"support" => conversation.support = extra.flag("support", value),
            b"target" => conversation.target = extra.text("target", value),
            b"type" => conversation.type_ = extra.text("type", value),
            b"updated" => conversation.updated = extra.time("updated", value),
            name => extra.unknown(name, value),
        }
    }
    Ok(draft)
}

fn member<'a>(fields: &mut Fields<'a>, extra: &mut Extra<'a>) -> Entry<Member> {
    let mut id = None;
    let mut name = None;
    while let Some((field, value)) = fields.next().map_err(|fault| Cow::from(fault.reason))? {
        match &*field {
            b"id" => id = extra.integer("id", value),
            b"name" => name = extra.text("name", value),
            other => extra.unknown(other, value),
        }
    }
    match id {
        Some(id) => Ok(Member { id, name }),
        None => Err("an entry without a readable id".into()),
    }
}
