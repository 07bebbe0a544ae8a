CREATE TABLE heymarket_sync.team (
    singleton    boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    id           bigint      NOT NULL,
    name         text,
    source       text        NOT NULL,
    bound_at     timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE heymarket_sync.team IS 'The one Heymarket team that this database mirrors. An API key of another team is refused.';
COMMENT ON COLUMN heymarket_sync.team.singleton IS 'Always true: there is one team.';
COMMENT ON COLUMN heymarket_sync.team.id IS 'The team''s id at Heymarket.';
COMMENT ON COLUMN heymarket_sync.team.name IS 'The team''s name at Heymarket; NULL where it is not known.';
COMMENT ON COLUMN heymarket_sync.team.source IS 'The endpoint that named the team last.';
COMMENT ON COLUMN heymarket_sync.team.bound_at IS 'When the database was bound to the team.';
COMMENT ON COLUMN heymarket_sync.team.confirmed_at IS 'When the API key was last found to belong to the team.';
