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
  local there = redis.call('TYPE', KEYS[index]).ok == 'ReJSON-RL'
  resend(STREAM, KEYS[index], ARGV[8 + index - first], ARGV[6], there, nil, cache, KEYS[4])
end
return 1
