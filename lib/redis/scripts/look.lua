-- Notes in a stream's settings whether its last id is past what a version can hold. It stays so when the entry is
-- removed, and only XINFO tells, which is too much for each write: so sinks look, and writers read the note.
-- KEYS: 1 stream  2 settings of the stream
-- ARGV: 1 the last id that a version can hold
-- Returns the last id; 0-0 where there is no stream.

local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
local last = '0-0'
for index = 1, info.err and 0 or #info, 2 do
  if info[index] == 'last-generated-id' then last = info[index + 1] end
end
local ms, seq = string.match(last, '^(%d+)%-(%d+)$')
local last_ms, last_seq = string.match(ARGV[1], '^(%d+)%-(%d+)$')
ms, last_ms = tonumber(ms), tonumber(last_ms)
local far = (ms > last_ms or ms == last_ms and tonumber(seq) > tonumber(last_seq)) and 1 or 0
if tonumber(redis.call('HGET', KEYS[2], 'far') or 0) ~= far then
  redis.call('HSET', KEYS[2], 'far', far)
end
return last
