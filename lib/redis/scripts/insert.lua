-- Stores a new document and appends its insert event.
-- KEYS, ARGV 1-3, returns: see common.lua
-- ARGV: 4 the document, spelled for RedisJSON  5 "1" replaces an existing document, "0" refuses it
--   6 the payload where it differs from 4, else ""  7 what to add to its numbers, see numbers.lua, or ""
--   8 with a cache: the offset at which its target had no such document; "fresh" where nobody can have; "" for unknown
-- Refuses with exists, wrong_type, permission, partitions, request_conflict, max_events, max_bytes

local EVENT_TYPE = 'insert'
local document = ARGV[4]
if not redis.acl_check_cmd('JSON.SET', DOCUMENT, '$', '{}') then return {'permission', 'JSON.SET'} end
local payload = ARGV[6] ~= '' and ARGV[6] or document
-- May we note the longest payload of the stream? By it, the sink knows how many events fit its memory.
if #payload > LARGEST and FORWARD and not redis.acl_check_cmd('HSET', SETTINGS, 'largest', '0') then
  return {'permission', 'HSET'}
end
if CACHE then
  TIMED = ARGV[5] == '1'
  if TIMED and not redis.acl_check_cmd('PERSIST', DOCUMENT) then return {'permission', 'PERSIST'} end
  if not redis.acl_check_cmd('DEL', ASKED) then return {'permission', 'DEL'} end
end
if EVICTS and ARGV[5] ~= '1' and ARGV[8] ~= 'fresh' and redis.call('HEXISTS', NOTES, ARGV[1]) == 0
  and redis.call('EXISTS', DOCUMENT) == 0
  and (ARGV[8] == '' or is_after(redis.call('HGET', SETTINGS, 'settled'), ARGV[8])) then
  return {'evicted', ''}
end
-- Adding cannot fail if the path is right; if it is not, everything is put back.
local before, left
if ARGV[7] ~= '' then
  for _, command in ipairs({{'JSON.NUMINCRBY', '$', '1'}, {'DEL'}, {'RESTORE', '0', '', 'REPLACE'}}) do
    local name = table.remove(command, 1)
    if not redis.acl_check_cmd(name, DOCUMENT, unpack(command)) then return {'permission', name} end
  end
  before = redis.call('DUMP', DOCUMENT)
  left = CACHE and math.max(0, redis.call('PTTL', DOCUMENT)) or 0
end
local stored
if ARGV[5] == '1' then
  stored = redis.pcall('JSON.SET', DOCUMENT, '$', document)
else
  stored = redis.pcall('JSON.SET', DOCUMENT, '$', document, 'NX')
end
if not stored then return {'exists', ''} end
if stored.err then
  -- RedisJSON looks at the key and at the text before it changes anything.
  if string.find(stored.err, 'wrong Redis type', 1, true) then return {'wrong_type', DOCUMENT} end
  if not string.find(stored.err, 'line %d+ column') then error(stored) end
  return {'invalid', stored.err}
end
if ARGV[7] ~= '' then
  local path = add_numbers(DOCUMENT, ARGV[7])
  if path then
    if before then redis.call('RESTORE', DOCUMENT, left, before, 'REPLACE') else redis.call('DEL', DOCUMENT) end
    return {'invalid', 'no number at ' .. path}
  end
end
