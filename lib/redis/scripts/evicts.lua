-- What the scripts begin with that look for documents of a cache: what the settings say of it.
-- KEYS: 1 stream  2 settings of the stream

local cache, settled, partitions = unpack(redis.call('HMGET', KEYS[2], 'cache', 'settled', 'partitions'))
-- Nobody has written since all was emptied.
if not cache and not partitions and redis.call('XLEN', KEYS[1]) == 0 then cache = 'on' end
local evicts = cache == 'on' or cache == 'leaving'
