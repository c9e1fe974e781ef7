-- Takes a step of a repartition: in one Redis all of it, in a cluster what is in one slot.
-- KEYS: all that is named
-- ARGV: for each change how many words it has, and these: a command of Redis with its arguments, or one of
--   LAST stream id base: the stream, if there is one, ends with the id, or is empty and ends with the other one
--   MARKED settings text: so many partitions they tell of
--   UNMARK settings text: they tell of so many again; a partition that nobody has written tells of none
--   MAKE stream id: an empty stream, behind whose id the next one begins
--   FORGET key sum: removes the key, if its dump ends with that still
-- Returns the streams and settings that are not as LAST and MARKED say, and then nothing was done; else the keys that were
-- not forgotten.

local expected, verbs, odd = {}, {}, {}

function expected.LAST(stream, id, base)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  local found = {}
  for index = 1, info.err and 0 or #info, 2 do found[info[index]] = info[index + 1] end
  local last = found['last-generated-id']
  return not last or last == id or last == base and found.length == 0
end

function expected.MARKED(settings, text)
  return redis.call('HGET', settings, 'partitions') == text
end

function verbs.UNMARK(settings, text)
  if redis.call('HEXISTS', settings, 'max_events') == 1 then redis.call('HSET', settings, 'partitions', text)
  else redis.call('HDEL', settings, 'partitions') end
end

function verbs.MAKE(stream, id)
  -- A stream can only be made empty by a group, which goes again.
  redis.call('XGROUP', 'CREATE', stream, 'made', '0-0', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', stream, 'made')
  redis.call('XSETID', stream, id)
end

function verbs.FORGET(key, sum)
  local dump = redis.call('DUMP', key)
  if not dump then return end
  if string.sub(dump, -#sum) == sum then redis.call('UNLINK', key) else odd[#odd + 1] = key end
end

local function each(take)
  local at = 1
  while at <= #ARGV do
    local last = at + ARGV[at]
    take(ARGV[at + 1], unpack(ARGV, at + 2, last))
    at = last + 1
  end
end

each(function(verb, key, ...)
  if expected[verb] and not expected[verb](key, ...) then odd[#odd + 1] = key end
end)
if odd[1] then return odd end
each(function(verb, ...)
  if verbs[verb] then verbs[verb](...)
  elseif not expected[verb] then redis.call(verb, ...) end
end)
return odd
