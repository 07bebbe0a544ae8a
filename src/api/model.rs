//! The rows of the source as the mirror keeps them. Field names are the API's \[S\]; only `user` is
//! `user_id` and a message's `conversation` is `conversation_id`, as in the mirror's columns.

use std::{cmp::Ordering, fmt, str::FromStr};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use compact_str::CompactString;

/// What is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    Messages,
    Conversations,
    Contacts,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Messages, Self::Conversations, Self::Contacts];

    /// The name used in configuration, SQL, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::Contacts => "contacts",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Stream {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|stream| stream.name() == name)
            .ok_or_else(|| format!("unknown stream {name:?}: one of messages, conversations, contacts"))
    }
}

/// The field that places a row on a time line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimeField {
    /// A message's creation.
    Date,
    /// A row's last change.
    Updated,
}

/// What tells the copies of a row apart, as far as it could be read: `rev` (contacts), then `updated`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    pub rev: Option<i64>,
    pub updated: Option<DateTime<Utc>>,
}

impl Version {
    /// Returns how this version compares with `other`: the greater `rev` is newer, then the later `updated`. What is
    /// missing in one of them decides nothing. `Equal` says that nothing decides: then the copy read later is to win,
    /// unless it came embedded in a message. `heymarket_sync.supersedes` is the same rule for PostgreSQL.
    ///
    /// It orders no set of versions: where some lack a `rev`, three of them can beat each other in a circle. So it is
    /// applied to two copies at a time, in the order in which they were read.
    pub fn against(self, other: Self) -> Ordering {
        known(self.rev, other.rev).then(known(self.updated, other.updated))
    }

    /// Whether what comes of a copy of this version, read after one of version `earlier`, is the same for every version
    /// that is held when only the newer of the two is written.
    pub fn covers(self, earlier: Self) -> bool {
        fn is_no_less<T: Ord>(this: Option<T>, other: Option<T>) -> bool {
            this.is_some() == other.is_some() && this >= other
        }
        is_no_less(self.rev, earlier.rev) && is_no_less(self.updated, earlier.updated)
    }
}

/// How two values compare, if both are known.
fn known<T: Ord>(one: Option<T>, other: Option<T>) -> Ordering {
    one.zip(other).map_or(Ordering::Equal, |(one, other)| one.cmp(&other))
}

/// JSON text that PostgreSQL's `jsonb` accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(pub String);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    pub conversation_id: Option<i64>,
    pub author: Option<CompactString>,
    pub broadcast_id: Option<i64>,
    pub custom: Option<Json>,
    pub date: Option<DateTime<Utc>>,
    pub flagged: Option<bool>,
    pub link_url: Option<CompactString>,
    pub local_id: Option<CompactString>,
    pub media: Option<CompactString>,
    pub phone: Option<CompactString>,
    pub status: Option<CompactString>,
    pub super_: Option<i64>,
    pub support: Option<bool>,
    pub target: Option<CompactString>,
    pub text: Option<CompactString>,
    pub type_: Option<CompactString>,
    pub updated: Option<DateTime<Utc>>,
    pub user_id: Option<i64>,
    /// Unknown fields, and raw values of known fields that could not be read.
    pub extra: Option<Json>,
    /// The row's bytes as they came, a slice of its page's body; empty if it was not read from any.
    pub raw: Bytes,
}

