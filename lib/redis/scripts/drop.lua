-- Removes documents that a cache could evict at any time.
-- KEYS: documents

for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) >= 0 then redis.call('UNLINK', key) end
end
