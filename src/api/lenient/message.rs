//! Messages, each with its conversation embedded \[S\].

use bytes::Bytes;

use super::{
    IsHeld, conversation,
    extra::Extra,
    row::Row,
    scalar,
    scan::{Fault, Fields, Kind, Value},
};
use crate::api::model::{Message, Rows, Stream, TimeField, Version};

/// Reads one message into `rows`, and its conversation unless it is held, which counts even if the message is set
/// aside.
pub(super) fn read(is_held: IsHeld<'_>, placed_by: Option<TimeField>, raw: &Bytes, rows: &mut Rows) {
    let row = |version| Row { stream: Stream::Messages, raw, version, embedded: false };
    let Draft { id, mut message, embedded, mut extra } = match draft(raw) {
        Ok(draft) => draft,
        Err(fault) => return row(Version::default()).set_aside(fault.reason.to_owned(), rows),
    };
    if let Some(value) = embedded {
        message.conversation_id = read_conversation(is_held, raw, value, &mut extra, rows);
    }
    let row = row(message.version());
    let place = placed_by.map(|field| match field {
        TimeField::Date => message.date,
        TimeField::Updated => message.updated,
    });
    if let Some(id) = row.admit(id, place, &extra, rows) {
        message.id = id;
        message.raw = raw.clone();
        message.extra = extra.finish(row, id, &mut rows.rejects);
        rows.messages.push(message);
    }
}

/// The id of the conversation in field `conversation`: an object, or the bare id; none if not set.
fn read_conversation<'a>(
    is_held: IsHeld<'_>,
    message: &Bytes,
    value: Value<'a>,
    extra: &mut Extra<'a>,
    rows: &mut Rows,
) -> Option<i64> {
    let id = match value.kind {
        Kind::Object if conversation::is_empty(value.raw) => Ok(None),
        Kind::Object => conversation::read_embedded(is_held, &message.slice_ref(value.raw), rows).map(Some),
        _ => scalar::integer(value).map_err(|reason| format!("neither an object nor an id, but {reason}")),
    };
    id.unwrap_or_else(|reason| {
        extra.keep("conversation", value, Some(reason.into()));
        None
    })
}

/// A message whose fields are read.
#[derive(Default)]
struct Draft<'a> {
    id: Option<i64>,
    message: Message,
    embedded: Option<Value<'a>>,
    extra: Extra<'a>,
}

fn draft(raw: &[u8]) -> Result<Draft<'_>, Fault> {
    let mut draft = Draft::default();
    let Draft { id, message, embedded, extra } = &mut draft;
    let mut fields = Fields::of(raw)?;
    while let Some((name, value)) = fields.next()? {
        match &*name {
            b"id" => *id = extra.integer("id", value),
            b"conversation" => *embedded = Some(value),
            b"author" => message.author = extra.text("author", value),
            b"broadcast_id" => message.broadcast_id = extra.integer("broadcast_id", value),
            b"custom" => message.custom = extra.any("custom", value),
            b"date" => message.date = extra.time("date", value),
            b"flagged" => message.flagged = extra.flag("flagged", value),
            b"link_url" => message.link_url = extra.text("link_url", value),
            b"local_id" => message.local_id = extra.text("local_id", value),
            b"media" => message.media = extra.text("media", value),
            b"phone" => message.phone = extra.text("phone", value),
            b"status" => message.status = extra.text("status", value),
            b"super" => message.super_ = extra.integer("super", value),
            b"support" => message.support = extra.flag("support", value),
            b"target" => message.target = extra.text("target", value),
            b"text" => message.text = extra.text("text", value),
            b"type" => message.type_ = extra.text("type", value),
            b"updated" => message.updated = extra.time("updated", value),
            b"user" => message.user_id = extra.integer("user", value),
            name => extra.unknown(name, value),
        }
    }
    Ok(draft)
}
