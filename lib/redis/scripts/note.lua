-- Notes documents by their last events, where the writer knew of no cache and the cache's target does not have them yet.
-- KEYS: 1 settings of the stream  2 notes  3… documents
-- ARGV: for each document its id, the stream id of its event, and "-" for a delete, else ""; the newest first
-- One with a newer note stays as it is, and so does one whose event was settled meanwhile.

local SETTINGS, NOTES = KEYS[1], KEYS[2]
-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.call('HDEL', NOTES, '')
local cache, settled = unpack(redis.call('HMGET', SETTINGS, 'cache', 'settled'))
if cache ~= 'leaving' then return end
for index = 3, #KEYS do
  local document, id, event, mark = KEYS[index], ARGV[3 * index - 8], ARGV[3 * index - 7], ARGV[3 * index - 6]
  local note = redis.call('HGET', NOTES, id)
  if is_after(event, settled or '0-0') and (not note or is_after(event, (string.gsub(note, '^%-', '')))) then
    redis.call('HSET', NOTES, id, mark .. event)
    -- One that is there was put back from its row since.
    if mark == '-' then redis.call('UNLINK', document) else redis.call('PERSIST', document) end
  end
end
