ALTER TABLE heymarket.messages ALTER COLUMN _synced_at SET DEFAULT now();
