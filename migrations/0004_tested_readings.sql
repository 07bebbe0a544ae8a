ALTER TABLE heymarket_sync.readings ADD COLUMN tested_at timestamptz NOT NULL DEFAULT now();
COMMENT ON COLUMN heymarket_sync.readings.decided_at IS 'When this answer was found first.';
COMMENT ON COLUMN heymarket_sync.readings.tested_at IS 'When a test that could have failed found it last.';

ALTER TABLE heymarket_sync.coverage ADD COLUMN confirmed tstzmultirange NOT NULL DEFAULT '{}';
COMMENT ON COLUMN heymarket_sync.coverage.confirmed IS 'What was covered when a test last confirmed the reading of the API that the line rests on; what was proved since is withdrawn if a test finds another.';
