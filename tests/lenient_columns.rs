//! Every field of the source lands in the column of its name.

use chrono::{DateTime, Utc};
use compact_str::CompactString;
use heymarket_sync::api::{
    lenient::read_page,
    model::{Contact, Conversation, Json, Member, Message, Note, Rows, Stream, TimeField},
};

fn read(stream: Stream, row: &str) -> Rows {
    let rows = read_page(stream, TimeField::Updated, &format!("[{row}]").into()).unwrap();
    assert_eq!(rows.rejects, []);
    rows
}

fn text(text: &str) -> Option<CompactString> {
    Some(text.into())
}

fn day(day: u32) -> Option<DateTime<Utc>> {
    Some(format!("2024-05-{day:02}T00:00:00Z").parse().unwrap())
}

const CONVERSATION: &str = r#"{"assigned":1,"blocked":true,"channel":"c1","created":"2024-05-01T00:00:00Z",
    "creator":2,"email_noti":false,"id":3,"inbox":4,"last_inbound":5,"local_id":"c2",
    "members":[{"id":6,"name":"c3"}],"muted":true,"name":"c4","noreply":"c5","op":"c6","read":7,"replied":false,
    "snooze_till":"2024-05-02T00:00:00Z","status":"c7","super":8,"support":true,"target":"c8","type":"c9",
    "updated":"2024-05-03T00:00:00Z"}"#;

fn expected_conversation() -> Conversation {
    Conversation {
        id: 3,
        assigned: Some(1),
        blocked: Some(true),
        channel: text("c1"),
        created: day(1),
        creator: Some(2),
        email_noti: Some(false),
        inbox: Some(4),
        last_inbound: Some(5),
        local_id: text("c2"),
        muted: Some(true),
        name: text("c4"),
        noreply: text("c5"),
        op: text("c6"),
        read: Some(7),
        replied: Some(false),
        snooze_till: day(2),
        status: text("c7"),
        super_: Some(8),
        support: Some(true),
        target: text("c8"),
        type_: text("c9"),
        updated: day(3),
        members: vec![Member { id: 6, name: text("c3") }],
        extra: None,
        raw: CONVERSATION.into(),
    }
}

#[test]
fn messages() {
    let row = format!(
        r#"{{"author":"m1","broadcast_id":1,"conversation":{CONVERSATION},"custom":{{"data":[1],"type":"x"}},
        "date":"2024-05-04T00:00:00Z","flagged":true,"id":2,"link_url":"m2","local_id":"m3","media":"m4",
        "phone":"m5","status":"m6","super":4,"support":false,"target":"m7","text":"m8","type":"m9",
        "updated":"2024-05-05T00:00:00Z","user":5}}"#
    );
    let rows = read(Stream::Messages, &row);
    let expected = Message {
        id: 2,
        conversation_id: Some(3),
        author: text("m1"),
        broadcast_id: Some(1),
        custom: Some(Json(r#"{"data":[1],"type":"x"}"#.to_owned())),
        date: day(4),
        flagged: Some(true),
        link_url: text("m2"),
        local_id: text("m3"),
        media: text("m4"),
        phone: text("m5"),
        status: text("m6"),
        super_: Some(4),
        support: Some(false),
        target: text("m7"),
        text: text("m8"),
        type_: text("m9"),
        updated: day(5),
        user_id: Some(5),
        extra: None,
        raw: row.into(),
    };
    assert_eq!(rows.messages, [expected]);
    assert_eq!(rows.embedded, [expected_conversation()]);
}

#[test]
fn conversations() {
    assert_eq!(read(Stream::Conversations, CONVERSATION).conversations, [expected_conversation()]);
}

#[test]
fn contacts() {
    let row = r#"{"avatar":"a","created":"2024-05-01T00:00:00Z","creator_id":1,"custom":{"9":"v"},
        "display_name":"b","email":"c","external_id":"d","external_ref":"e","first":"f","id":2,"inbox_id":3,
        "last":"g","note":[{"date":"2024-05-02T00:00:00Z","id":"h","name":"i","text":"j","user_id":4}],"op":"k",
        "parent_id":5,"phone":"l","rev":6,"shared":true,"team_id":7,"type":"m","updated":"2024-05-03T00:00:00Z",
        "assigned_user_id":8,"tags":["t",1],"is_opted_out":false}"#;
    let expected = Contact {
        id: 2,
        avatar: text("a"),
        created: day(1),
        creator_id: Some(1),
        custom: Some(Json(r#"{"9":"v"}"#.to_owned())),
        display_name: text("b"),
        email: text("c"),
        external_id: text("d"),
        external_ref: text("e"),
        first: text("f"),
        inbox_id: Some(3),
        last: text("g"),
        op: text("k"),
        parent_id: Some(5),
        phone: text("l"),
        rev: Some(6),
        shared: Some(true),
        team_id: Some(7),
        type_: text("m"),
        updated: day(3),
        assigned_user_id: Some(8),
        tags: Some(Json(r#"["t",1]"#.to_owned())),
        is_opted_out: Some(false),
        notes: vec![Note {
            id: "h".into(),
            date: day(2),
            name: text("i"),
            text: text("j"),
            user_id: Some(4),
        }],
        extra: None,
        raw: row.into(),
    };
    assert_eq!(read(Stream::Contacts, row).contacts, [expected]);
}
