-- What insert, update and delete share: it comes before each of them, and append.lua after it.
--
-- Redis does not undo a script that fails half way, so everything that could fail is checked before the
-- first write, and the event is appended last.
--
-- KEYS of all verbs: 1 document  2 stream  3 settings of the stream
--   [with a cache, or with due times: 4 due times  5 notes of documents  6 whether the cache's target was just asked for the
--   document]  [request]
-- ARGV of all verbs: 1 document id  2 ts (ms)  3 partitions; where the event is not forwarded, with "-" before, or
--   "0" alone, of who does not tell how many
--   4… the verb's own; with due times, the next is after how many ms the document is due to be deleted, or ""; with a request,
--   the last two are the hash of the call and request_id_ttl_seconds
-- All verbs return the event's stream id ("" where it is not forwarded), or an array:
--   {"repeated", stream id}, {a DocumentErrorCode, detail} or {a limit, what there is of it, the slowest target or ""}
--   "partitions" with how many there are, or "4 to 8" (into: documents move already) while that is changed
--   "limits": the settings have no number for one, the detail
--   "settings": the stream has none yet, so call settings.lua and then again
--   "cached": the entity has a cache, so that more of the keys are needed
--   "due": documents of the entity may be due, or the request's receipt would be evictable, so that more of the keys are
--   needed
--   "evicted": the cache's target may have the document: fill it in, or see that there is none, and call again
--
-- Mostly statements: a function would be created again in every call, which costs more than a check.

local DOCUMENT, STREAM, SETTINGS, REQUEST = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local DUE, NOTES, ASKED
if #KEYS > 4 then DUE, NOTES, ASKED, REQUEST = KEYS[4], KEYS[5], KEYS[6], KEYS[7] end
local FORWARD = ARGV[3] ~= '0' and string.byte(ARGV[3]) ~= 45
local LARGEST = 0
-- After how many ms the document is due, "" for never, or as before; and whether any document of the partition may be due.
local TTL, HAS_DUE = DUE and ARGV[#ARGV - (REQUEST and 2 or 0)] or '', false
-- What the settings say of a cache: nil for none; "noting" while it is turned on, "on", "leaving" while it is turned off.
-- Where it is on or leaving, a document that is missing and has no note is in the target as it is, or nowhere.
local CACHE, EVICTS
-- Whether the document may have a time after which it goes, so that the verb has to take it off.
local TIMED = false

-- Why a read was refused: the key's type, or the user's rights.
local function refused(reply, key)
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return {'wrong_type', key} end
  error(reply)
end

-- By the clock of this server, which tells what is due as well.
local now_ms = DUE and (REQUEST or TTL ~= '') and function()
  local time = redis.call('TIME')
  return 1000 * time[1] + math.floor(time[2] / 1000)
end
if now_ms and not redis.acl_check_cmd('TIME') then return {'permission', 'TIME'} end

if REQUEST then
  -- What has a time may be evicted before that, and the call would be done again: here receipts are due instead. The policy
  -- may be set at any time, and looking takes 10 to 20 µs.
  if not DUE then
    local memory = redis.pcall('INFO', 'memory')
    if type(memory) == 'string' and string.find(memory, 'maxmemory_policy:volatile-', 1, true) then
      return {'due', ''}
    end
  end
  local first = redis.pcall('HMGET', REQUEST, 'call', 'stream_id')
  if first.err then return refused(first, REQUEST) end
  if first[1] then
    if first[1] ~= ARGV[#ARGV - 1] then return {'request_conflict', ''} end
    -- A repeated request writes too, or a WAIT behind it would confirm nothing.
    if DUE then redis.call('ZADD', DUE, now_ms() + 1000 * ARGV[#ARGV], 'r' .. REQUEST)
    else redis.call('EXPIRE', REQUEST, ARGV[#ARGV]) end
    return {'repeated', first[2]}
  end
  if not redis.acl_check_cmd('HSET', REQUEST, 'call', '') then return {'permission', 'HSET'} end
  if DUE and not redis.acl_check_cmd('ZADD', DUE, '1', 'r') then return {'permission', 'ZADD'} end
  if DUE and not redis.acl_check_cmd('HSET', SETTINGS, 'due', '1') then return {'permission', 'HSET'} end
  if not DUE and not redis.acl_check_cmd('EXPIRE', REQUEST, '1') then return {'permission', 'EXPIRE'} end
end

if FORWARD then
  if not redis.acl_check_cmd('XADD', STREAM, '*', 'ts', '') then return {'permission', 'XADD'} end
  local events = redis.pcall('XLEN', STREAM)
  if type(events) == 'table' then return refused(events, STREAM) end
  -- Behind an entry whose id is no version (the year 2248), none can be applied, and behind the last one none appended.
  -- XREAD looks at the last entry only; XRANGE would walk through all that lie in a node with it.
  if redis.call('XREAD', 'COUNT', 1, 'STREAMS', STREAM, '8796093022207-1048575') then return {'stream', STREAM} end
  local settings = redis.pcall('HMGET', SETTINGS, 'partitions', 'max_events', 'max_bytes', 'largest', 'far', 'kept', 'cache', 'due')
  if settings.err then return refused(settings, SETTINGS) end
  local partitions, max_events, max_bytes = settings[1], tonumber(settings[2]), tonumber(settings[3])
  if not partitions then return {'settings', ''} end
  LARGEST = tonumber(settings[4] or '') or 0
  -- Such an entry was removed, but the stream's next id lies behind it still: a sink has noted it.
  if settings[5] == '1' then return {'stream', STREAM} end
  if partitions ~= ARGV[3] then return {'partitions', partitions} end
  -- People set the limits by hand.
  if not max_events then return {'limits', 'max_events'} end
  if not max_bytes then return {'limits', 'max_bytes'} end
  CACHE = settings[7]
  if CACHE then
    if not NOTES then return {'cached', ''} end
    EVICTS = CACHE ~= 'noting'
    if not redis.acl_check_cmd('HSET', NOTES, 'id', '') then return {'permission', 'HSET'} end
  end
  HAS_DUE = settings[8]
  if HAS_DUE and not DUE then return {'due', ''} end
  if HAS_DUE and not redis.acl_check_cmd('ZREM', DUE, 'd') then return {'permission', 'ZREM'} end
  if TTL ~= '' then
    if not redis.acl_check_cmd('ZADD', DUE, '1', 'd') then return {'permission', 'ZADD'} end
    if not redis.acl_check_cmd('HSET', SETTINGS, 'due', '1') then return {'permission', 'HSET'} end
  end
  -- With several targets, the one that is the furthest behind is named.
  -- What all targets hold, and is kept for a while, does not count.
  local waiting = events - (tonumber(settings[6] or '') or 0)
  if waiting >= max_events then
    return {'max_events', tostring(waiting), redis.call('HGET', SETTINGS, 'slowest') or ''}
  end
  -- A stream of few events is measured only if the largest of them could matter.
  if waiting * LARGEST * 2 >= max_bytes then
    local bytes = math.floor((redis.call('MEMORY', 'USAGE', STREAM) or 0) * waiting / events)
    if bytes >= max_bytes then
      return {'max_bytes', tostring(bytes), redis.call('HGET', SETTINGS, 'slowest') or ''}
    end
  end
elseif ARGV[3] ~= '0' then
  -- By another number of partitions, the document is kept elsewhere.
  local partitions = redis.pcall('HGET', SETTINGS, 'partitions')
  if type(partitions) == 'string' and partitions ~= string.sub(ARGV[3], 2) then return {'partitions', partitions} end
end
