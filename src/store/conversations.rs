//! Conversations and their members into the mirror.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::{Conversation, Member};

use super::{StoreError, commit::column};

/// Writes, with `stamp`, those of `rows` (one per id, by ascending id) that are not older than what is held and differ
/// from it, themselves or in their members; returns their ids. An embedded one (the flag) is written only
/// if it is newer or nothing is held.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[(&Conversation, bool)],
) -> Result<Vec<i64>, StoreError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let members: Vec<(i64, &Member)> =
        rows.iter().flat_map(|(row, _)| row.members.iter().map(|member| (row.id, member))).collect();
    let written = write(connection, stamp, rows, &members).await?;
    if !written.is_empty() {
        let theirs: HashSet<i64> = written.iter().copied().collect();
        let members: Vec<_> = members.into_iter().filter(|(parent, _)| theirs.contains(parent)).collect();
        delete_missing(connection, &written, &members).await?;
        upsert_members(connection, &members).await?;
    }
    Ok(written)
}

/// Writes the conversations alone and returns the ids of those written: they are locked until the
/// transaction ends, and with them their members.
async fn write(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[(&Conversation, bool)],
    members: &[(i64, &Member)],
) -> Result<Vec<i64>, StoreError> {
    let embedded: Vec<i64> = rows.iter().filter(|(_, embedded)| *embedded).map(|(row, _)| row.id).collect();
    // The LIMITs keep the planner at one index lookup per row, whatever it guesses of the batch.
    // Arrays are unnested in a SELECT list, which hands on row by row; in FROM, the rows would be stored first.
    sqlx::query_scalar!(
        r#"
        INSERT INTO heymarket.conversations AS held (
            id, assigned, blocked, channel, created, creator, email_noti, inbox, last_inbound, local_id,
            muted, name, noreply, op, read, replied, snooze_till, status, super, support, target, type,
            updated, _extra, _synced_at)
        SELECT i.id, i.assigned, i.blocked, i.channel, i.created, i.creator, i.email_noti, i.inbox,
               i.last_inbound, i.local_id, i.muted, i.name, i.noreply, i.op, i.read, i.replied,
               i.snooze_till, i.status, i.super, i.support, i.target, i.type, i.updated, i._extra,
               $31::timestamptz
        FROM (
            SELECT unnest($1::bigint[]) AS id, unnest($2::bigint[]) AS assigned,
                   unnest($3::boolean[]) AS blocked, unnest($4::text[]) AS channel,
                   unnest($5::timestamptz[]) AS created, unnest($6::bigint[]) AS creator,
                   unnest($7::boolean[]) AS email_noti, unnest($8::bigint[]) AS inbox,
                   unnest($9::bigint[]) AS last_inbound, unnest($10::text[]) AS local_id,
                   unnest($11::boolean[]) AS muted, unnest($12::text[]) AS name,
                   unnest($13::text[]) AS noreply, unnest($14::text[]) AS op, unnest($15::bigint[]) AS read,
                   unnest($16::boolean[]) AS replied, unnest($17::timestamptz[]) AS snooze_till,
                   unnest($18::text[]) AS status, unnest($19::bigint[]) AS super,
                   unnest($20::boolean[]) AS support, unnest($21::text[]) AS target,
                   unnest($22::text[]) AS type, unnest($23::timestamptz[]) AS updated,
                   unnest($24::text[])::jsonb AS _extra, unnest($25::boolean[]) AS embedded,
                   unnest($26::bigint[]) AS members
        ) AS i
        LEFT JOIN LATERAL (SELECT * FROM heymarket.conversations p WHERE p.id = i.id LIMIT 1) h ON true
        WHERE h.id IS NULL
           OR heymarket_sync.supersedes(NULL, i.updated, NULL, h.updated, NOT i.embedded)
          AND (h._deleted_at IS NOT NULL
               OR (i.assigned, i.blocked, i.channel, i.created, i.creator, i.email_noti, i.inbox,
                   i.last_inbound, i.local_id, i.muted, i.name, i.noreply, i.op, i.read, i.replied,
                   i.snooze_till, i.status, i.super, i.support, i.target, i.type, i.updated, i._extra)
                  IS DISTINCT FROM
                  (h.assigned, h.blocked, h.channel, h.created, h.creator, h.email_noti, h.inbox,
                   h.last_inbound, h.local_id, h.muted, h.name, h.noreply, h.op, h.read, h.replied,
                   h.snooze_till, h.status, h.super, h.support, h.target, h.type, h.updated, h._extra)
               OR i.members <> (
                   SELECT count(*) FROM heymarket.conversation_members c WHERE c.conversation_id = i.id)
               OR i.id IN (
                   SELECT n.conversation_id
                   FROM unnest($27::bigint[], $28::bigint[], $29::text[]) AS n (conversation_id, id, name)
                   LEFT JOIN LATERAL (
                       SELECT * FROM heymarket.conversation_members c
                       WHERE c.conversation_id = n.conversation_id AND c.id = n.id LIMIT 1
                   ) h ON true
                   WHERE h.id IS NULL
                      OR n.name IS DISTINCT FROM h.name))
        ON CONFLICT (id) DO UPDATE SET
            assigned = excluded.assigned, blocked = excluded.blocked, channel = excluded.channel,
            created = excluded.created, creator = excluded.creator, email_noti = excluded.email_noti,
            inbox = excluded.inbox, last_inbound = excluded.last_inbound, local_id = excluded.local_id,
            muted = excluded.muted, name = excluded.name, noreply = excluded.noreply, op = excluded.op,
            read = excluded.read, replied = excluded.replied, snooze_till = excluded.snooze_till,
            status = excluded.status, super = excluded.super, support = excluded.support,
            target = excluded.target, type = excluded.type, updated = excluded.updated,
            _extra = excluded._extra, _synced_at = excluded._synced_at, _deleted_at = NULL
        WHERE heymarket_sync.supersedes(NULL, excluded.updated, NULL, held.updated, excluded.id <> ALL ($30))
        RETURNING held.id
        "#,
        &column(rows, |(row, _)| row.id),
        column(rows, |(row, _)| row.assigned) as _,
        column(rows, |(row, _)| row.blocked) as _,
        column(rows, |(row, _)| row.channel.as_deref()) as _,
        column(rows, |(row, _)| row.created) as _,
        column(rows, |(row, _)| row.creator) as _,
        column(rows, |(row, _)| row.email_noti) as _,
        column(rows, |(row, _)| row.inbox) as _,
        column(rows, |(row, _)| row.last_inbound) as _,
        column(rows, |(row, _)| row.local_id.as_deref()) as _,
        column(rows, |(row, _)| row.muted) as _,
        column(rows, |(row, _)| row.name.as_deref()) as _,
        column(rows, |(row, _)| row.noreply.as_deref()) as _,
        column(rows, |(row, _)| row.op.as_deref()) as _,
        column(rows, |(row, _)| row.read) as _,
        column(rows, |(row, _)| row.replied) as _,
        column(rows, |(row, _)| row.snooze_till) as _,
        column(rows, |(row, _)| row.status.as_deref()) as _,
        column(rows, |(row, _)| row.super_) as _,
        column(rows, |(row, _)| row.support) as _,
        column(rows, |(row, _)| row.target.as_deref()) as _,
        column(rows, |(row, _)| row.type_.as_deref()) as _,
        column(rows, |(row, _)| row.updated) as _,
        column(rows, |(row, _)| row.extra.as_ref().map(|json| json.0.as_str())) as _,
        &column(rows, |(_, embedded)| embedded),
        &column(rows, |(row, _)| row.members.len() as i64),
        &column(members, |(parent, _)| parent),
        &column(members, |(_, member)| member.id),
        column(members, |(_, member)| member.name.as_deref()) as _,
        &embedded,
        stamp,
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("writing conversations"))
}

