-- What resend and mend share: an event with a document's present state, or a delete where it is gone.

-- notes: where the entity has a cache  payload: where the event is to have it; else it stands for what the document is when
--   it is read
-- Returns the event's stream id, or "" where nothing was appended.
local function resend(stream, document, id, ts, there, payload, cache, notes)
  -- One that was evicted is in the target as it is.
  if not there and cache and cache ~= 'noting' and redis.call('HEXISTS', notes, id) == 0 then return '' end
  local fields = {'ts', ts, 'doc_id', id, 'event_type', there and 'update' or 'delete'}
  if payload then fields[7], fields[8] = 'payload', payload end
  local event = redis.call('XADD', stream, '*', unpack(fields))
  if cache then
    redis.call('HSET', notes, id, there and event or '-' .. event)
    if there then redis.call('PERSIST', document) end
  end
  return event
end
