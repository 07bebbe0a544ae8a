//! What a page takes in memory once it is read, which its bytes alone do not bound: a row of a few bytes has as many
//! fields as any, and text grows where it must be mended.

use compact_str::CompactString;

use crate::api::model::{Contact, Conversation, Json, Message, Rows, Stream};

/// What is read of a page takes at most so many bytes more than its body.
pub const MAX_GROWTH: usize = 8 * 1024 * 1024;
/// For a small body, its length this many times, and [`FEW_ROWS`]: no more than an honest page needs, so that many
/// small pages are bounded together, too.
const GROWTH_FACTOR: usize = 16;
/// A page of a few rows is read whatever their length.
const FEW_ROWS: usize = 256 * 1024;
/// What the allocator adds to a piece.
const PIECE: usize = 16;

/// The most bytes that may be read of a body of `length`.
pub(super) fn most(length: usize) -> usize {
    length + MAX_GROWTH.min(length * GROWTH_FACTOR + FEW_ROWS)
}

/// The bytes that a row without any field takes.
pub(super) fn of_empty_row(stream: Stream) -> usize {
    match stream {
        Stream::Messages => size_of::<Message>(),
        Stream::Conversations => size_of::<Conversation>(),
        Stream::Contacts => size_of::<Contact>(),
    }
}

/// How much longer the text in `body` may become when it is mended and written as JSON: bytes that are not UTF-8
/// become three, control characters six. Not looked for in a body too short for more than [`MAX_GROWTH`].
pub(super) fn growth_of_text(body: &[u8]) -> usize {
    if body.len() <= MAX_GROWTH / 5 {
        return 0;
    }
    let broken: usize = body.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    let control = body.iter().filter(|byte| **byte < b' ' && !byte.is_ascii_whitespace()).count();
    2 * broken + 5 * control
}

/// How much of [`Rows`] was there before a row was read.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    messages: usize,
    conversations: usize,
    embedded: usize,
    contacts: usize,
    rejects: usize,
}

impl Mark {
    pub fn of(rows: &Rows) -> Self {
        Self {
            messages: rows.messages.len(),
            conversations: rows.conversations.len(),
            embedded: rows.embedded.len(),
            contacts: rows.contacts.len(),
            rejects: rows.rejects.len(),
        }
    }

    /// About the memory that what came after takes, the bodies' own bytes aside.
    pub fn since(self, rows: &Rows) -> usize {
        let rejects = rows.rejects[self.rejects..].iter().map(|reject| {
            size_of_val(reject)
                + reject.reason.len()
                + reject.source_id.as_ref().map_or(0, String::len)
                + 2 * PIECE
        });
        rows.messages[self.messages..].iter().map(Message::memory).sum::<usize>()
            + rows.conversations[self.conversations..].iter().map(Conversation::memory).sum::<usize>()
            + rows.embedded[self.embedded..].iter().map(Conversation::memory).sum::<usize>()
            + rows.contacts[self.contacts..].iter().map(Contact::memory).sum::<usize>()
            + rejects.sum::<usize>()
    }
}

fn text(text: &Option<CompactString>) -> usize {
    text.as_ref().filter(|text| text.is_heap_allocated()).map_or(0, |text| text.len() + PIECE)
}

fn json(json: &Option<Json>) -> usize {
    json.as_ref().map_or(0, |json| json.0.len() + PIECE)
}

impl Message {
    /// About the bytes that the row takes in memory, its raw bytes aside.
    pub fn memory(&self) -> usize {
        let texts = [
            &self.author,
            &self.link_url,
            &self.local_id,
            &self.media,
            &self.phone,
            &self.status,
            &self.target,
            &self.text,
            &self.type_,
        ];
        size_of::<Self>()
            + texts.into_iter().map(text).sum::<usize>()
            + json(&self.custom)
            + json(&self.extra)
    }
}

impl Conversation {
    /// About the bytes that the row takes in memory with its members, its raw bytes aside.
    pub fn memory(&self) -> usize {
        let texts = [
            &self.channel,
            &self.local_id,
            &self.name,
            &self.noreply,
            &self.op,
            &self.status,
            &self.target,
            &self.type_,
        ];
        let members = self.members.iter().map(|member| size_of_val(member) + text(&member.name));
        size_of::<Self>()
            + texts.into_iter().map(text).sum::<usize>()
            + members.sum::<usize>()
            + json(&self.extra)
    }
}

impl Contact {
    /// About the bytes that the row takes in memory with its notes, its raw bytes aside.
    pub fn memory(&self) -> usize {
        let texts = [
            &self.avatar,
            &self.display_name,
            &self.email,
            &self.external_id,
            &self.external_ref,
            &self.first,
            &self.last,
            &self.op,
            &self.phone,
            &self.type_,
        ];
        let notes = self
            .notes
            .iter()
            .map(|note| size_of_val(note) + note.id.len() + PIECE + text(&note.name) + text(&note.text));
        size_of::<Self>()
            + texts.into_iter().map(text).sum::<usize>()
            + notes.sum::<usize>()
            + json(&self.custom)
            + json(&self.tags)
            + json(&self.extra)
    }
}
