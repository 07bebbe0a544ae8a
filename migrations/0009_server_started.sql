ALTER TABLE heymarket_sync.uncrashed
    ADD COLUMN server_started timestamptz NOT NULL DEFAULT pg_postmaster_start_time();
COMMENT ON TABLE heymarket_sync.uncrashed IS 'The lease''s epoch, if it was taken since the server last crashed. A crash empties the table, and may undo the transactions that were committed last: whoever leads then begins anew.';
COMMENT ON COLUMN heymarket_sync.uncrashed.server_started IS 'When the server was started: another start is another server, or an older state of this one.';
