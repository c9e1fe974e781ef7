-- What an offset belongs to. Sinks that know nothing of it leave it as it is.
ALTER TABLE writebehind_offset
  -- The identity of the data in Redis whose events it counts.
  ADD COLUMN IF NOT EXISTS source     TEXT,
  -- The entity's table: its name, oid and file, and the database in which those mean anything.
  ADD COLUMN IF NOT EXISTS table_name TEXT,
  ADD COLUMN IF NOT EXISTS table_oid  BIGINT,
  ADD COLUMN IF NOT EXISTS table_file BIGINT,
  ADD COLUMN IF NOT EXISTS table_home TEXT,
  -- Why rows may be missing, until a verify has looked; and whether the sink waits until it is adopted.
  ADD COLUMN IF NOT EXISTS doubt      TEXT,
  ADD COLUMN IF NOT EXISTS doubt_at   TIMESTAMPTZ,
  ADD COLUMN IF NOT EXISTS refused    BOOLEAN NOT NULL DEFAULT false;
