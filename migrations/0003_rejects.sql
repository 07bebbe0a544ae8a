ALTER TABLE heymarket_sync.rejects
    ADD COLUMN line               text,
    ADD COLUMN pass               text,
    ADD COLUMN below              timestamptz,
    ADD COLUMN retry_requested_at timestamptz;
CREATE INDEX rejects_page_idx ON heymarket_sync.rejects (stream, line, pass)
    WHERE resolved_at IS NULL AND line IS NOT NULL;
CREATE INDEX rejects_retry_idx ON heymarket_sync.rejects (id) WHERE retry_requested_at IS NOT NULL;
COMMENT ON COLUMN heymarket_sync.rejects.line IS 'Of a whole page that was no list of rows: the time line, as in coverage; NULL for rows.';
COMMENT ON COLUMN heymarket_sync.rejects.pass IS 'Of a whole page: the pass, as in coverage; NULL for rows.';
COMMENT ON COLUMN heymarket_sync.rejects.below IS 'Of a whole page: the time below which rows were asked for; resolved when what lies right below is held. NULL for rows.';
COMMENT ON COLUMN heymarket_sync.rejects.retry_requested_at IS 'When another try was asked for with rejects retry; NULL: none is waiting.';
