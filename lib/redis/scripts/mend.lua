-- Puts a copy in a stream's place, if nothing has come to the stream since the copy was made, and resends documents that
-- the entries name which are left out: in one step, since nothing but those entries tells of them.
-- KEYS: 1 stream  2 the copy; missing where there is nothing to keep  3 settings of the stream  [4 notes, where documents
--   are cached]  then the documents
-- ARGV: 1 the last id that was copied, "0-0" for none  2 how many entries were  3 the last id that a version can hold
--   4 the last entry of the stream when the copy was made, "0-0" for none  5 an id that the new events have to be past
--   6 ts (ms)  7 "1" where documents are cached, else ""  then each document's id
-- Returns 1, or 0 where something has come, or the copy is another one: copy again.

local STREAM, COPY, SETTINGS, IS_CACHED = KEYS[1], KEYS[2], KEYS[3], ARGV[7] == '1'
local after = ARGV[1] == '0-0' and '-' or '(' .. ARGV[1]
if redis.call('XRANGE', STREAM, after, ARGV[3], 'COUNT', 1)[1] then return 0 end
local last = redis.call('XREVRANGE', STREAM, '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '0-0') ~= ARGV[4] then return 0 end
-- Another mending may have begun its own, of the same name.
local top = redis.call('XREVRANGE', COPY, '+', '-', 'COUNT', 1)[1]
if (top and top[1] or '0-0') ~= ARGV[1] or redis.call('XLEN', COPY) ~= tonumber(ARGV[2]) then return 0 end
-- Documents move to other names just now.
local partitions, cache = unpack(redis.call('HMGET', SETTINGS, 'partitions', 'cache'))
if string.find(partitions or '', 'into', 1, true) then return redis.error_reply('REPARTITIONING ' .. STREAM) end
if cache and not IS_CACHED then return redis.error_reply('CACHED ' .. STREAM) end

if top then redis.call('RENAME', COPY, STREAM) else redis.call('DEL', STREAM) end
redis.call('HSET', SETTINGS, 'far', 0)
local first = IS_CACHED and 5 or 4
if #KEYS >= first and ARGV[5] ~= '0-0' then move_up(STREAM, ARGV[5]) end
for index = first, #KEYS do
  local document, id = KEYS[index], ARGV[8 + index - first]
  local there = redis.call('TYPE', document).ok == 'ReJSON-RL'
  -- One that was evicted is in the target as it is.
  if there or not cache or cache == 'noting' or redis.call('HEXISTS', KEYS[4], id) == 1 then
    -- Without payload: it stands for what the document is when it is read.
    local event = redis.call('XADD', STREAM, '*', 'ts', ARGV[6], 'doc_id', id, 'event_type', there and 'update' or 'delete')
    if cache then
      redis.call('HSET', KEYS[4], id, there and event or '-' .. event)
      if there then redis.call('PERSIST', document) end
    end
  end
end
return 1
