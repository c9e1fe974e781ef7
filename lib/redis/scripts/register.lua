-- Registers a target: from now on nothing past its offset is trimmed.
-- KEYS: 1 stream  2 settings of the stream, with a field for each target
-- ARGV: 1 the target's name  2 its offset (a stream id), "" for the end of the stream, or "=" for all but the state as
--   it is noted
--   3 the entry that must still be there, "0-0" for none  4 on_full: "stop" or "detach"  5 the state
--   6 states that are kept as they are, between commas; the offset is noted all the same
-- Returns {state, offset}; nothing where it was to stay as it is noted, and is not.

-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', KEYS[1], 'MINID', '0-0')
local field = 'target:' .. ARGV[1]
local state, offset = ARGV[5], ARGV[2]
local is, rest = string.match(redis.call('HGET', KEYS[2], field) or '', '^(%S+) (.+)$')
if offset == '=' then
  if not is then return {} end
  redis.call('HSET', KEYS[2], field, state .. ' ' .. rest)
  return {state, string.match(rest, '^%S+')}
end
if is and string.find(ARGV[6], ',' .. is .. ',', 1, true) then state = is end
if offset == '' then
  offset = '0-0'
  local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
  for index = 1, info.err and 0 or #info, 2 do
    if info[index] == 'last-generated-id' then offset = info[index + 1] end
  end
end
redis.call('HSET', KEYS[2], field, state .. ' ' .. offset .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
return {state, offset}
