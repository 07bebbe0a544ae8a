//! Rows and times for the tests.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use compact_str::CompactString;
use heymarket_sync::api::model::{
    Contact, Conversation, Json, Member, Message, Note, Reject, Stream, Version,
};
use heymarket_sync::interval::Interval;
use heymarket_sync::store::LineKey;

pub fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap() + TimeDelta::microseconds(1)
}

pub fn span(start: i64, end: i64) -> Interval {
    Interval::new(Some(at(start)), at(end)).unwrap()
}

pub fn line(line: &str, pass: &str) -> LineKey {
    LineKey { stream: Stream::Messages, line: line.to_owned(), pass: pass.to_owned() }
}

pub fn some(text: &str) -> Option<CompactString> {
    Some(text.into())
}

pub fn json(text: &str) -> Option<Json> {
    Some(Json(text.to_owned()))
}

pub fn message(id: i64, version: Option<i64>, text: &str) -> Message {
    Message { id, updated: version.map(at), text: some(text), ..Message::default() }
}

pub fn conversation(id: i64, version: Option<i64>, name: &str) -> Conversation {
    Conversation { id, updated: version.map(at), name: some(name), ..Conversation::default() }
}

pub fn contact(id: i64, rev: Option<i64>, version: Option<i64>, first: &str) -> Contact {
    Contact { id, rev, updated: version.map(at), first: some(first), ..Contact::default() }
}

pub fn member(id: i64, name: &str) -> Member {
    Member { id, name: some(name) }
}

pub fn note(id: i64, text: &str) -> Note {
    Note { id: id.to_string().into(), text: some(text), ..Note::default() }
}

pub fn reject(source_id: &str, reason: &str) -> Reject {
    Reject {
        stream: Stream::Messages,
        source_id: Some(source_id.to_owned()),
        version: Version::default(),
        partial: true,
        embedded: false,
        reason: reason.to_owned(),
        payload: Bytes::from_static(b"{\x00\xff}"),
    }
}

pub fn whole_message() -> Message {
    Message {
        id: 1,
        conversation_id: Some(2),
        author: some("au"),
        broadcast_id: Some(3),
        custom: json(r#"{"a":1}"#),
        date: Some(at(11)),
        flagged: Some(true),
        link_url: some("li"),
        local_id: some("lo"),
        media: some("me"),
        phone: some("ph"),
        status: some("st"),
        super_: Some(4),
        support: Some(false),
        target: some("ta"),
        text: some("te"),
        type_: some("ty"),
        updated: Some(at(12)),
        user_id: Some(5),
        extra: json(r#"{"x":[]}"#),
        raw: Bytes::new(),
    }
}

pub fn whole_conversation() -> Conversation {
    Conversation {
        id: 1,
        assigned: Some(2),
        blocked: Some(true),
        channel: some("ch"),
        created: Some(at(11)),
        creator: Some(3),
        email_noti: Some(false),
        inbox: Some(4),
        last_inbound: Some(5),
        local_id: some("lo"),
        muted: Some(true),
        name: some("na"),
        noreply: some("no"),
        op: some("op"),
        read: Some(6),
        replied: Some(false),
        snooze_till: Some(at(12)),
        status: some("st"),
        super_: Some(7),
        support: Some(true),
        target: some("ta"),
        type_: some("ty"),
        updated: Some(at(13)),
        members: vec![member(8, "mo")],
        extra: json(r#"{"x":1}"#),
        raw: Bytes::new(),
    }
}

pub fn whole_contact() -> Contact {
    Contact {
        id: 1,
        avatar: some("av"),
        created: Some(at(11)),
        creator_id: Some(2),
        custom: json(r#"{"7":"v"}"#),
        display_name: some("di"),
        email: some("em"),
        external_id: some("ei"),
        external_ref: some("er"),
        first: some("fi"),
        inbox_id: Some(3),
        last: some("la"),
        op: some("op"),
        parent_id: Some(4),
        phone: some("ph"),
        rev: Some(5),
        shared: Some(true),
        team_id: Some(6),
        type_: some("ty"),
        updated: Some(at(12)),
        assigned_user_id: Some(7),
        tags: json(r#"["t"]"#),
        is_opted_out: Some(false),
        notes: vec![Note {
            id: "n1".into(),
            date: Some(at(14)),
            name: some("nn"),
            text: some("nt"),
            user_id: Some(9),
        }],
        extra: json(r#"{"x":2}"#),
        raw: Bytes::new(),
    }
}
