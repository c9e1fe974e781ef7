-- An entity's table. Ids are compared byte for byte; a payload is the event's text, untouched.
CREATE TABLE IF NOT EXISTS {table} (
  id         TEXT NOT NULL PRIMARY KEY,
  payload    TEXT CHECK (json_valid(payload)),
  created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  version    INTEGER NOT NULL DEFAULT 0
) STRICT;
