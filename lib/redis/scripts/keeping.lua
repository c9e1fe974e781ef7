-- Lets a cache evict documents that equal their rows, or keeps them.
-- KEYS: 1 settings of the stream  2 notes  3… documents
-- ARGV: 1 for how long a document stays, in ms; "" for ever  2… the documents' ids
-- Returns how many were changed. One that an event names, or that has a time, stays as it is.

local changed = 0
for index = 3, #KEYS do
  if ARGV[1] == '' then changed = changed + redis.call('PERSIST', KEYS[index])
  elseif redis.call('PTTL', KEYS[index]) == -1 and redis.call('HEXISTS', KEYS[2], ARGV[index - 1]) == 0
    and redis.call('HGET', KEYS[1], 'cache') == 'on' then
    changed = changed + redis.call('PEXPIRE', KEYS[index], ARGV[1])
  end
end
return changed
