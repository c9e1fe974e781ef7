-- Appends the event and returns its stream id. It ends insert, update and delete.
-- The verb has set EVENT_TYPE, and payload, which is nil for a delete.

local id = ''
if FORWARD then
  if payload then
    if #payload > LARGEST then redis.call('HSET', SETTINGS, 'largest', #payload) end
    id = redis.call('XADD', STREAM, '*', 'ts', ARGV[2], 'doc_id', ARGV[1],
      'event_type', EVENT_TYPE, 'payload', payload)
  else
    id = redis.call('XADD', STREAM, '*', 'ts', ARGV[2], 'doc_id', ARGV[1],
      'event_type', EVENT_TYPE)
  end
  -- The sequence may not pass MAX_SEQUENCE (core/stream_ids.ts), 1048575. It gets near only where the
  -- clock was set back, and stays so; then the next event takes the next millisecond. A time has 13
  -- digits and the limit 7, so nearly every id is too short to need a closer look.
  if #id > 20 then
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    if tonumber(seq) >= 1048574 then
      local moved = redis.pcall('XSETID', STREAM, string.format('%.0f', tonumber(ms) + 1) .. '-0')
      -- Another program has passed it, which does not look: this event is parked, so it is sent once more.
      if tonumber(seq) > 1048575 and not moved.err then
        id = redis.call('XADD', STREAM, '*', 'ts', ARGV[2], 'doc_id', ARGV[1], 'event_type', EVENT_TYPE,
          unpack(payload and {'payload', payload} or {}))
      end
    end
  end
end
if CACHE then
  -- The document's last event, until the cache's target has it; with "-" before it for a delete.
  redis.call('HSET', NOTES, ARGV[1], payload and id or '-' .. id)
  -- Nothing may evict what the target does not have.
  if TIMED then redis.call('PERSIST', DOCUMENT) end
  -- It is not missing any more, where that was remembered.
  if EVENT_TYPE == 'insert' then redis.call('DEL', ASKED) end
end
if DUE and not HAS_DUE and (REQUEST or TTL ~= '') then redis.call('HSET', SETTINGS, 'due', 1) end
if TTL ~= '' then redis.call('ZADD', DUE, now_ms() + TTL, 'd' .. ARGV[1])
elseif HAS_DUE and EVENT_TYPE ~= 'update' then redis.call('ZREM', DUE, 'd' .. ARGV[1]) end
if REQUEST then
  -- A repartition moves it to where the document goes.
  redis.call('HSET', REQUEST, 'call', ARGV[#ARGV - 1], 'stream_id', id, 'doc_id', ARGV[1])
  if DUE then redis.call('ZADD', DUE, now_ms() + 1000 * ARGV[#ARGV], 'r' .. REQUEST)
  else redis.call('EXPIRE', REQUEST, ARGV[#ARGV]) end
end
return id
