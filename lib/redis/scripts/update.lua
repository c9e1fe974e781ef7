-- Merges a patch (RFC 7386) into a document and appends its update event with the whole new document.
-- KEYS, ARGV 1-3, returns: see common.lua
-- ARGV: 4 the patch, spelled for RedisJSON  5 documents.max_bytes
--   6 what to add to the patch's numbers, see numbers.lua, or ""
-- Refuses with missing, too_large, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local EVENT_TYPE = 'update'
local kind = redis.call('TYPE', DOCUMENT).ok
if kind == 'none' then
  if EVICTS and redis.call('HEXISTS', NOTES, ARGV[1]) == 0 then return {'evicted', ''} end
  return {'missing', ''}
end
if kind ~= 'ReJSON-RL' then return {'wrong_type', DOCUMENT} end
if not redis.acl_check_cmd('JSON.MERGE', DOCUMENT, '$', '{}') then
  return {'permission', 'JSON.MERGE'}
end
if not redis.acl_check_cmd('JSON.GET', DOCUMENT, '$') then return {'permission', 'JSON.GET'} end
if CACHE then
  TIMED = true
  if not redis.acl_check_cmd('PERSIST', DOCUMENT) then return {'permission', 'PERSIST'} end
end
-- Only after the merge is it known how long the payload is, and whether that has to be noted.
if FORWARD and not redis.acl_check_cmd('HSET', SETTINGS, 'largest', '0') then
  return {'permission', 'HSET'}
end

-- A merge cannot be undone by another merge, so a copy is kept of a document near the limit. A character
-- that takes one byte in memory takes at most six in text (\u0001).
local limit = tonumber(ARGV[5])
local before, left
if ARGV[6] ~= '' and not redis.acl_check_cmd('JSON.NUMINCRBY', DOCUMENT, '$', '1') then
  return {'permission', 'JSON.NUMINCRBY'}
end
if ARGV[6] ~= '' or (redis.call('JSON.DEBUG', 'MEMORY', DOCUMENT) + #ARGV[4]) * 6 > limit then
  if not redis.acl_check_cmd('RESTORE', DOCUMENT, '0', '', 'REPLACE') then
    return {'permission', 'RESTORE'}
  end
  before = redis.call('DUMP', DOCUMENT)
  left = CACHE and math.max(0, redis.call('PTTL', DOCUMENT)) or 0
end
local merged = redis.pcall('JSON.MERGE', DOCUMENT, '$', ARGV[4])
if merged.err then
  if not string.find(merged.err, 'line %d+ column') then error(merged) end
  return {'invalid', merged.err}
end
local wrong = ARGV[6] ~= '' and add_numbers(DOCUMENT, ARGV[6])
if wrong then
  redis.call('RESTORE', DOCUMENT, left, before, 'REPLACE')
  return {'invalid', 'no number at ' .. wrong}
end
local payload = redis.call('JSON.GET', DOCUMENT)
if before and #payload > limit then
  redis.call('RESTORE', DOCUMENT, left, before, 'REPLACE')
  return {'too_large', tostring(#payload)}
end
