-- Settles what a cache's target has applied: from then on its documents may be evicted, if no newer event names them.
-- KEYS: 1 stream  2 settings of the stream  3 notes  4… documents
-- ARGV: 1 the newest of what is settled, at or behind all events below: who has read rows before it reads them again
--   2 for how long a document stays, in ms; 0 where its row is newer: it goes
--   3 where each event has been noted, if its writer knows of the cache, an entry behind them all; else ""
--   then for each document its id and the stream id of its event
-- Returns the first event that was not noted, or "": from then on nothing is evicted any more.

local STREAM, SETTINGS, NOTES = KEYS[1], KEYS[2], KEYS[3]
-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', STREAM, 'MINID', '0-0')
local settings = redis.call('HMGET', SETTINGS, 'cache', 'settled', 'noted_from')
local cache, settled, foreign = settings[1], settings[2] or '0-0', ''
local ids = {}
for index = 4, #KEYS do ids[#ids + 1] = ARGV[4 + 2 * (index - 4)] end
local notes = cache and #ids > 0 and redis.call('HMGET', NOTES, unpack(ids)) or {}
-- Where the stream has gone back since, the notes have as well, and nobody has left any out.
local is_here = ARGV[3] ~= '' and #redis.call('XRANGE', STREAM, ARGV[3], ARGV[3]) > 0
-- Such an event may have been settled before: by the partition's next owner, or when the offset was moved back.
local function may_be_settled(event) return not (is_after(event, settled) and is_after(event, settings[3] or '0-0')) end
local gone = {}
for index, id in ipairs(ids) do
  local event, note, document = ARGV[3 + 2 * index], notes[index], KEYS[3 + index]
  if note == event or note == '-' .. event then
    gone[#gone + 1] = id
    if note == event then
      if ARGV[2] == '0' then
        if cache ~= 'noting' then redis.call('UNLINK', document) end
      elseif cache == 'on' then redis.call('PEXPIRE', document, ARGV[2]) end
    end
  elseif cache and not note and is_here and not may_be_settled(event) then
    if foreign == '' then foreign = event end
    redis.call('PERSIST', document)
  end
end
if #gone > 0 then redis.call('HDEL', NOTES, unpack(gone)) end
-- In the same step: without it, a row that was read before would be taken for the newest. Never down.
if is_after(ARGV[1], settled) then redis.call('HSET', SETTINGS, 'settled', ARGV[1]) end
if foreign ~= '' and cache == 'on' then redis.call('HSET', SETTINGS, 'cache', 'leaving', 'foreign', foreign) end
return foreign
