-- Our own tables. Times are ISO 8601 in UTC.
CREATE TABLE IF NOT EXISTS writebehind_offset (
  stream         TEXT NOT NULL PRIMARY KEY,
  last_id        TEXT NOT NULL DEFAULT '0-0',
  events         INTEGER NOT NULL DEFAULT 0,
  -- A sink's right to write: a higher one fences off a lower.
  epoch          INTEGER NOT NULL DEFAULT 0,
  owner          TEXT,
  updated_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  -- The entry that the stream must still hold, and how often it did not.
  witness        TEXT NOT NULL DEFAULT '0-0',
  went_back      INTEGER NOT NULL DEFAULT 0,
  went_back_at   TEXT,
  parked_version INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE IF NOT EXISTS writebehind_dead_letter (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  entity     TEXT NOT NULL,
  stream     TEXT NOT NULL,
  stream_id  TEXT NOT NULL,
  -- Bytes, since they may be no text.
  doc_id     BLOB,
  event_type TEXT NOT NULL,
  ts         INTEGER,
  payload    BLOB,
  -- Names and values in turn: a JSON array of hexadecimal digits, for unhex().
  fields     TEXT,
  sqlstate   TEXT NOT NULL,
  reason     TEXT NOT NULL,
  attempts   INTEGER NOT NULL DEFAULT 1,
  first_at   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  last_at    TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  -- parked, replayed, superseded (a newer event of the document was replayed) or discarded
  state      TEXT NOT NULL DEFAULT 'parked',
  UNIQUE (stream, stream_id)
) STRICT;

CREATE INDEX IF NOT EXISTS writebehind_dead_letter_parked
    ON writebehind_dead_letter (stream, doc_id) WHERE state = 'parked';
