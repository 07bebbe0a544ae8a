COMMENT ON COLUMN heymarket_sync.runs.outcome IS 'How it ended: done, stopped (by a signal, or as the lead was lost), or an error.';
