-- Brings documents to what their rows hold, without events. A document is left alone if it is not as expected
-- any more, or if an event that the target does not have yet names it.
-- KEYS: 1 stream  2 settings of the stream  3… documents
-- ARGV: 1 the offset that was read with the rows  2 most entries to look through  3 most bytes of them
--   then for each document: its id, its expected JSON text ("" for missing), the new text ("" removes it,
--   "-" changes nothing), what to add to its numbers, see numbers.lua, or ""
-- Returns for each document {outcome, its JSON text afterwards or ""}. Outcomes: "restored"; "changed", it is
-- not as expected; "pending", an event after the offset names it; "unknown", the events after the offset are
-- too many, or some are missing, so nothing was changed.

local STREAM, OFFSET = KEYS[1], ARGV[1]
local entries_left, bytes_left = tonumber(ARGV[2]), tonumber(ARGV[3])

-- No event after the offset is missing if the offset's own entry is there, or if nothing was ever removed. A
-- stream without that entry is not the one that the target knows: then every entry counts.
local from = OFFSET == '0-0' and '-' or '(' .. OFFSET
local complete = true
if redis.call('EXISTS', STREAM) == 1 then
  local witness = OFFSET ~= '0-0' and #redis.call('XRANGE', STREAM, OFFSET, OFFSET) == 1
  if not witness then
    from = '-'
    local info = redis.call('XINFO', 'STREAM', STREAM)
    local fields = {}
    for index = 1, #info, 2 do fields[info[index]] = info[index + 1] end
    complete = fields['entries-added'] == fields['length']
  end
end

-- Of large events, only a few are read at a time.
local largest = tonumber(redis.call('HGET', KEYS[2], 'largest') or 0)
local count = math.max(1, math.min(100, math.floor(1048576 / math.max(1, largest))))
local named = {}
-- Documents move to other names just now.
if string.find(redis.call('HGET', KEYS[2], 'partitions') or '', 'into', 1, true) then complete = false end
while complete do
  local entries = redis.call('XRANGE', STREAM, from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    for index = 1, #entry[2], 2 do
      if entry[2][index] == 'doc_id' then named[entry[2][index + 1]] = true end
      bytes_left = bytes_left - #entry[2][index + 1]
    end
  end
  if #entries < count then break end
  entries_left = entries_left - #entries
  if entries_left <= 0 or bytes_left <= 0 then complete = false end
  from = '(' .. entries[#entries][1]
end

local answers = {}
for index = 3, #KEYS do
  local key = KEYS[index]
  local at = 4 + 4 * (index - 3)
  local id, expected, text, additions = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local kind = redis.call('TYPE', key).ok
  local now = kind == 'ReJSON-RL' and redis.call('JSON.GET', key) or ''
  local outcome = 'restored'
  if now ~= expected or (kind ~= 'none' and kind ~= 'ReJSON-RL') then outcome = 'changed'
  elseif named[id] then outcome = 'pending'
  elseif not complete then outcome = 'unknown'
  elseif text == '' then
    redis.call('DEL', key)
    now = ''
  elseif text ~= '-' then
    redis.call('JSON.SET', key, '$', text)
    if additions ~= '' then add_numbers(key, additions) end
    now = redis.call('JSON.GET', key)
  end
  answers[index - 2] = {outcome, now}
end
return answers
