-- Lowers what a cache's target is known to have applied to what it has, where it has lost commits.
-- KEYS: 1 settings of the stream
-- ARGV: 1 what is noted as settled, if nobody has settled anything since  2 the offset
-- Returns 1 where it was lowered, else 0.

if redis.call('HGET', KEYS[1], 'settled') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'settled', ARGV[2])
return 1
