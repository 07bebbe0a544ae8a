//! Contacts and their notes into the mirror.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::api::model::{Contact, Note};

use super::{StoreError, commit::column};

/// Writes, with `stamp`, those of `rows` (one per id, by ascending id) that are not older than what is held and differ
/// from it, themselves or in their notes; returns how many. The version is `rev`, then `updated`.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[&Contact],
) -> Result<u64, StoreError> {
    if rows.is_empty() {
        return Ok(0);
    }
    let notes: Vec<(i64, &Note)> =
        rows.iter().flat_map(|row| row.notes.iter().map(|note| (row.id, note))).collect();
    let written = write(connection, stamp, rows, &notes).await?;
    if !written.is_empty() {
        let theirs: HashSet<i64> = written.iter().copied().collect();
        let notes: Vec<_> = notes.into_iter().filter(|(parent, _)| theirs.contains(parent)).collect();
        delete_missing(connection, &written, &notes).await?;
        upsert_notes(connection, &notes).await?;
    }
    Ok(written.len() as u64)
}

/// Writes the contacts alone and returns the ids of those written: they are locked until the
/// transaction ends, and with them their notes.
async fn write(
    connection: &mut PgConnection,
    stamp: DateTime<Utc>,
    rows: &[&Contact],
    notes: &[(i64, &Note)],
) -> Result<Vec<i64>, StoreError> {
    // The LIMITs keep the planner at one index lookup per row, whatever it guesses of the batch.
    // Arrays are unnested in a SELECT list, which hands on row by row; in FROM, the rows would be stored first.
    sqlx::query_scalar!(
        r#"
        INSERT INTO heymarket.contacts AS held (
            id, avatar, created, creator_id, custom, display_name, email, external_id, external_ref,
            first, inbox_id, last, op, parent_id, phone, rev, shared, team_id, type, updated,
            assigned_user_id, tags, is_opted_out, _extra, _synced_at)
        SELECT i.id, i.avatar, i.created, i.creator_id, i.custom, i.display_name, i.email,
               i.external_id, i.external_ref, i.first, i.inbox_id, i.last, i.op, i.parent_id, i.phone,
               i.rev, i.shared, i.team_id, i.type, i.updated, i.assigned_user_id, i.tags,
               i.is_opted_out, i._extra, $32::timestamptz
        FROM (
            SELECT unnest($1::bigint[]) AS id, unnest($2::text[]) AS avatar,
                   unnest($3::timestamptz[]) AS created, unnest($4::bigint[]) AS creator_id,
                   unnest($5::text[])::jsonb AS custom, unnest($6::text[]) AS display_name,
                   unnest($7::text[]) AS email, unnest($8::text[]) AS external_id,
                   unnest($9::text[]) AS external_ref, unnest($10::text[]) AS first,
                   unnest($11::bigint[]) AS inbox_id, unnest($12::text[]) AS last,
                   unnest($13::text[]) AS op, unnest($14::bigint[]) AS parent_id,
                   unnest($15::text[]) AS phone, unnest($16::bigint[]) AS rev,
                   unnest($17::boolean[]) AS shared, unnest($18::bigint[]) AS team_id,
                   unnest($19::text[]) AS type, unnest($20::timestamptz[]) AS updated,
                   unnest($21::bigint[]) AS assigned_user_id, unnest($22::text[])::jsonb AS tags,
                   unnest($23::boolean[]) AS is_opted_out, unnest($24::text[])::jsonb AS _extra,
                   unnest($25::bigint[]) AS notes
        ) AS i
        LEFT JOIN LATERAL (SELECT * FROM heymarket.contacts p WHERE p.id = i.id LIMIT 1) h ON true
        WHERE h.id IS NULL
           OR heymarket_sync.supersedes(i.rev, i.updated, h.rev, h.updated, true)
          AND (h._deleted_at IS NOT NULL
               OR (i.avatar, i.created, i.creator_id, i.custom, i.display_name, i.email, i.external_id,
                   i.external_ref, i.first, i.inbox_id, i.last, i.op, i.parent_id, i.phone, i.rev,
                   i.shared, i.team_id, i.type, i.updated, i.assigned_user_id, i.tags, i.is_opted_out,
                   i._extra)
                  IS DISTINCT FROM
                  (h.avatar, h.created, h.creator_id, h.custom, h.display_name, h.email, h.external_id,
                   h.external_ref, h.first, h.inbox_id, h.last, h.op, h.parent_id, h.phone, h.rev,
                   h.shared, h.team_id, h.type, h.updated, h.assigned_user_id, h.tags, h.is_opted_out,
                   h._extra)
               OR i.notes <> (SELECT count(*) FROM heymarket.contact_notes c WHERE c.contact_id = i.id)
               OR i.id IN (
                   SELECT n.contact_id
                   FROM unnest(
                       $26::bigint[], $27::text[], $28::timestamptz[], $29::text[], $30::text[], $31::bigint[]
                   ) AS n (contact_id, id, date, name, text, user_id)
                   LEFT JOIN LATERAL (
                       SELECT * FROM heymarket.contact_notes c
                       WHERE c.contact_id = n.contact_id AND c.id = n.id LIMIT 1
                   ) h ON true
                   WHERE h.id IS NULL
                      OR (n.date, n.name, n.text, n.user_id)
                         IS DISTINCT FROM (h.date, h.name, h.text, h.user_id)))
        ON CONFLICT (id) DO UPDATE SET
            avatar = excluded.avatar, created = excluded.created, creator_id = excluded.creator_id,
            custom = excluded.custom, display_name = excluded.display_name, email = excluded.email,
            external_id = excluded.external_id, external_ref = excluded.external_ref,
            first = excluded.first, inbox_id = excluded.inbox_id, last = excluded.last,
            op = excluded.op, parent_id = excluded.parent_id, phone = excluded.phone,
            rev = excluded.rev, shared = excluded.shared, team_id = excluded.team_id,
            type = excluded.type, updated = excluded.updated,
            assigned_user_id = excluded.assigned_user_id, tags = excluded.tags,
            is_opted_out = excluded.is_opted_out, _extra = excluded._extra,
            _synced_at = excluded._synced_at, _deleted_at = NULL
        WHERE heymarket_sync.supersedes(excluded.rev, excluded.updated, held.rev, held.updated, true)
        RETURNING held.id
        "#,
        &column(rows, |row| row.id),
        column(rows, |row| row.avatar.as_deref()) as _,
        column(rows, |row| row.created) as _,
        column(rows, |row| row.creator_id) as _,
        column(rows, |row| row.custom.as_ref().map(|json| json.0.as_str())) as _,
        column(rows, |row| row.display_name.as_deref()) as _,
        column(rows, |row| row.email.as_deref()) as _,
        column(rows, |row| row.external_id.as_deref()) as _,
        column(rows, |row| row.external_ref.as_deref()) as _,
        column(rows, |row| row.first.as_deref()) as _,
        column(rows, |row| row.inbox_id) as _,
        column(rows, |row| row.last.as_deref()) as _,
        column(rows, |row| row.op.as_deref()) as _,
        column(rows, |row| row.parent_id) as _,
        column(rows, |row| row.phone.as_deref()) as _,
        column(rows, |row| row.rev) as _,
        column(rows, |row| row.shared) as _,
        column(rows, |row| row.team_id) as _,
        column(rows, |row| row.type_.as_deref()) as _,
        column(rows, |row| row.updated) as _,
        column(rows, |row| row.assigned_user_id) as _,
        column(rows, |row| row.tags.as_ref().map(|json| json.0.as_str())) as _,
        column(rows, |row| row.is_opted_out) as _,
        column(rows, |row| row.extra.as_ref().map(|json| json.0.as_str())) as _,
        &column(rows, |row| row.notes.len() as i64),
        &column(notes, |(parent, _)| parent),
        column(notes, |(_, note)| note.id.as_str()) as _,
        column(notes, |(_, note)| note.date) as _,
        column(notes, |(_, note)| note.name.as_deref()) as _,
        column(notes, |(_, note)| note.text.as_deref()) as _,
        column(notes, |(_, note)| note.user_id) as _,
        stamp,
    )
    .fetch_all(connection)
    .await
    .map_err(StoreError::query("writing contacts"))
}

