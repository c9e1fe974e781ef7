-- Deletes documents that are due, each by an ordinary delete event, and receipts of requests.
-- KEYS: 1 stream  2 settings of the stream  3 due times  4 notes of a cache  5… documents and receipts
-- ARGV: 1 how many of the keys are documents  then their ids
-- Returns how many were deleted. What is not due any more stays; so does all while documents move to other names, and so do
-- documents while the stream is full, or has an entry that no event can follow.

local STREAM, SETTINGS, DUE, NOTES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', STREAM, 'MINID', '0-0')
local time = redis.call('TIME')
local now, documents = 1000 * time[1] + math.floor(time[2] / 1000), tonumber(ARGV[1])
local settings = redis.call('HMGET', SETTINGS, 'partitions', 'max_events', 'kept', 'cache', 'far')
local moves = string.find(settings[1] or '', 'into', 1, true)
local room = (tonumber(settings[2] or '') or math.huge) - redis.call('XLEN', STREAM) + (tonumber(settings[3] or '') or 0)
if settings[5] == '1' or redis.call('XREAD', 'COUNT', 1, 'STREAMS', STREAM, '8796093022207-1048575') then room = 0 end
local deleted = 0
for index = 5, #KEYS do
  local key, id = KEYS[index], ARGV[index - 3]
  local is_document = index - 4 <= documents
  local member = is_document and 'd' .. id or 'r' .. key
  local due = tonumber(redis.call('ZSCORE', DUE, member) or '')
  if due and due <= now and not moves and (not is_document or room > 0) then
    if is_document then
      local event = redis.call('XADD', STREAM, '*', 'ts', string.format('%.0f', now), 'doc_id', id, 'event_type', 'delete')
      if settings[4] then redis.call('HSET', NOTES, id, '-' .. event) end
      room = room - 1
    end
    redis.call('ZREM', DUE, member)
    redis.call('UNLINK', key)
    deleted = deleted + 1
  end
end
return deleted
