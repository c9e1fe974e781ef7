-- What an offset belongs to. It runs once: SQLite has no IF NOT EXISTS for columns.
-- The identity of the data in Redis whose events it counts.
ALTER TABLE writebehind_offset ADD COLUMN source TEXT;
-- The mark of the entity's table: the name of an index on it, of no rows.
ALTER TABLE writebehind_offset ADD COLUMN mark TEXT;
-- Why rows may be missing, until a verify has looked; and whether the sink waits until it is adopted.
ALTER TABLE writebehind_offset ADD COLUMN doubt TEXT;
ALTER TABLE writebehind_offset ADD COLUMN doubt_at TEXT;
ALTER TABLE writebehind_offset ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
