-- Back to the beginning, while no sink runs.
ALTER TABLE sessions DROP CONSTRAINT IF EXISTS stage_no_broken_device;
TRUNCATE sessions, writebehind_offset, writebehind_lease, writebehind_dead_letter;
