-- Removes the events before the offset, which the target holds, and shows the offset to people.
-- The offset's own entry stays: it is the witness that the stream has not gone back.
-- KEYS: 1 stream  2 the copy of the offset  3 settings of the stream
-- ARGV: 1 offset (a stream id)  2 consumer group  3 events of this stream ever read up to the offset
-- Returns the number of events removed, or -1 where the witness is missing: nothing is changed then.

local offset = ARGV[1]
if #redis.call('XRANGE', KEYS[1], offset, offset) == 0 then return -1 end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', offset)
redis.call('SET', KEYS[2], offset)
-- With nothing but the witness left, no event of the stream is large.
if redis.call('XLEN', KEYS[1]) == 1 and redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'largest', 0)
end
-- The group is for people's tools (lag, workers): losing it costs nothing.
redis.pcall('XGROUP', 'SETID', KEYS[1], ARGV[2], offset, 'ENTRIESREAD', ARGV[3])
return removed
