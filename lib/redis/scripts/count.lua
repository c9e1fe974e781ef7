-- Counts entries of a stream, without sending them.
-- KEYS: 1 stream
-- ARGV: 1 from (a stream id, or "(" and one)  2 to  3 how many at most
-- Returns how many there are, the last of them, and the first entry of the stream; "" for none.

local entries = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {#entries, #entries > 0 and entries[#entries][1] or '', first and first[1] or ''}
