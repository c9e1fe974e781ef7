-- Removes a document and appends its delete event.
-- KEYS, ARGV 1-3, returns: see common.lua
-- Refuses with missing, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local EVENT_TYPE = 'delete'
local payload
local kind = redis.call('TYPE', DOCUMENT).ok
if kind == 'none' then
  local note = EVICTS and redis.call('HGET', NOTES, ARGV[1])
  -- One that was evicted, or is nowhere: its row goes, if there is one.
  if not EVICTS or note and string.byte(note) == 45 then return {'missing', ''} end
elseif kind ~= 'ReJSON-RL' then return {'wrong_type', DOCUMENT} end
if not redis.acl_check_cmd('DEL', DOCUMENT) then return {'permission', 'DEL'} end
redis.call('DEL', DOCUMENT)
