//! The rows of the team as the sandbox keeps and prints them. Fields and their JSON types are those of the
//! endpoint pages \[S\]; nothing here is shared with the client, so that a wrong name cannot pass on both sides.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::json::{self, Object};

/// What has an id, a last change and a JSON form.
pub trait Row: Clone {
    fn id(&self) -> i64;
    fn updated(&self) -> DateTime<Utc>;
}

/// A message; texts that many rows have in common are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    pub conversation_id: i64,
    pub author: Arc<str>,
    /// 0 where the message is no part of a broadcast.
    pub broadcast_id: i64,
    /// JSON text; `null` for most messages.
    pub custom: Arc<str>,
    pub date: DateTime<Utc>,
    pub flagged: bool,
    pub link_url: Arc<str>,
    pub local_id: Arc<str>,
    pub media: Arc<str>,
    pub phone: Arc<str>,
    pub status: Arc<str>,
    pub super_: i64,
    pub support: bool,
    pub target: Arc<str>,
    pub text: Arc<str>,
    pub type_: Arc<str>,
    pub updated: DateTime<Utc>,
    pub user: i64,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Conversation {
    pub id: i64,
    pub assigned: i64,
    pub blocked: bool,
    pub channel: Arc<str>,
    pub created: DateTime<Utc>,
    pub creator: i64,
    pub email_noti: bool,
    pub inbox: i64,
    /// Unix seconds; 0 where nothing came in yet.
    pub last_inbound: i64,
    pub local_id: Arc<str>,
    /// An id may be listed twice.
    pub members: Vec<Member>,
    pub muted: bool,
    pub name: Arc<str>,
    pub noreply: Arc<str>,
    pub op: Arc<str>,
    /// Unix seconds up to which it was read; unread while below `last_inbound`.
    pub read: i64,
    pub replied: bool,
    /// `None` is printed as Go's zero time.
    pub snooze_till: Option<DateTime<Utc>>,
    /// [`OPEN`] or [`CLOSED`].
    pub status: Arc<str>,
    pub super_: i64,
    pub support: bool,
    pub target: Arc<str>,
    pub type_: Arc<str>,
    pub updated: DateTime<Utc>,
}

/// The status of a conversation that is being worked on.
pub const OPEN: &str = "opened";
/// The status of a conversation that was closed.
pub const CLOSED: &str = "closed";

