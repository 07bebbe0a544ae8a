COMMENT ON COLUMN heymarket_sync.rejects.resolved_at IS 'When the row arrived readable, or came unreadable first where a newer version was held already; NULL: still open.';
