-- Moves a stream's last id up to the offset: new ids begin above it, so that no new event gets an id that
-- the target has passed. Never down, as XSETID would where the newest entry lies below both: another target may have
-- passed the last id.
-- KEYS: 1 stream
-- ARGV: 1 the offset
-- Returns 1 where the last id was moved, 0 where it was past the offset already.

-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', KEYS[1], 'MINID', '0-0')
-- Where there is none: a stream can only be made empty by a group, which goes again.
if not redis.pcall('XGROUP', 'CREATE', KEYS[1], 'made', '0-0', 'MKSTREAM').err then
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'made')
end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for index = 1, #info, 2 do
  if info[index] == 'last-generated-id' then
    local ms, seq = string.match(info[index + 1], '^(%d+)%-(%d+)$')
    local to_ms, to_seq = string.match(ARGV[1], '^(%d+)%-(%d+)$')
    ms, seq, to_ms, to_seq = tonumber(ms), tonumber(seq), tonumber(to_ms), tonumber(to_seq)
    if ms > to_ms or ms == to_ms and seq >= to_seq then return 0 end
  end
end
redis.call('XSETID', KEYS[1], ARGV[1])
return 1
