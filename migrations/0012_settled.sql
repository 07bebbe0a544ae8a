-- In schema heymarket, so that a publication or a dump of the mirror carries the mark with the rows.
CREATE TABLE heymarket.settled (
    singleton  boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    settled_at timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE heymarket.settled IS 'The mark for reading what is new; read it with heymarket.settled_at().';
COMMENT ON COLUMN heymarket.settled.singleton IS 'Always true: there is one mark.';
COMMENT ON COLUMN heymarket.settled.settled_at IS 'No row whose _synced_at is below this will appear any more. The leader advances it each second; it never falls.';
INSERT INTO heymarket.settled (settled_at) VALUES (clock_timestamp());

-- STABLE: it sees what the statement that calls it sees. With a newer snapshot than that of the rows, the mark would
-- pass by rows that the statement does not see. With the owner's rights: a role that reads one table needs no more.
CREATE FUNCTION heymarket.settled_at() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
RETURN (SELECT s.settled_at FROM heymarket.settled s);
COMMENT ON FUNCTION heymarket.settled_at() IS 'The mark for reading what is new: rows with _synced_at >= the mark of the last reading AND _synced_at < heymarket.settled_at(), in one statement, are all that were written since, each once.';

-- Each transaction has a stamp of its own: a writer that leaves it out fails.
ALTER TABLE heymarket.conversations ALTER COLUMN _synced_at DROP DEFAULT;
ALTER TABLE heymarket.messages ALTER COLUMN _synced_at DROP DEFAULT;
ALTER TABLE heymarket.contacts ALTER COLUMN _synced_at DROP DEFAULT;
COMMENT ON COLUMN heymarket.conversations._synced_at IS 'When this version of the row, its members included, was written to the mirror; never below heymarket.settled_at() at that time.';
COMMENT ON COLUMN heymarket.messages._synced_at IS 'When this version of the row was written to the mirror; never below heymarket.settled_at() at that time.';
COMMENT ON COLUMN heymarket.contacts._synced_at IS 'When this version of the row, its notes included, was written to the mirror; never below heymarket.settled_at() at that time.';
