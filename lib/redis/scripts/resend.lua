-- Appends an event with a document's present state, or a delete where it is gone, in one step.
-- KEYS: 1 document  2 stream  3 settings of the stream  [4 notes, where documents are cached]
-- ARGV: 1 document id  2 ts (ms)
--   3 "" or the JSON text that the document must still have, "-" where it must still be missing
-- Returns the event's stream id, or "" where nothing was appended: the document has changed meanwhile, or was evicted.

-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory. What is resent is what
-- keeps it full: it cannot be evicted until the target has it.
redis.pcall('XTRIM', KEYS[2], 'MINID', '0-0')
-- Documents move to other names just now.
if string.find(redis.call('HGET', KEYS[3], 'partitions') or '', 'into', 1, true) then
  return redis.error_reply('REPARTITIONING ' .. KEYS[2])
end
local payload = redis.call('JSON.GET', KEYS[1])
if ARGV[3] ~= '' and ARGV[3] ~= (payload or '-') then return '' end
local cache = redis.call('HGET', KEYS[3], 'cache')
if cache and not KEYS[4] then return redis.error_reply('CACHED ' .. KEYS[2]) end
if payload and #payload > tonumber(redis.call('HGET', KEYS[3], 'largest') or 0) then
  redis.call('HSET', KEYS[3], 'largest', #payload)
end
return resend(KEYS[2], KEYS[1], ARGV[1], ARGV[2], payload, payload, cache, KEYS[4])
