CREATE TABLE heymarket_sync.coverage (
    stream     text           NOT NULL,
    line       text           NOT NULL,
    pass       text           NOT NULL,
    covered    tstzmultirange NOT NULL DEFAULT '{}',
    wanted     tstzrange      NOT NULL,
    started_at timestamptz    NOT NULL,
    PRIMARY KEY (stream, line, pass)
) WITH (fillfactor = 50);
COMMENT ON TABLE heymarket_sync.coverage IS 'What is held: intervals of a stream''s time line of which every row that the source had is in the mirror.';
COMMENT ON COLUMN heymarket_sync.coverage.stream IS 'messages, conversations or contacts.';
COMMENT ON COLUMN heymarket_sync.coverage.line IS 'The time line: the field that orders it, and after a slash the view of the endpoint where there is more than one.';
COMMENT ON COLUMN heymarket_sync.coverage.pass IS 'standing: the mirror itself. Other passes read a window again and have coverage of their own.';
COMMENT ON COLUMN heymarket_sync.coverage.covered IS 'The half-open intervals proved to be held.';
COMMENT ON COLUMN heymarket_sync.coverage.wanted IS 'What this pass is to cover; the standing pass''s upper end moves on with time and is unbounded here.';
COMMENT ON COLUMN heymarket_sync.coverage.started_at IS 'The server''s time when the pass began.';

CREATE TABLE heymarket_sync.runs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream       text        NOT NULL,
    pass         text        NOT NULL,
    holder       text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz,
    outcome      text,
    requests     bigint      NOT NULL DEFAULT 0,
    rows_read    bigint      NOT NULL DEFAULT 0,
    rows_written bigint      NOT NULL DEFAULT 0,
    rejected     bigint      NOT NULL DEFAULT 0
);
CREATE INDEX runs_stream_pass_idx ON heymarket_sync.runs (stream, pass, started_at);
COMMENT ON TABLE heymarket_sync.runs IS 'One row per pass: what it read, wrote and spent, and how it ended.';
COMMENT ON COLUMN heymarket_sync.runs.id IS 'Number of the run.';
COMMENT ON COLUMN heymarket_sync.runs.stream IS 'messages, conversations or contacts.';
COMMENT ON COLUMN heymarket_sync.runs.pass IS 'The pass, as in coverage.';
COMMENT ON COLUMN heymarket_sync.runs.holder IS 'The process that ran it.';
COMMENT ON COLUMN heymarket_sync.runs.started_at IS 'When it began.';
COMMENT ON COLUMN heymarket_sync.runs.ended_at IS 'When it ended; NULL: still running, or its process was killed.';
COMMENT ON COLUMN heymarket_sync.runs.outcome IS 'How it ended: done, stopped, lost lead, or an error.';
COMMENT ON COLUMN heymarket_sync.runs.requests IS 'Pages asked of the API and committed.';
COMMENT ON COLUMN heymarket_sync.runs.rows_read IS 'Rows that those pages held, repeats included.';
COMMENT ON COLUMN heymarket_sync.runs.rows_written IS 'Rows inserted or changed.';
COMMENT ON COLUMN heymarket_sync.runs.rejected IS 'Rows set aside, whole or partial.';

CREATE TABLE heymarket_sync.rejects (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream      text        NOT NULL,
    source_id   text,
    partial     boolean     NOT NULL,
    reason      text        NOT NULL,
    payload     bytea       NOT NULL,
    first_seen  timestamptz NOT NULL DEFAULT now(),
    last_seen   timestamptz NOT NULL DEFAULT now(),
    times       bigint      NOT NULL DEFAULT 1,
    resolved_at timestamptz,
    identity    text        NOT NULL GENERATED ALWAYS AS
                (coalesce('id ' || source_id, 'sha256 ' || encode(sha256(payload), 'hex'))) STORED,
    UNIQUE (stream, identity)
);
CREATE INDEX rejects_open_idx ON heymarket_sync.rejects (stream, source_id) WHERE resolved_at IS NULL;
COMMENT ON TABLE heymarket_sync.rejects IS 'Dead letters: rows, or parts of rows, that could not be read, as they came.';
COMMENT ON COLUMN heymarket_sync.rejects.id IS 'Number of the reject, for rejects show.';
COMMENT ON COLUMN heymarket_sync.rejects.stream IS 'messages, conversations or contacts.';
COMMENT ON COLUMN heymarket_sync.rejects.source_id IS 'The row''s id at the source, if known.';
COMMENT ON COLUMN heymarket_sync.rejects.partial IS 'true: the row landed without the unreadable fields. false: the whole row was set aside.';
COMMENT ON COLUMN heymarket_sync.rejects.reason IS 'Which fields could not be read, and why.';
COMMENT ON COLUMN heymarket_sync.rejects.payload IS 'The row''s bytes as they came.';
COMMENT ON COLUMN heymarket_sync.rejects.first_seen IS 'When it was first set aside.';
COMMENT ON COLUMN heymarket_sync.rejects.last_seen IS 'When it was last seen unreadable.';
COMMENT ON COLUMN heymarket_sync.rejects.times IS 'How often it was seen unreadable.';
COMMENT ON COLUMN heymarket_sync.rejects.resolved_at IS 'When the row arrived readable; NULL: still open.';
COMMENT ON COLUMN heymarket_sync.rejects.identity IS 'What tells one reject from another: the source''s id, else a digest of the payload.';

CREATE TABLE heymarket_sync.lease (
    singleton   boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch       bigint      NOT NULL,
    holder      text        NOT NULL,
    acquired_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE heymarket_sync.lease IS 'Who leads: the one process that writes.';
COMMENT ON COLUMN heymarket_sync.lease.singleton IS 'Always true: there is one lease.';
COMMENT ON COLUMN heymarket_sync.lease.epoch IS 'Grows with each change of leader; a writing transaction checks it at its end.';
COMMENT ON COLUMN heymarket_sync.lease.holder IS 'The leader: host, process id and verb.';
COMMENT ON COLUMN heymarket_sync.lease.acquired_at IS 'When it took the lead.';
COMMENT ON COLUMN heymarket_sync.lease.expires_at IS 'The lead is void after this, by the database''s clock, unless renewed.';

CREATE TABLE heymarket_sync.readings (
    stream     text        NOT NULL,
    question   text        NOT NULL,
    answer     text        NOT NULL,
    evidence   text        NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, question)
);
COMMENT ON TABLE heymarket_sync.readings IS 'Which reading of the API''s documentation was found to hold, where the documentation leaves it open.';
COMMENT ON COLUMN heymarket_sync.readings.stream IS 'messages, conversations or contacts.';
COMMENT ON COLUMN heymarket_sync.readings.question IS 'What was asked.';
COMMENT ON COLUMN heymarket_sync.readings.answer IS 'What was found.';
COMMENT ON COLUMN heymarket_sync.readings.evidence IS 'What the finding rests on.';
COMMENT ON COLUMN heymarket_sync.readings.decided_at IS 'When it was found.';
