-- Our own tables. Versions from before the migrations made them in steps: each takes up where it was left.
CREATE TABLE IF NOT EXISTS writebehind_offset (
  stream     TEXT PRIMARY KEY,
  last_id    TEXT NOT NULL DEFAULT '0-0',
  events     BIGINT NOT NULL DEFAULT 0,
  epoch      BIGINT NOT NULL DEFAULT 0,
  owner      TEXT,
  updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

ALTER TABLE writebehind_offset
  -- The entry that the stream must still hold, and how often it did not.
  ADD COLUMN IF NOT EXISTS witness        TEXT NOT NULL DEFAULT '0-0',
  ADD COLUMN IF NOT EXISTS went_back      INTEGER NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS went_back_at   TIMESTAMPTZ,
  ADD COLUMN IF NOT EXISTS parked_version BIGINT NOT NULL DEFAULT 0;

-- The lease has a row of its own, so that renewing it never waits for a batch.
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

CREATE INDEX IF NOT EXISTS writebehind_dead_letter_parked
    ON writebehind_dead_letter (stream, fingerprint) WHERE state = 'parked';

-- Stays empty: a row whose parent is missing makes a statement fail on purpose, after all else it does.
CREATE TABLE IF NOT EXISTS writebehind_probe (
  id     INTEGER PRIMARY KEY,
  parent INTEGER NOT NULL REFERENCES writebehind_probe (id)
);
