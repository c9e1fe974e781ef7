-- Which migrations have run. Every version reads these columns, so they stay as they are.
CREATE TABLE IF NOT EXISTS writebehind_migration (
  number     INTEGER NOT NULL,
  -- The entity's table that it ran for; empty where it was for our own.
  table_name TEXT NOT NULL,
  -- The oldest version that can still work with the tables since then.
  oldest     INTEGER NOT NULL,
  ran_at     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  PRIMARY KEY (number, table_name)
) STRICT;
