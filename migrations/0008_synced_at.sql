ALTER TABLE heymarket.conversations ALTER COLUMN _synced_at SET DEFAULT now();
ALTER TABLE heymarket.messages ALTER COLUMN _synced_at SET DEFAULT now();
ALTER TABLE heymarket.contacts ALTER COLUMN _synced_at SET DEFAULT now();
