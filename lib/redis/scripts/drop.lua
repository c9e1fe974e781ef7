-- Removes documents that a cache could evict at any time.
-- KEYS: documents
-- Returns how many were removed.

local gone = 0
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) >= 0 then gone = gone + redis.call('UNLINK', key) end
end
return gone
