-- An entity's table: the original project's, and what it lacks.
CREATE TABLE IF NOT EXISTS {table} (
  id         TEXT PRIMARY KEY,
  payload    JSONB,
  created_at TIMESTAMPTZ DEFAULT now()
);

ALTER TABLE {table}
  ADD COLUMN IF NOT EXISTS updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  ADD COLUMN IF NOT EXISTS version    BIGINT NOT NULL DEFAULT 0;
