-- Writes a stream's settings, which all of its writers must agree on, if it has none yet.
-- KEYS: 1 settings of the stream  [2 stream, where documents are cached]
-- ARGV: 1 partitions  2 max_events  3 max_bytes  [4 "1" where documents are cached: from the first event on]
-- Returns 1 where they were written, 0 where they were there.

if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('HEXISTS', KEYS[1], 'partitions') == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'partitions', ARGV[1], 'max_events', ARGV[2], 'max_bytes', ARGV[3])
redis.call('HSETNX', KEYS[1], 'largest', 0)
if ARGV[4] == '1' and redis.call('XLEN', KEYS[2]) == 0 then redis.call('HSETNX', KEYS[1], 'cache', 'on') end
return 1
