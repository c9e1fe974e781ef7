-- Notes the identity of the data, unless they have one.
-- KEYS: 1 stream  2 settings of the stream
-- ARGV: 1 the identity
-- Returns the identity that they have.

-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', KEYS[1], 'MINID', '0-0')
redis.call('HSETNX', KEYS[2], 'identity', ARGV[1])
return redis.call('HGET', KEYS[2], 'identity')
