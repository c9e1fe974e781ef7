-- What an owner's session tells of its lease. All three may be empty, since older versions leave them as they are.
ALTER TABLE writebehind_lease
  -- The advisory lock that the owner's session holds for as long as it lives; none where the session tells nothing.
  ADD COLUMN IF NOT EXISTS session_key     BIGINT,
  -- What the lease was granted for, when it was claimed or renewed last.
  ADD COLUMN IF NOT EXISTS granted_seconds DOUBLE PRECISION,
  -- The epoch whose owner has written both: with any other, they are not believed.
  ADD COLUMN IF NOT EXISTS session_epoch   BIGINT;
