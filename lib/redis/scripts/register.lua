-- Registers a target: from now on nothing past its offset is trimmed.
-- KEYS: 1 stream  2 settings of the stream, with a field for each target
-- ARGV: 1 the target's name  2 its offset (a stream id), "" for an id of its own behind the end of the stream, or "=" for all but the state as
--   it is noted
--   3 the entry that must still be there, "0-0" for none  4 on_full: "stop" or "detach"  5 the state
--   6 states, between commas, under which all stays as it is  7 the only state and offset under which it does not, or ""
-- Returns {state, offset} as they are noted now; nothing where they were to be others, see 7, or "=" found none.

-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', KEYS[1], 'MINID', '0-0')
local name, offset, state = ARGV[1], ARGV[2], ARGV[5]
local field = redis.call('HGET', KEYS[2], 'target:' .. name)
local now = field and registration_of(field)
if ARGV[7] ~= '' and not (now and now.is .. ' ' .. now.offset == ARGV[7]) then return {} end
if offset == '=' and not now then return {} end
if now and string.find(ARGV[6], ',' .. now.is .. ',', 1, true) then return {now.is, now.offset} end
if offset == '' then
  offset = '0-0'
  local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
  for index = 1, info.err and 0 or #info, 2 do
    if info[index] == 'last-generated-id' then offset = info[index + 1] end
  end
  -- An id of its own: an offset that is an entry's says that the target has applied that one.
  local ms, seq = string.match(offset, '^(%d+)%-(%d+)$')
  if #redis.call('XRANGE', KEYS[1], offset, offset) > 0 and tonumber(seq) < 2 ^ 53 then
    offset = ms .. '-' .. string.format('%d', tonumber(seq) + 1)
    redis.call('XSETID', KEYS[1], offset)
  end
end
if offset == '=' then now.is = state
else now = {is = state, offset = offset, witness = ARGV[3], on_full = ARGV[4]} end
redis.call('HSET', KEYS[2], 'target:' .. name, field_of(now))
-- It holds up nobody any more, so writers are not told of it.
if state == 'removed' and redis.call('HGET', KEYS[2], 'slowest') == name then redis.call('HSET', KEYS[2], 'slowest', '') end
return {now.is, now.offset}
