-- Removes a document and appends its delete event.
-- KEYS, ARGV 1-8, returns: see common.lua
-- Refuses with missing, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local kind = redis.call('TYPE', DOCUMENT).ok
local answer = check({'DEL', DOCUMENT}, kind)
if answer then return answer end
if kind == 'none' then return {'missing', ''} end
redis.call('DEL', DOCUMENT)
return append('delete', nil)
