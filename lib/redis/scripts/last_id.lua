-- What forward and mend share: moving a stream's last id up, so that new ids begin above it. Never down, as XSETID would
-- where the newest entry lies below both: another target may have passed the last id.

-- Returns whether it was moved; a stream that is not there is made.
local function move_up(stream, to)
  -- Where there is none: a stream can only be made empty by a group, which goes again.
  if not redis.pcall('XGROUP', 'CREATE', stream, 'made', '0-0', 'MKSTREAM').err then
    redis.call('XGROUP', 'DESTROY', stream, 'made')
  end
  local info = redis.call('XINFO', 'STREAM', stream)
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then
      local ms, seq = string.match(info[index + 1], '^(%d+)%-(%d+)$')
      local to_ms, to_seq = string.match(to, '^(%d+)%-(%d+)$')
      ms, seq, to_ms, to_seq = tonumber(ms), tonumber(seq), tonumber(to_ms), tonumber(to_seq)
      if ms > to_ms or ms == to_ms and seq >= to_seq then return false end
    end
  end
  redis.call('XSETID', stream, to)
  return true
end
