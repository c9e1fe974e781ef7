-- Stores a new document and appends its insert event.
-- KEYS, ARGV 1-8, returns: see common.lua
-- ARGV: 9 the document, spelled for RedisJSON  10 the payload where it differs from 9, else ""
--   11 "1" replaces an existing document, "0" refuses it
-- Refuses with exists, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local kind = redis.call('TYPE', DOCUMENT).ok
local answer, largest = check({'JSON.SET', DOCUMENT, '$', '{}'}, kind)
if answer then return answer end
if kind ~= 'none' and ARGV[11] ~= '1' then return {'exists', ''} end
redis.call('JSON.SET', DOCUMENT, '$', ARGV[9])
return append('insert', ARGV[10] ~= '' and ARGV[10] or ARGV[9], largest)
