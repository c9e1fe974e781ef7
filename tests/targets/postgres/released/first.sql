-- As commit 047e62e made the tables, the first that had any.
CREATE TABLE IF NOT EXISTS "sessions" (
  id         TEXT PRIMARY KEY,
  payload    JSONB,
  created_at TIMESTAMPTZ DEFAULT now(),
  updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  version    BIGINT NOT NULL DEFAULT 0
);
ALTER TABLE "sessions"
  ADD COLUMN IF NOT EXISTS updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT 0;
CREATE TABLE IF NOT EXISTS writebehind_offset (
  stream     TEXT PRIMARY KEY,
  last_id    TEXT NOT NULL DEFAULT '0-0',
  events     BIGINT NOT NULL DEFAULT 0,
  epoch      BIGINT NOT NULL DEFAULT 0,
  owner      TEXT,
  updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS writebehind_lease (
  stream          TEXT PRIMARY KEY,
  owner           TEXT NOT NULL,
  epoch           BIGINT NOT NULL,
  lease_until     TIMESTAMPTZ NOT NULL,
  backend_pid     INTEGER NOT NULL,
  backend_started TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
