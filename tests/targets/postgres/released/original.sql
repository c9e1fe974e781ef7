-- As the original project makes its table, with rows in it.
CREATE TABLE IF NOT EXISTS sessions (
  id TEXT PRIMARY KEY,
  payload JSONB,
  created_at TIMESTAMPTZ DEFAULT now()
);
