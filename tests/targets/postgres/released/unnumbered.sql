-- As all versions from commit 3047830 on made the tables, until migrations had numbers.
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
  updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- The entry that the stream must still hold, and how often it did not.
  witness        TEXT NOT NULL DEFAULT '0-0',
  went_back      INTEGER NOT NULL DEFAULT 0,
  went_back_at   TIMESTAMPTZ,
  parked_version BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS writebehind_lease (
  stream          TEXT PRIMARY KEY,
  owner           TEXT NOT NULL,
  epoch           BIGINT NOT NULL,
  lease_until     TIMESTAMPTZ NOT NULL,
  backend_pid     INTEGER NOT NULL,
  backend_started TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS writebehind_dead_letter (
  id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  entity      TEXT NOT NULL,
  stream      TEXT NOT NULL,
  stream_id   TEXT NOT NULL,
  -- Bytes, since text could refuse the very thing that is to be kept.
  doc_id      BYTEA,
  fingerprint BYTEA GENERATED ALWAYS AS (sha256(doc_id)) STORED,
  event_type  TEXT NOT NULL,
  ts          BIGINT,
  payload     BYTEA,
  fields      BYTEA[],
  sqlstate    TEXT NOT NULL,
  reason      TEXT NOT NULL,
  attempts    INTEGER NOT NULL DEFAULT 1,
  first_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
  last_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
  -- parked, replayed, superseded (a newer event of the document was replayed) or discarded
  state       TEXT NOT NULL DEFAULT 'parked',
  UNIQUE (stream, stream_id)
);
-- Stays empty: a row whose parent is missing makes a statement fail on purpose, after all else it does.
CREATE TABLE IF NOT EXISTS writebehind_probe (
  id     INTEGER PRIMARY KEY,
  parent INTEGER NOT NULL REFERENCES writebehind_probe (id)
);
CREATE INDEX IF NOT EXISTS writebehind_dead_letter_parked
    ON writebehind_dead_letter (stream, fingerprint) WHERE state = 'parked';
