CREATE UNLOGGED TABLE heymarket_sync.uncrashed (
    epoch bigint PRIMARY KEY
);
COMMENT ON TABLE heymarket_sync.uncrashed IS 'The lease''s epoch, if it was taken since the server last crashed. A crash empties the table, and may undo the transactions that were committed last: whoever leads then begins anew.';
COMMENT ON COLUMN heymarket_sync.uncrashed.epoch IS 'heymarket_sync.lease.epoch.';
