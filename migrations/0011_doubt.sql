ALTER TABLE heymarket_sync.coverage
    ADD COLUMN believed     tstzmultirange NOT NULL DEFAULT '{}',
    ADD COLUMN withdrawn_at timestamptz,
    ADD COLUMN withdrawals  integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN heymarket_sync.coverage.believed IS 'The part of covered that rests on empty answers alone: nothing was shown there. A row that turns up in it withdraws it.';
COMMENT ON COLUMN heymarket_sync.coverage.withdrawn_at IS 'When coverage was withdrawn last because rows contradicted it; NULL: never.';
COMMENT ON COLUMN heymarket_sync.coverage.withdrawals IS 'Such withdrawals in a row: the pause before the next doubles with each, from an hour to a day.';

CREATE TABLE heymarket_sync.contradictions (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream       text        NOT NULL,
    line         text        NOT NULL,
    source_id    bigint      NOT NULL,
    place        timestamptz NOT NULL,
    found_at     timestamptz NOT NULL DEFAULT now(),
    withdrawn_at timestamptz,
    resolved_at  timestamptz
);
CREATE INDEX contradictions_line_idx ON heymarket_sync.contradictions (stream, line, found_at);
CREATE INDEX contradictions_open_idx ON heymarket_sync.contradictions (stream, line) WHERE resolved_at IS NULL;
COMMENT ON TABLE heymarket_sync.contradictions IS 'Rows that the source showed where all rows were proved to be held, and that were not: the proof was wrong. Kept for 30 days.';
COMMENT ON COLUMN heymarket_sync.contradictions.id IS 'Number of the contradiction.';
COMMENT ON COLUMN heymarket_sync.contradictions.stream IS 'messages, conversations or contacts.';
COMMENT ON COLUMN heymarket_sync.contradictions.line IS 'The time line, as in coverage.';
COMMENT ON COLUMN heymarket_sync.contradictions.source_id IS 'The row''s id. It was written to the mirror when it was found.';
COMMENT ON COLUMN heymarket_sync.contradictions.place IS 'The row''s time on the line.';
COMMENT ON COLUMN heymarket_sync.contradictions.found_at IS 'When it was found.';
COMMENT ON COLUMN heymarket_sync.contradictions.withdrawn_at IS 'When the coverage around it was withdrawn, to be read again; NULL: not yet. Three within an hour on one line withdraw it.';
COMMENT ON COLUMN heymarket_sync.contradictions.resolved_at IS 'When a later walk over its place found no other; NULL: still open.';
