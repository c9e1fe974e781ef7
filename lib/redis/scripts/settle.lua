-- Settles what a cache's target has applied: from then on its documents may be evicted, if no newer event names them.
-- KEYS: 1 settings of the stream  2 notes  3… documents
-- ARGV: 1 the offset up to which all is settled with this, or "" for not all  2 for how long a document stays, in ms
--   3 "1" where each event has been noted, if its writer knows of the cache
--   then for each document its id and the stream id of its event
-- Returns the first event that was not noted, or "": from then on nothing is evicted any more.

local SETTINGS, NOTES = KEYS[1], KEYS[2]
local settings = redis.call('HMGET', SETTINGS, 'cache', 'settled', 'noted_from')
local cache, foreign = settings[1], ''
if not cache then return '' end
local ids = {}
for index = 3, #KEYS do ids[#ids + 1] = ARGV[4 + 2 * (index - 3)] end
local notes = #ids > 0 and redis.call('HMGET', NOTES, unpack(ids)) or {}
local gone = {}
for index, id in ipairs(ids) do
  local event, note, document = ARGV[3 + 2 * index], notes[index], KEYS[2 + index]
  if note == event or note == '-' .. event then
    gone[#gone + 1] = id
    if cache == 'on' and note == event then redis.call('PEXPIRE', document, ARGV[2]) end
  elseif not note and ARGV[3] == '1' and is_after(event, settings[3] or '0-0') then
    if foreign == '' then foreign = event end
    redis.call('PERSIST', document)
  end
end
if #gone > 0 then redis.call('HDEL', NOTES, unpack(gone)) end
-- Never down: what is known to be settled would seem not to be.
if ARGV[1] ~= '' and not is_after(settings[2], ARGV[1]) then redis.call('HSET', SETTINGS, 'settled', ARGV[1]) end
if foreign ~= '' and cache == 'on' then redis.call('HSET', SETTINGS, 'cache', 'leaving', 'foreign', foreign) end
return foreign
