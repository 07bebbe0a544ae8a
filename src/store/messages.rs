//! Messages into the mirror.

use std::collections::HashSet;

use sqlx::PgConnection;

use crate::api::model::Message;

use super::{StoreError, commit::column, copy::Copy};

/// Fewer rows than this are not worth the question which of them are new.
const COPY_FROM: usize = 50;

/// Writes those of `rows` (one per id, by ascending id) that are not older than what is held and differ from it;
/// returns how many. New ones go in by COPY.
pub(super) async fn write(connection: &mut PgConnection, rows: &[&Message]) -> Result<u64, StoreError> {
    if rows.len() < COPY_FROM {
        return upsert(connection, rows).await;
    }
    let held: HashSet<i64> = sqlx::query_scalar!(
        "SELECT id FROM heymarket.messages WHERE id = ANY ($1)",
        &column(rows, |row| row.id),
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(StoreError::query("looking for messages that are held"))?
    .into_iter()
    .collect();
    let (held, new): (Vec<&Message>, Vec<&Message>) = rows.iter().partition(|row| held.contains(&row.id));
    Ok(insert(connection, &new).await? + upsert(connection, &held).await?)
}

/// # Errors
/// A unique violation, which is transient, where another process has just written one of them.
async fn insert(connection: &mut PgConnection, rows: &[&Message]) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let statement = "COPY heymarket.messages (
            id, conversation_id, author, broadcast_id, custom, date, flagged, link_url, local_id, media,
            phone, status, super, support, target, text, type, updated, user_id, _extra)
        FROM STDIN (FORMAT binary)";
    let mut copy = Copy::begin(connection, statement, "writing new messages").await?;
    for row in rows {
        copy.row(20, |to| {
            to.bigint(row.id);
            to.bigint(row.conversation_id);
            to.text(&row.author);
            to.bigint(row.broadcast_id);
            to.jsonb(&row.custom);
            to.timestamptz(row.date);
            to.boolean(row.flagged);
            to.text(&row.link_url);
            to.text(&row.local_id);
            to.text(&row.media);
            to.text(&row.phone);
            to.text(&row.status);
            to.bigint(row.super_);
            to.boolean(row.support);
            to.text(&row.target);
            to.text(&row.text);
            to.text(&row.type_);
            to.timestamptz(row.updated);
            to.bigint(row.user_id);
            to.jsonb(&row.extra);
        })
        .await?;
    }
    copy.finish().await
}

/// Writes those of `rows` (one per id, by ascending id) that are not older than what is held and differ
/// from it; returns how many. The others are filtered by a join before the INSERT, since
/// `ON CONFLICT DO UPDATE ... WHERE false` would lock them.
async fn upsert(connection: &mut PgConnection, rows: &[&Message]) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    // The LIMIT keeps the planner at one index lookup per row, whatever it guesses of the batch.
    let written = sqlx::query!(
        r#"
        INSERT INTO heymarket.messages AS held (
            id, conversation_id, author, broadcast_id, custom, date, flagged, link_url, local_id, media,
            phone, status, super, support, target, text, type, updated, user_id, _extra, _synced_at)
        SELECT i.id, i.conversation_id, i.author, i.broadcast_id, i.custom, i.date, i.flagged,
               i.link_url, i.local_id, i.media, i.phone, i.status, i.super, i.support, i.target, i.text,
               i.type, i.updated, i.user_id, i._extra, now()
        FROM unnest(
            $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::text[]::jsonb[],
            $6::timestamptz[], $7::boolean[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::text[], $13::bigint[], $14::boolean[], $15::text[], $16::text[], $17::text[],
            $18::timestamptz[], $19::bigint[], $20::text[]::jsonb[]
        ) AS i (
            id, conversation_id, author, broadcast_id, custom, date, flagged, link_url, local_id, media,
            phone, status, super, support, target, text, type, updated, user_id, _extra)
        LEFT JOIN LATERAL (SELECT * FROM heymarket.messages m WHERE m.id = i.id LIMIT 1) h ON true
        WHERE h.id IS NULL
           OR coalesce(i.updated, '-infinity') >= coalesce(h.updated, '-infinity')
          AND (h._deleted_at IS NOT NULL
               OR (i.conversation_id, i.author, i.broadcast_id, i.custom, i.date, i.flagged, i.link_url,
                   i.local_id, i.media, i.phone, i.status, i.super, i.support, i.target, i.text, i.type,
                   i.updated, i.user_id, i._extra)
                  IS DISTINCT FROM
                  (h.conversation_id, h.author, h.broadcast_id, h.custom, h.date, h.flagged, h.link_url,
                   h.local_id, h.media, h.phone, h.status, h.super, h.support, h.target, h.text, h.type,
                   h.updated, h.user_id, h._extra))
        ON CONFLICT (id) DO UPDATE SET
            conversation_id = excluded.conversation_id, author = excluded.author,
            broadcast_id = excluded.broadcast_id, custom = excluded.custom, date = excluded.date,
            flagged = excluded.flagged, link_url = excluded.link_url, local_id = excluded.local_id,
            media = excluded.media, phone = excluded.phone, status = excluded.status,
            super = excluded.super, support = excluded.support, target = excluded.target,
            text = excluded.text, type = excluded.type, updated = excluded.updated,
            user_id = excluded.user_id, _extra = excluded._extra, _synced_at = excluded._synced_at,
            _deleted_at = NULL
        WHERE coalesce(excluded.updated, '-infinity') >= coalesce(held.updated, '-infinity')
        "#,
        &column(rows, |row| row.id),
        column(rows, |row| row.conversation_id) as _,
        column(rows, |row| row.author.as_deref()) as _,
        column(rows, |row| row.broadcast_id) as _,
        column(rows, |row| row.custom.as_ref().map(|json| json.0.as_str())) as _,
        column(rows, |row| row.date) as _,
        column(rows, |row| row.flagged) as _,
        column(rows, |row| row.link_url.as_deref()) as _,
        column(rows, |row| row.local_id.as_deref()) as _,
        column(rows, |row| row.media.as_deref()) as _,
        column(rows, |row| row.phone.as_deref()) as _,
        column(rows, |row| row.status.as_deref()) as _,
        column(rows, |row| row.super_) as _,
        column(rows, |row| row.support) as _,
        column(rows, |row| row.target.as_deref()) as _,
        column(rows, |row| row.text.as_deref()) as _,
        column(rows, |row| row.type_.as_deref()) as _,
        column(rows, |row| row.updated) as _,
        column(rows, |row| row.user_id) as _,
        column(rows, |row| row.extra.as_ref().map(|json| json.0.as_str())) as _,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("writing messages"))?;
    Ok(written.rows_affected())
}
