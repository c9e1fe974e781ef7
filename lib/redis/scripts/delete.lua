-- Removes a document and appends its delete event.
-- KEYS, ARGV 1-3, returns: see common.lua
-- Refuses with missing, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local EVENT_TYPE = 'delete'
local payload
local kind = redis.call('TYPE', DOCUMENT).ok
if kind == 'none' then return {'missing', ''} end
if kind ~= 'ReJSON-RL' then return {'wrong_type', DOCUMENT} end
if not redis.acl_check_cmd('DEL', DOCUMENT) then return {'permission', 'DEL'} end
redis.call('DEL', DOCUMENT)
