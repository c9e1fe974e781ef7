-- Merges a patch (RFC 7386) into a document and appends its update event with the whole new document.
-- KEYS, ARGV 1-8, returns: see common.lua
-- ARGV: 9 the patch, spelled for RedisJSON  10 documents.max_bytes
-- Refuses with missing, too_large, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local kind = redis.call('TYPE', DOCUMENT).ok
local answer, largest = check({'JSON.MERGE', DOCUMENT, '$', '{}'}, kind)
if answer then return answer end
if kind == 'none' then return {'missing', ''} end
if not redis.acl_check_cmd('JSON.GET', DOCUMENT) then return {'permission', 'JSON.GET'} end

-- Merging cannot be undone by another merge, so a document near the limit is kept as it was. A character
-- takes six bytes of text at most (\u0001) where it takes one in memory.
local limit = tonumber(ARGV[10])
local before
if (redis.call('JSON.DEBUG', 'MEMORY', DOCUMENT) + #ARGV[9]) * 6 > limit then
  if not redis.acl_check_cmd('RESTORE', DOCUMENT, '0', '', 'REPLACE') then
    return {'permission', 'RESTORE'}
  end
  before = redis.call('DUMP', DOCUMENT)
end
redis.call('JSON.MERGE', DOCUMENT, '$', ARGV[9])
local payload = redis.call('JSON.GET', DOCUMENT)
if before and #payload > limit then
  redis.call('RESTORE', DOCUMENT, 0, before, 'REPLACE')
  return {'too_large', tostring(#payload)}
end
return append('update', payload, largest)
