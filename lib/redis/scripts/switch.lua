-- Puts new streams in the place of old ones, in one step: from then on writers use them.
-- KEYS: 1 the record of the entity's partitions  2 the state of the repartition  then all that the other side names
-- ARGV: 1 JSON:
--   ends: the old streams and the last id that each is known to have
--   gone: keys that are removed: streams, copies of offsets, what sinks have reported, settings
--   refusing: settings that stay, to refuse who still uses them, with the field `partitions` alone
--   mark: what they refuse with  partitions: the record's text, and that of the new settings
--   streams: the new streams  last: the id behind which they begin
--   settings: the new settings, and the fields of each, names and values in turn
--   state: what the state is then, names and values in turn
-- Returns the first old stream that has got an entry meanwhile, and changes nothing then; else "".

local all = cjson.decode(ARGV[1])
for index = 1, #all.ends, 2 do
  local info = redis.pcall('XINFO', 'STREAM', all.ends[index])
  for at = 1, info.err and 0 or #info, 2 do
    if info[at] == 'last-generated-id' and info[at + 1] ~= all.ends[index + 1] then return all.ends[index] end
  end
end
for _, key in ipairs(all.gone) do redis.call('UNLINK', key) end
for _, key in ipairs(all.refusing) do redis.call('HSET', key, 'partitions', all.mark) end
for _, stream in ipairs(all.streams) do
  -- A stream can only be made empty by a group, which goes again.
  redis.call('XGROUP', 'CREATE', stream, 'made', '0-0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', stream, 'made')
  redis.call('XSETID', stream, all.last)
end
for index = 1, #all.settings, 2 do redis.call('HSET', all.settings[index], unpack(all.settings[index + 1])) end
redis.call('HSET', KEYS[1], 'partitions', all.partitions)
redis.call('HSET', KEYS[2], unpack(all.state))
return ''