#[derive(Clone, PartialEq, Eq)]
pub struct Member {
    pub id: i64,
    pub name: Arc<str>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Contact {
    pub id: i64,
    pub avatar: Arc<str>,
    pub created: DateTime<Utc>,
    pub creator_id: i64,
    /// JSON text of an object: field id to value.
    pub custom: Arc<str>,
    pub display_name: Arc<str>,
    pub email: Arc<str>,
    pub external_id: Arc<str>,
    pub external_ref: Arc<str>,
    pub first: Arc<str>,
    pub inbox_id: i64,
    pub last: Arc<str>,
    /// The API's field is `note`; an id may be listed twice.
    pub notes: Vec<Note>,
    pub op: Arc<str>,
    pub parent_id: i64,
    pub phone: Arc<str>,
    pub rev: i64,
    pub shared: bool,
    pub team_id: i64,
    pub type_: Arc<str>,
    pub updated: DateTime<Utc>,
    pub assigned_user_id: i64,
    /// JSON text of an array.
    pub tags: Arc<str>,
    pub is_opted_out: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Note {
    pub date: DateTime<Utc>,
    pub id: Arc<str>,
    pub name: Arc<str>,
    pub text: Arc<str>,
    pub user_id: i64,
}

impl Row for Message {
    fn id(&self) -> i64 {
        self.id
    }

    fn updated(&self) -> DateTime<Utc> {
        self.updated
    }
}

impl Row for Conversation {
    fn id(&self) -> i64 {
        self.id
    }

    fn updated(&self) -> DateTime<Utc> {
        self.updated
    }
}

impl Row for Contact {
    fn id(&self) -> i64 {
        self.id
    }

    fn updated(&self) -> DateTime<Utc> {
        self.updated
    }
}

impl Message {
    /// A received text of no words, created and last changed at `at`.
    pub fn plain(id: i64, conversation_id: i64, at: DateTime<Utc>) -> Self {
        Self {
            id,
            conversation_id,
            author: Arc::default(),
            broadcast_id: 0,
            custom: Arc::from("null"),
            date: at,
            flagged: false,
            link_url: Arc::default(),
            local_id: Arc::default(),
            media: Arc::default(),
            phone: Arc::default(),
            status: Arc::from("received"),
            super_: 0,
            support: false,
            target: Arc::default(),
            text: Arc::default(),
            type_: Arc::from("text"),
            updated: at,
            user: 0,
        }
    }

    /// `conversation` writes the embedded conversation.
    pub(super) fn write(&self, out: &mut Vec<u8>, conversation: impl FnOnce(&mut Vec<u8>)) {
        let mut object = Object::open(out);
        object.text("author", &self.author);
        object.integer("broadcast_id", self.broadcast_id);
        conversation(object.value("conversation"));
        object.raw("custom", &self.custom);
        object.time("date", Some(self.date));
        object.flag("flagged", self.flagged);
        object.integer("id", self.id);
        object.text("link_url", &self.link_url);
        object.text("local_id", &self.local_id);
        object.text("media", &self.media);
        object.text("phone", &self.phone);
        object.text("status", &self.status);
        object.integer("super", self.super_);
        object.flag("support", self.support);
        object.text("target", &self.target);
        object.text("text", &self.text);
        object.text("type", &self.type_);
        object.time("updated", Some(self.updated));
        object.integer("user", self.user);
        object.close();
    }
}

impl Conversation {
    /// An open conversation with nothing in it, created and last changed at `at`.
    pub fn plain(id: i64, at: DateTime<Utc>) -> Self {
        Self {
            id,
            assigned: 0,
            blocked: false,
            channel: Arc::from("sms"),
            created: at,
            creator: 0,
            email_noti: false,
            inbox: 0,
            last_inbound: 0,
            local_id: Arc::default(),
            members: Vec::new(),
            muted: false,
            name: Arc::default(),
            noreply: Arc::default(),
            op: Arc::default(),
            read: 0,
            replied: false,
            snooze_till: None,
            status: Arc::from(OPEN),
            super_: 0,
            support: false,
            target: Arc::default(),
            type_: Arc::from("direct"),
            updated: at,
        }
    }

    pub fn is_closed(&self) -> bool {
        &*self.status == CLOSED
    }

    pub fn is_unread(&self) -> bool {
        self.last_inbound > self.read
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        object.integer("assigned", self.assigned);
        object.flag("blocked", self.blocked);
        object.text("channel", &self.channel);
        object.time("created", Some(self.created));
        object.integer("creator", self.creator);
        object.flag("email_noti", self.email_noti);
        object.integer("id", self.id);
        object.integer("inbox", self.inbox);
        object.integer("last_inbound", self.last_inbound);
        object.text("local_id", &self.local_id);
        json::array(object.value("members"), &self.members, |out, member| member.write(out));
        object.flag("muted", self.muted);
        object.text("name", &self.name);
        object.text("noreply", &self.noreply);
        object.text("op", &self.op);
        object.integer("read", self.read);
        object.flag("replied", self.replied);
        object.time("snooze_till", self.snooze_till);
        object.text("status", &self.status);
        object.integer("super", self.super_);
        object.flag("support", self.support);
        object.text("target", &self.target);
        object.text("type", &self.type_);
        object.time("updated", Some(self.updated));
        object.close();
    }
}

impl Member {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        object.integer("id", self.id);
        object.text("name", &self.name);
        object.close();
    }
}

impl Contact {
    /// A contact of whom nothing is known, created and last changed at `at`.
    pub fn plain(id: i64, at: DateTime<Utc>) -> Self {
        Self {
            id,
            avatar: Arc::default(),
            created: at,
            creator_id: 0,
            custom: Arc::from("{}"),
            display_name: Arc::default(),
            email: Arc::default(),
            external_id: Arc::default(),
            external_ref: Arc::default(),
            first: Arc::default(),
            inbox_id: 0,
            last: Arc::default(),
            notes: Vec::new(),
            op: Arc::default(),
            parent_id: 0,
            phone: Arc::default(),
            rev: 1,
            shared: true,
            team_id: 0,
            type_: Arc::from("person"),
            updated: at,
            assigned_user_id: 0,
            tags: Arc::from("[]"),
            is_opted_out: false,
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        object.text("avatar", &self.avatar);
        object.time("created", Some(self.created));
        object.integer("creator_id", self.creator_id);
        object.raw("custom", &self.custom);
        object.text("display_name", &self.display_name);
        object.text("email", &self.email);
        object.text("external_id", &self.external_id);
        object.text("external_ref", &self.external_ref);
        object.text("first", &self.first);
        object.integer("id", self.id);
        object.integer("inbox_id", self.inbox_id);
        object.text("last", &self.last);
        json::array(object.value("note"), &self.notes, |out, note| note.write(out));
        object.text("op", &self.op);
        object.integer("parent_id", self.parent_id);
        object.text("phone", &self.phone);
        object.integer("rev", self.rev);
        object.flag("shared", self.shared);
        object.integer("team_id", self.team_id);
        object.text("type", &self.type_);
        object.time("updated", Some(self.updated));
        object.integer("assigned_user_id", self.assigned_user_id);
        object.raw("tags", &self.tags);
        object.flag("is_opted_out", self.is_opted_out);
        object.close();
    }
}

impl Note {
    fn write(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        object.time("date", Some(self.date));
        object.text("id", &self.id);
        object.text("name", &self.name);
        object.text("text", &self.text);
        object.integer("user_id", self.user_id);
        object.close();
    }
}