impl Message {
    pub fn version(&self) -> Version {
        Version { rev: None, updated: self.updated }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    pub id: i64,
    pub assigned: Option<i64>,
    pub blocked: Option<bool>,
    pub channel: Option<CompactString>,
    pub created: Option<DateTime<Utc>>,
    pub creator: Option<i64>,
    pub email_noti: Option<bool>,
    pub inbox: Option<i64>,
    pub last_inbound: Option<i64>,
    pub local_id: Option<CompactString>,
    pub muted: Option<bool>,
    pub name: Option<CompactString>,
    pub noreply: Option<CompactString>,
    pub op: Option<CompactString>,
    pub read: Option<i64>,
    pub replied: Option<bool>,
    pub snooze_till: Option<DateTime<Utc>>,
    pub status: Option<CompactString>,
    pub super_: Option<i64>,
    pub support: Option<bool>,
    pub target: Option<CompactString>,
    pub type_: Option<CompactString>,
    pub updated: Option<DateTime<Utc>>,
    /// One entry per member id; of an id listed twice, the later one.
    pub members: Vec<Member>,
    pub extra: Option<Json>,
    /// The row's bytes as they came, a slice of its page's body; empty if it was not read from any.
    pub raw: Bytes,
}

impl Conversation {
    pub fn version(&self) -> Version {
        Version { rev: None, updated: self.updated }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: i64,
    pub name: Option<CompactString>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    pub id: i64,
    pub avatar: Option<CompactString>,
    pub created: Option<DateTime<Utc>>,
    pub creator_id: Option<i64>,
    pub custom: Option<Json>,
    pub display_name: Option<CompactString>,
    pub email: Option<CompactString>,
    pub external_id: Option<CompactString>,
    pub external_ref: Option<CompactString>,
    pub first: Option<CompactString>,
    pub inbox_id: Option<i64>,
    pub last: Option<CompactString>,
    pub op: Option<CompactString>,
    pub parent_id: Option<i64>,
    pub phone: Option<CompactString>,
    pub rev: Option<i64>,
    pub shared: Option<bool>,
    pub team_id: Option<i64>,
    pub type_: Option<CompactString>,
    pub updated: Option<DateTime<Utc>>,
    pub assigned_user_id: Option<i64>,
    pub tags: Option<Json>,
    pub is_opted_out: Option<bool>,
    /// One entry per note id; of an id listed twice, the later one.
    pub notes: Vec<Note>,
    pub extra: Option<Json>,
    /// The row's bytes as they came, a slice of its page's body; empty if it was not read from any.
    pub raw: Bytes,
}

impl Contact {
    pub fn version(&self) -> Version {
        Version { rev: self.rev, updated: self.updated }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub id: CompactString,
    pub date: Option<DateTime<Utc>>,
    pub name: Option<CompactString>,
    pub text: Option<CompactString>,
    pub user_id: Option<i64>,
}

/// A row, or a part of one, that could not be read, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub stream: Stream,
    /// The row's id as text, where it is known.
    pub source_id: Option<String>,
    /// The row's version, as far as it could be read: only a row as new resolves the reject.
    pub version: Version,
    /// The row landed, without the fields that `reason` names.
    pub partial: bool,
    /// The row came embedded in a message, and so lands only if it is newer than what is held.
    pub embedded: bool,
    /// Which fields could not be read and why; never holds a value of the row.
    pub reason: String,
    /// The row's bytes as they came, a slice of its page's body.
    pub payload: Bytes,
}

/// The body of a page that was no list of rows, cut to a length that can be kept.
#[derive(Clone, PartialEq, Eq)]
pub struct UnreadableBody {
    /// Its first bytes as they came, [`UnreadableBody::MAX_KEPT`] at most.
    pub kept: Bytes,
    /// Bytes of the whole.
    pub length: usize,
}

impl UnreadableBody {
    /// The most bytes that are kept.
    pub const MAX_KEPT: usize = 64 * 1024;

    pub fn of(body: &[u8]) -> Self {
        Self { kept: Bytes::copy_from_slice(&body[..body.len().min(Self::MAX_KEPT)]), length: body.len() }
    }
}

impl fmt::Debug for UnreadableBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}

/// One element of a page: its time on the page's time line, where it has one that can be read, and its id. An element
/// whose id cannot be read goes by a number made from its bytes: the same bytes have the same number.
pub type Listed = (Option<DateTime<Utc>>, i64);

/// What one page brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub messages: Vec<Message>,
    /// Rows of the conversations endpoints.
    pub conversations: Vec<Conversation>,
    /// Conversations embedded in messages; they never overwrite an equal version.
    pub embedded: Vec<Conversation>,
    pub contacts: Vec<Contact>,
    pub rejects: Vec<Reject>,
    /// The elements of the page's array, in its order.
    pub listed: Vec<Listed>,
    /// How many elements the page's array had, readable or not.
    pub elements: usize,
}

impl Rows {
    /// Time and id of the rows that have a time, in the page's order.
    pub fn placed(&self) -> impl Iterator<Item = (DateTime<Utc>, i64)> + '_ {
        self.listed.iter().filter_map(|(time, id)| Some(((*time)?, *id)))
    }

    /// Length of the rows' and rejects' own bytes: about the memory that what was read of them takes.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|row| row.raw.len()).sum::<usize>()
            + self.conversations.iter().map(|row| row.raw.len()).sum::<usize>()
            + self.contacts.iter().map(|row| row.raw.len()).sum::<usize>()
            + self.rejects.iter().map(|reject| reject.payload.len()).sum::<usize>()
    }
}
