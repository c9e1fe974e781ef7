-- Marks all partitions of an entity, in its record too, with what writers find there: how many there are, or what is to
-- become of them.
-- KEYS: 1 the record  2 the state of the repartition  3… the settings of the partitions
-- ARGV: 1 the mark  2 "1" where it is a plain number again: a partition that nobody has written has none
--   3 "1" removes the state; else what is to be in it, names and values in turn from 4 on

for index = 3, #KEYS do
  if ARGV[2] == '1' and redis.call('HEXISTS', KEYS[index], 'max_events') == 0 then
    redis.call('HDEL', KEYS[index], 'partitions')
  else
    redis.call('HSET', KEYS[index], 'partitions', ARGV[1])
  end
end
-- Of one partition without a tag, the settings are the record.
if not (ARGV[2] == '1' and KEYS[1] == KEYS[3] and redis.call('HEXISTS', KEYS[1], 'max_events') == 0) then
  redis.call('HSET', KEYS[1], 'partitions', ARGV[1])
end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2])
elseif #ARGV > 3 then redis.call('HSET', KEYS[2], unpack(ARGV, 4)) end
return 1
