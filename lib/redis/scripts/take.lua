-- Reads keys as they are, to put them elsewhere.
-- KEYS: the keys
-- ARGV: 1 bytes after which no further key is read
-- Returns for each key its dump and what is left of its time in ms, 0 for ever; of one that is missing no dump. Stops
-- early past the limit.

local found, bytes = {}, 0
for index, key in ipairs(KEYS) do
  local dump = redis.call('DUMP', key)
  local left = dump and redis.call('PTTL', key) or -1
  found[2 * index - 1] = dump
  -- What is about to go must not stay for ever.
  found[2 * index] = left < 0 and 0 or math.max(1, left)
  bytes = bytes + (dump and #dump or 0)
  if bytes >= tonumber(ARGV[1]) then break end
end
return found
