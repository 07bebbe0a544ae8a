-- The one rule of versions. PostgreSQL puts its body in place of each call, so it costs what the comparison costs.
CREATE FUNCTION heymarket_sync.supersedes(
    rev bigint, updated timestamptz, held_rev bigint, held_updated timestamptz, at_equality boolean
) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN rev <> held_rev THEN rev > held_rev
            WHEN updated <> held_updated THEN updated > held_updated
            ELSE at_equality END;
COMMENT ON FUNCTION heymarket_sync.supersedes(bigint, timestamptz, bigint, timestamptz, boolean) IS 'Whether a copy of a row, read later, replaces the one held: it has a greater rev, else a later updated. What is NULL in either copy decides nothing; at_equality says what happens where nothing decides.';

ALTER TABLE heymarket_sync.rejects
    ADD COLUMN cut_bytes  bigint,
    ADD COLUMN cut_sha256 bytea,
    DROP COLUMN identity;
ALTER TABLE heymarket_sync.rejects
    ADD COLUMN identity text NOT NULL GENERATED ALWAYS AS (
        coalesce('id ' || source_id, 'sha256 ' || encode(coalesce(cut_sha256, sha256(payload)), 'hex'))) STORED,
    ADD UNIQUE (stream, identity);
CREATE INDEX rejects_resolved_idx ON heymarket_sync.rejects (resolved_at) WHERE resolved_at IS NOT NULL;
COMMENT ON TABLE heymarket_sync.rejects IS 'Dead letters: rows, or parts of rows, that could not be read, as they came. Resolved ones are deleted after 30 days.';
COMMENT ON COLUMN heymarket_sync.rejects.payload IS 'The row''s bytes as they came; empty if they were not kept, since the payloads of open rejects take 1 GiB at most.';
COMMENT ON COLUMN heymarket_sync.rejects.cut_bytes IS 'How many bytes came, where the payload was not kept; NULL: the payload is what came.';
COMMENT ON COLUMN heymarket_sync.rejects.cut_sha256 IS 'SHA-256 of the bytes that came, where the payload was not kept; NULL: the payload is what came.';
COMMENT ON COLUMN heymarket_sync.rejects.last_seen IS 'When it was last written: first seen, seen with another payload, reason or version, or seen again after it was resolved. Reading it again unchanged writes nothing.';
COMMENT ON COLUMN heymarket_sync.rejects.times IS 'How often it was written, as last_seen tells; reading it again unchanged does not count.';
COMMENT ON COLUMN heymarket_sync.rejects.identity IS 'What tells one reject from another: the source''s id, else a digest of the bytes that came.';

CREATE TABLE heymarket_sync.reject_counts (
    slot       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream     text    NOT NULL,
    partial    boolean NOT NULL,
    open       bigint  NOT NULL,
    open_bytes bigint  NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE heymarket_sync.reject_counts IS 'How many rejects are open, kept by triggers on heymarket_sync.rejects. The sum over a stream counts: transactions at one time write different rows, so that none waits for another.';
COMMENT ON COLUMN heymarket_sync.reject_counts.slot IS 'Number of the row.';
COMMENT ON COLUMN heymarket_sync.reject_counts.stream IS 'heymarket_sync.rejects.stream.';
COMMENT ON COLUMN heymarket_sync.reject_counts.partial IS 'heymarket_sync.rejects.partial.';
COMMENT ON COLUMN heymarket_sync.reject_counts.open IS 'A part of the number of open rejects; may be negative.';
COMMENT ON COLUMN heymarket_sync.reject_counts.open_bytes IS 'A part of the bytes of their payloads; may be negative.';

CREATE FUNCTION heymarket_sync.count_rejects(stream text, partial boolean, open bigint, open_bytes bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE heymarket_sync.reject_counts c
    SET open = c.open + $3, open_bytes = c.open_bytes + $4
    WHERE c.slot = (
        SELECT s.slot FROM heymarket_sync.reject_counts s
        WHERE s.stream = $1 AND s.partial = $2 LIMIT 1 FOR UPDATE SKIP LOCKED);
    IF NOT FOUND THEN
        INSERT INTO heymarket_sync.reject_counts (stream, partial, open, open_bytes) VALUES ($1, $2, $3, $4);
    END IF;
END $$;
COMMENT ON FUNCTION heymarket_sync.count_rejects(text, boolean, bigint, bigint) IS 'Adds to the open rejects of a stream, in a row of heymarket_sync.reject_counts that no other transaction holds.';

CREATE FUNCTION heymarket_sync.rejects_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM heymarket_sync.count_rejects(d.stream, d.partial, d.open, d.bytes)
    FROM (SELECT n.stream, n.partial, count(*) AS open, sum(octet_length(n.payload))::bigint AS bytes
          FROM new_rows n WHERE n.resolved_at IS NULL GROUP BY n.stream, n.partial
          ORDER BY n.stream, n.partial) d;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION heymarket_sync.rejects_inserted() IS 'Counts open rejects that were added.';
CREATE FUNCTION heymarket_sync.rejects_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM heymarket_sync.count_rejects(d.stream, d.partial, d.open, d.bytes)
    FROM (SELECT r.stream, r.partial, sum(r.one)::bigint AS open, sum(r.one * r.bytes)::bigint AS bytes
          FROM (SELECT n.stream, n.partial, 1 AS one, octet_length(n.payload) AS bytes
                FROM new_rows n WHERE n.resolved_at IS NULL
                UNION ALL
                SELECT o.stream, o.partial, -1, octet_length(o.payload)
                FROM old_rows o WHERE o.resolved_at IS NULL) r
          GROUP BY r.stream, r.partial HAVING sum(r.one) <> 0 OR sum(r.one * r.bytes) <> 0
          ORDER BY r.stream, r.partial) d;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION heymarket_sync.rejects_updated() IS 'Counts rejects that were opened, resolved or changed.';
CREATE FUNCTION heymarket_sync.rejects_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM heymarket_sync.count_rejects(d.stream, d.partial, d.open, d.bytes)
    FROM (SELECT o.stream, o.partial, -count(*) AS open, -sum(octet_length(o.payload))::bigint AS bytes
          FROM old_rows o WHERE o.resolved_at IS NULL GROUP BY o.stream, o.partial
          ORDER BY o.stream, o.partial) d;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION heymarket_sync.rejects_deleted() IS 'Counts open rejects that were deleted.';
CREATE FUNCTION heymarket_sync.rejects_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM heymarket_sync.reject_counts;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION heymarket_sync.rejects_truncated() IS 'Begins counting anew.';

CREATE TRIGGER rejects_inserted AFTER INSERT ON heymarket_sync.rejects
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION heymarket_sync.rejects_inserted();
CREATE TRIGGER rejects_updated AFTER UPDATE ON heymarket_sync.rejects
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION heymarket_sync.rejects_updated();
CREATE TRIGGER rejects_deleted AFTER DELETE ON heymarket_sync.rejects
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION heymarket_sync.rejects_deleted();
CREATE TRIGGER rejects_truncated AFTER TRUNCATE ON heymarket_sync.rejects
    FOR EACH STATEMENT EXECUTE FUNCTION heymarket_sync.rejects_truncated();

INSERT INTO heymarket_sync.reject_counts (stream, partial, open, open_bytes)
SELECT stream, partial, count(*), sum(octet_length(payload))::bigint
FROM heymarket_sync.rejects WHERE resolved_at IS NULL GROUP BY stream, partial;
