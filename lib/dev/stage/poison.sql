-- A rule that no document of the traffic breaks. NOT VALID: rows that are there are not looked at.
ALTER TABLE sessions DROP CONSTRAINT IF EXISTS stage_no_broken_device;
ALTER TABLE sessions ADD CONSTRAINT stage_no_broken_device
  CHECK (payload->>'device_model' <> 'broken') NOT VALID;
