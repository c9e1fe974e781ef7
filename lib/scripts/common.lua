-- What insert, update and delete share. It stands before each of them.
--
-- Redis does not undo a script that fails half way, so everything that could fail is checked before the
-- first write, and the event is appended last.
--
-- KEYS of all verbs: 1 document  2 stream  3 settings of the stream  [4 request]
-- ARGV of all verbs: 1 document id  2 ts (ms)  3 forward: "1" appends the event, "0" does not
--   4 partitions  5 max_events  6 max_bytes  (5 and 6 are used when the settings are first written)
--   7 hash of the call  8 request_id_ttl_seconds  (7 and 8 are "" without a request id)  9… the verb's own
-- All verbs return {"ok" | "repeated", stream id or ""} or {a DocumentErrorCode or limit, detail}.

local DOCUMENT, STREAM, SETTINGS, REQUEST = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local DOC_ID, TS, FORWARD = ARGV[1], ARGV[2], ARGV[3] == '1'

-- What a read of ours was refused for: the key's type, or the user's rights.
local function refused(reply, key)
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return {'wrong_type', key} end
  error(reply)
end

-- A refusal {code, detail}, a repeated receipt, or nil: go on.
-- `command` is the verb's own, as it will be called; `kind` is what TYPE says of the document.
local function check(command, kind)
  if REQUEST then
    local first = redis.pcall('HMGET', REQUEST, 'call', 'stream_id')
    if first.err then return refused(first, REQUEST) end
    if first[1] then
      if first[1] ~= ARGV[7] then return {'request_conflict', ''} end
      -- A repeated request writes too, or a WAIT behind it would confirm nothing.
      redis.call('EXPIRE', REQUEST, ARGV[8])
      return {'repeated', first[2]}
    end
  end
  if kind ~= 'none' and kind ~= 'ReJSON-RL' then return {'wrong_type', DOCUMENT} end
  if not redis.acl_check_cmd(unpack(command)) then return {'permission', command[1]} end
  if REQUEST then
    if not redis.acl_check_cmd('HSET', REQUEST, 'call', '') then return {'permission', 'HSET'} end
    if not redis.acl_check_cmd('EXPIRE', REQUEST, '1') then return {'permission', 'EXPIRE'} end
  end
  if not FORWARD then return nil end

  if not redis.acl_check_cmd('XADD', STREAM, '*', 'ts', '') then return {'permission', 'XADD'} end
  if not redis.acl_check_cmd('HSET', SETTINGS, 'largest', '0') then return {'permission', 'HSET'} end
  local events = redis.pcall('XLEN', STREAM)
  if type(events) == 'table' then return refused(events, STREAM) end
  local settings = redis.pcall('HMGET', SETTINGS, 'partitions', 'max_events', 'max_bytes', 'largest')
  if settings.err then return refused(settings, SETTINGS) end
  if not settings[1] then
    redis.call('HSET', SETTINGS, 'partitions', ARGV[4], 'max_events', ARGV[5], 'max_bytes', ARGV[6], 'largest', 0)
    settings = {ARGV[4], ARGV[5], ARGV[6], 0}
  end
  if settings[1] ~= ARGV[4] then return {'partitions', settings[1]} end
  if events >= tonumber(settings[2]) then return {'max_events', tostring(events)} end
  -- A stream of few events is measured only when the largest of them could matter.
  if events * tonumber(settings[4]) * 2 >= tonumber(settings[3]) then
    local bytes = redis.call('MEMORY', 'USAGE', STREAM)
    if bytes and bytes >= tonumber(settings[3]) then return {'max_bytes', tostring(bytes)} end
  end
  return nil, tonumber(settings[4])
end

-- Appends the event and gives the receipt. `payload` is nil for a delete; `largest` is the longest
-- payload that this stream has seen, which tells the sink how many events fit its memory.
local function append(event_type, payload, largest)
  local id = ''
  if FORWARD then
    if payload then
      if #payload > largest then redis.call('HSET', SETTINGS, 'largest', #payload) end
      id = redis.call('XADD', STREAM, '*', 'ts', TS, 'doc_id', DOC_ID, 'event_type', event_type,
        'payload', payload)
    else
      id = redis.call('XADD', STREAM, '*', 'ts', TS, 'doc_id', DOC_ID, 'event_type', event_type)
    end
    -- A version has 20 bits for the sequence. It comes near only where the clock was set back and
    -- stays there; the next event then takes the next millisecond.
    local ms, seq = string.match(id, '^(%d+)%-(%d%d%d%d%d%d%d+)$')
    if seq and tonumber(seq) >= 1048574 then
      redis.pcall('XSETID', STREAM, string.format('%.0f', tonumber(ms) + 1) .. '-0')
    end
  end
  if REQUEST then
    redis.call('HSET', REQUEST, 'call', ARGV[7], 'stream_id', id)
    redis.call('EXPIRE', REQUEST, ARGV[8])
  end
  return {'ok', id}
end
