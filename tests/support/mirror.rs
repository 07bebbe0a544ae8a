//! Compares source and mirror, row by row and field by field.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use heymarket_sync::sandbox::{Endpoint, SandboxState};
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgPool};

/// Fields that the mirror keeps as times; Go's zero time is NULL there.
const TIMES: [&str; 4] = ["date", "created", "updated", "snooze_till"];
/// Differences that a failure lists.
const LISTED: usize = 10;

/// Panics with the first differences between the sandbox's rows and those of the database.
pub async fn assert_equals(source: &SandboxState, pool: &PgPool) {
    let differences = differences(source, pool).await;
    assert!(
        differences.is_empty(),
        "{} differences, such as\n{}",
        differences.len(),
        differences[..differences.len().min(LISTED)].join("\n")
    );
}

/// Every row of the source that the mirror lacks or has otherwise, and every row it has beyond.
pub async fn differences(source: &SandboxState, pool: &PgPool) -> Vec<String> {
    let mut found = Vec::new();
    for (endpoint, table) in [
        (Endpoint::Messages, "messages"),
        (Endpoint::Conversations, "conversations"),
        (Endpoint::Contacts, "contacts"),
    ] {
        let mut expected = BTreeMap::new();
        source.for_each_printed(endpoint, |id, row| {
            expected.insert(id, as_mirrored(endpoint, serde_json::from_slice(row).unwrap()));
        });
        let children = match endpoint {
            Endpoint::Conversations => {
                ", (SELECT coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'name', c.name) ORDER BY c.id), '[]')
                    FROM heymarket.conversation_members c WHERE c.conversation_id = m.id) AS members"
            }
            Endpoint::Contacts => {
                ", (SELECT coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'date', c.date, 'name', c.name,
                           'text', c.text, 'user_id', c.user_id) ORDER BY c.id COLLATE \"C\"), '[]')
                    FROM heymarket.contact_notes c WHERE c.contact_id = m.id) AS note"
            }
            _ => "",
        };
        let sql = format!(
            "SELECT (to_jsonb(q) - '_synced_at')::text FROM (SELECT m.*{children} FROM heymarket.{table} m) q"
        );
        let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch(pool);
        while let Some(row) = rows.try_next().await.unwrap() {
            let held = normal_times(serde_json::from_str(&row).unwrap());
            let id = held["id"].as_i64().unwrap();
            match expected.remove(&id) {
                None => found.push(format!("{table} {id}: not at the source")),
                Some(wanted) if wanted == held => {}
                Some(wanted) => found.push(format!("{table} {id}: {}", unlike(&wanted, &held))),
            }
        }
        found.extend(expected.keys().map(|id| format!("{table} {id}: missing")));
    }
    found
}

fn unlike(wanted: &Map<String, Value>, held: &Map<String, Value>) -> String {
    let names = wanted.keys().chain(held.keys().filter(|name| !wanted.contains_key(*name)));
    names
        .filter(|name| wanted.get(*name) != held.get(*name))
        .map(|name| format!("{name}: source {:?}, mirror {:?}", wanted.get(name), held.get(name)))
        .collect::<Vec<_>>()
        .join("; ")
}

/// A row of the API as the mirror's columns are to hold it, by the contract.
fn as_mirrored(endpoint: Endpoint, row: Value) -> Map<String, Value> {
    let Value::Object(mut row) = row else { panic!("a row is an object") };
    match endpoint {
        Endpoint::Messages => {
            let conversation = row.remove("conversation").unwrap_or_default();
            row.insert("conversation_id".into(), conversation.get("id").cloned().unwrap_or_default());
            let user = row.remove("user").unwrap_or_default();
            row.insert("user_id".into(), user);
        }
        Endpoint::Conversations => {
            let members = row.remove("members").unwrap_or_default();
            row.insert("members".into(), by_id(members));
        }
        _ => {
            let notes = row.remove("note").unwrap_or_default();
            row.insert("note".into(), by_id(notes));
            row.entry("is_opted_out").or_insert(Value::Null);
        }
    }
    row.insert("_extra".into(), Value::Null);
    row.insert("_deleted_at".into(), Value::Null);
    normal_times(Value::Object(row))
}

/// One entry per id, the later one, by ascending id.
fn by_id(entries: Value) -> Value {
    let Value::Array(entries) = entries else { return Value::Array(Vec::new()) };
    let mut numbers = BTreeMap::new();
    let mut texts = BTreeMap::new();
    for entry in entries {
        match &entry["id"] {
            Value::String(id) => drop(texts.insert(id.clone(), entry)),
            id => drop(numbers.insert(id.as_i64(), entry)),
        }
    }
    numbers.into_values().chain(texts.into_values()).collect()
}

fn normal_times(row: Value) -> Map<String, Value> {
    let Value::Object(mut row) = row else { panic!("a row is an object") };
    for (name, value) in &mut row {
        if TIMES.contains(&name.as_str()) {
            *value = normal_time(value);
        } else if let Value::Array(children) = value {
            for date in children.iter_mut().filter_map(|child| child.get_mut("date")) {
                *date = normal_time(date);
            }
        }
    }
    row
}

fn normal_time(value: &Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() || text.starts_with("0001-01-01T00:00:00") {
        return Value::Null;
    }
    let time: DateTime<Utc> = text.parse().unwrap();
    time.timestamp_micros().into()
}