/// Deletes the notes of `written` that are not among `notes`.
async fn delete_missing(
    connection: &mut PgConnection,
    written: &[i64],
    notes: &[(i64, &Note)],
) -> Result<(), StoreError> {
    // By ctid, which needs no second lookup: their contact is locked, so none of them moves.
    sqlx::query!(
        r#"
        DELETE FROM heymarket.contact_notes
        WHERE ctid = ANY (ARRAY(
            SELECT h.place
            FROM unnest($1::bigint[]) AS w (id)
            CROSS JOIN LATERAL (
                SELECT c.ctid AS place, c.id FROM heymarket.contact_notes c
                WHERE c.contact_id = w.id OFFSET 0
            ) h
            WHERE NOT EXISTS (
                SELECT FROM unnest($2::bigint[], $3::text[]) AS n (contact_id, id)
                WHERE n.contact_id = w.id AND n.id = h.id)))
        "#,
        written,
        &column(notes, |(parent, _)| parent),
        column(notes, |(_, note)| note.id.as_str()) as _,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("deleting notes that are gone"))?;
    Ok(())
}

/// Writes those of `notes` that differ from what is held.
async fn upsert_notes(connection: &mut PgConnection, notes: &[(i64, &Note)]) -> Result<(), StoreError> {
    if notes.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        INSERT INTO heymarket.contact_notes (contact_id, id, date, name, text, user_id)
        SELECT n.contact_id, n.id, n.date, n.name, n.text, n.user_id
        FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::bigint[])
             AS n (contact_id, id, date, name, text, user_id)
        LEFT JOIN LATERAL (
            SELECT * FROM heymarket.contact_notes c
            WHERE c.contact_id = n.contact_id AND c.id = n.id LIMIT 1
        ) h ON true
        WHERE h.id IS NULL
           OR (n.date, n.name, n.text, n.user_id) IS DISTINCT FROM (h.date, h.name, h.text, h.user_id)
        ON CONFLICT (contact_id, id) DO UPDATE SET
            date = excluded.date, name = excluded.name, text = excluded.text, user_id = excluded.user_id
        "#,
        &column(notes, |(parent, _)| parent),
        column(notes, |(_, note)| note.id.as_str()) as _,
        column(notes, |(_, note)| note.date) as _,
        column(notes, |(_, note)| note.name.as_deref()) as _,
        column(notes, |(_, note)| note.text.as_deref()) as _,
        column(notes, |(_, note)| note.user_id) as _,
    )
    .execute(connection)
    .await
    .map_err(StoreError::query("writing notes"))?;
    Ok(())
}
