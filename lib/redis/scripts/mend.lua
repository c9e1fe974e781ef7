-- Puts a copy in a stream's place, if nothing has come to the stream since the copy was made.
-- KEYS: 1 stream  2 the copy; missing where there is nothing to keep
-- ARGV: 1 the last id that was copied, "0-0" for none  2 the last id that a version can hold
--   3 the last entry of the stream when the copy was made, "0-0" for none
-- Returns 1, or 0 where something has come: copy again.

local after = ARGV[1] == '0-0' and '-' or '(' .. ARGV[1]
if redis.call('XRANGE', KEYS[1], after, ARGV[2], 'COUNT', 1)[1] then return 0 end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '0-0') ~= ARGV[3] then return 0 end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('RENAME', KEYS[2], KEYS[1])
else
  redis.call('DEL', KEYS[1])
end
return 1
