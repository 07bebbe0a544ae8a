//! Messages into the mirror.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::Message;

use super::{
    StoreError,
    commit::column,
    copy::{self, copy},
};

/// Inserts those of `rows` that are not there yet; returns how many, and the others. Fails where another session inserts
/// one of them meanwhile ([`StoreError::is_duplicate`]).
pub(super) async fn insert_new<'a>(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[&'a Message],
) -> Result<(u64, Vec<&'a Message>), StoreError> {
    if rows.len() < copy::MIN_ROWS {
        return Ok((0, rows.to_vec()));
    }
    let held = held(connection, rows).await?;
    let (held, new): (Vec<_>, Vec<_>) = rows.iter().partition(|row| held.contains(&row.id));
    Ok((insert(connection, stamp, &new).await?, held))
}

async fn held(connection: &mut PgConnection, rows: &[&Message]) -> Result<HashSet<i64>, StoreError> {
    let ids = column(rows, |row| row.id);
    let held = sqlx::query_scalar!("SELECT id FROM heymarket.messages WHERE id = ANY ($1)", &ids);
    let held = held.fetch_all(connection).await.map_err(StoreError::query("looking for messages"))?;
    Ok(held.into_iter().collect())
}

async fn insert(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[&Message],
) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let statement = "COPY heymarket.messages (
            id, conversation_id, author, broadcast_id, custom, date, flagged, link_url, local_id, media,
            phone, status, super, support, target, text, type, updated, user_id, _extra, _synced_at)
        FROM STDIN (FORMAT binary)";
    let copied = copy(connection, statement, 21, rows, |row, tuples| {
        tuples.add(Some(row.id))?.add(row.conversation_id)?.add(row.author.as_deref())?;
        tuples.add(row.broadcast_id)?.add_json(row.custom.as_ref())?.add(row.date)?.add(row.flagged)?;
        tuples.add(row.link_url.as_deref())?.add(row.local_id.as_deref())?.add(row.media.as_deref())?;
        tuples.add(row.phone.as_deref())?.add(row.status.as_deref())?.add(row.super_)?.add(row.support)?;
        tuples.add(row.target.as_deref())?.add(row.text.as_deref())?.add(row.type_.as_deref())?;
        tuples.add(row.updated)?.add(row.user_id)?.add_json(row.extra.as_ref())?.add(Some(stamp))?;
        Ok(())
    });
    copied.await.map_err(StoreError::query("inserting messages"))
}

/// Writes, with `stamp`, those of `rows` (one per id, by ascending id) that are not older than what is held and differ
/// from it; returns how many. The others are filtered by a join before the INSERT, since
/// `ON CONFLICT DO UPDATE ... WHERE false` would lock them.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[&Message],
) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    // The LIMIT keeps the planner at one index lookup per row, whatever it guesses of the batch.
    // Arrays are unnested in a SELECT list, which hands on row by row; in FROM, the rows would be stored first.
    let written = sqlx::query!(
        r#"
        INSERT INTO heymarket.messages AS held (
            id, conversation_id, author, broadcast_id, custom, date, flagged, link_url, local_id, media,
            phone, status, super, support, target, text, type, updated, user_id, _extra, _synced_at)
        SELECT i.id, i.conversation_id, i.author, i.broadcast_id, i.custom, i.date, i.flagged,
               i.link_url, i.local_id, i.media, i.phone, i.status, i.super, i.support, i.target, i.text,
               i.type, i.updated, i.user_id, i._extra, $21::timestamptz
        FROM (
            SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS conversation_id,
                   unnest($3::text[]) AS author, unnest($4::bigint[]) AS broadcast_id,
                   unnest($5::text[])::jsonb AS custom, unnest($6::timestamptz[]) AS date,
                   unnest($7::boolean[]) AS flagged, unnest($8::text[]) AS link_url,
                   unnest($9::text[]) AS local_id, unnest($10::text[]) AS media,
                   unnest($11::text[]) AS phone, unnest($12::text[]) AS status,
                   unnest($13::bigint[]) AS super, unnest($14::boolean[]) AS support,
                   unnest($15::text[]) AS target, unnest($16::text[]) AS text, unnest($17::text[]) AS type,
                   unnest($18::timestamptz[]) AS updated, unnest($19::bigint[]) AS user_id,
                   unnest($20::text[])::jsonb AS _extra
        ) AS i
        LEFT JOIN LATERAL (SELECT * FROM heymarket.messages m WHERE m.id = i.id LIMIT 1) h ON true
        WHERE h.id IS NULL
           OR heymarket_sync.supersedes(NULL, i.updated, NULL, h.updated, true)
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
        WHERE heymarket_sync.supersedes(NULL, excluded.updated, NULL, held.updated, true)
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
        stamp,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("writing messages"))?;
    Ok(written.rows_affected())
}
