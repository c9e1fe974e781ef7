ALTER TABLE sessions DROP CONSTRAINT IF EXISTS stage_no_broken_device;
