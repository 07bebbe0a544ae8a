ALTER TABLE heymarket_sync.rejects
    ADD COLUMN rev     bigint,
    ADD COLUMN updated timestamptz;
COMMENT ON COLUMN heymarket_sync.rejects.rev IS 'The first part of the refused version of a contact; NULL: none, or not readable.';
COMMENT ON COLUMN heymarket_sync.rejects.updated IS 'When the refused version of the row last changed at the source; only a version as new resolves it. NULL: none, or not readable.';