/// Deletes the members of `written` that are not among `members`.
async fn delete_missing(
    connection: &mut PgConnection,
    written: &[i64],
    members: &[(i64, &Member)],
) -> Result<(), StoreError> {
    // By ctid, which needs no second lookup: their conversation is locked, so none of them moves.
    sqlx::query!(
        r#"
        DELETE FROM heymarket.conversation_members
        WHERE ctid = ANY (ARRAY(
            SELECT h.place
            FROM unnest($1::bigint[]) AS w (id)
            CROSS JOIN LATERAL (
                SELECT c.ctid AS place, c.id FROM heymarket.conversation_members c
                WHERE c.conversation_id = w.id OFFSET 0
            ) h
            WHERE NOT EXISTS (
                SELECT FROM unnest($2::bigint[], $3::bigint[]) AS n (conversation_id, id)
                WHERE n.conversation_id = w.id AND n.id = h.id)))
        "#,
        written,
        &column(members, |(parent, _)| parent),
        &column(members, |(_, member)| member.id),
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("deleting members that are gone"))?;
    Ok(())
}

/// Writes those of `members` that differ from what is held.
async fn upsert_members(connection: &mut PgConnection, members: &[(i64, &Member)]) -> Result<(), StoreError> {
    if members.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        INSERT INTO heymarket.conversation_members (conversation_id, id, name)
        SELECT n.conversation_id, n.id, n.name
        FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS n (conversation_id, id, name)
        LEFT JOIN LATERAL (
            SELECT * FROM heymarket.conversation_members c
            WHERE c.conversation_id = n.conversation_id AND c.id = n.id LIMIT 1
        ) h ON true
        WHERE h.id IS NULL
           OR n.name IS DISTINCT FROM h.name
        ON CONFLICT (conversation_id, id) DO UPDATE SET name = excluded.name
        "#,
        &column(members, |(parent, _)| parent),
        &column(members, |(_, member)| member.id),
        column(members, |(_, member)| member.name.as_deref()) as _,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("writing members"))?;
    Ok(())
}
