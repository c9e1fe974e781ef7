-- Removes the events before the offset, which the target holds, and shows the offset to people.
-- The offset's own entry stays: it is the witness that the stream has not gone back.
-- KEYS: 1 stream  2 the copy of the offset  3 settings of the stream
-- ARGV: 1 offset (a stream id)  2 consumer group  3 events of this stream ever read up to the offset
--   4 the offset of the trim before, whose entry must still be there, or "0-0"
-- Returns the number of events removed, or -1 where a witness is missing: nothing is changed then.

local offset = ARGV[1]
for _, witness in ipairs({offset, ARGV[4]}) do
  if witness ~= '0-0' and #redis.call('XRANGE', KEYS[1], witness, witness) == 0 then return -1 end
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', offset)
-- A full Redis refuses the rest. Nothing depends on it, and the trim, which frees the memory, must not look
-- failed because of it.
redis.pcall('SET', KEYS[2], offset)
-- With nothing but the witness left, no event of the stream is large.
if redis.call('XLEN', KEYS[1]) == 1 and redis.call('EXISTS', KEYS[3]) == 1 then
  redis.pcall('HSET', KEYS[3], 'largest', 0)
end
-- The group is for people's tools (lag, workers): losing it costs nothing.
redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[2], offset, 'ENTRIESREAD', ARGV[3])
return removed
