-- Brings documents into a cache from their rows, or remembers that there are none. Only what is still true: a document
-- that is missing and has no note was not written since the row was read, unless what was written has been settled.
-- KEYS: 1 stream  2 settings of the stream  3 notes  then for each document: it, and whether its target was just asked
-- ARGV: 1 the offset that was read with the rows  2 for how long a document stays, in ms
--   3 for how long it is remembered that there is none, in ms; 0 for not at all
--   then for each document: its id, its new text ("" for no row, "-" for one that is not to be put back), and what to add to its
--   numbers, see numbers.lua, or ""
-- Returns for each document {outcome, its JSON text or ""}: "there", it is, meanwhile; "filled", it was missing; "unfilled",
-- the row is current, and is not put back: with the reason, or ""; "missing"; "again": read the row again.

local NOTES, OFFSET = KEYS[3], ARGV[1]
-- Documents move to other names just now.
local moves = string.find(partitions or '', 'into', 1, true)
local answers = {}
for index = 4, #KEYS, 2 do
  local document, asked = KEYS[index], KEYS[index + 1]
  local at = 4 + 3 * (index - 4) / 2
  local id, text, additions = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local kind = redis.call('TYPE', document).ok
  local answer = {'missing', ''}
  if kind == 'ReJSON-RL' then answer = {'there', redis.call('JSON.GET', document)}
  elseif kind ~= 'none' or not evicts or redis.call('HEXISTS', NOTES, id) == 1 then
    -- deleted, or not ours
  elseif is_after(settled, OFFSET) then answer = {'again', ''}
  elseif text == '' then
    if ARGV[3] ~= '0' and not moves then redis.pcall('SET', asked, '-', 'PX', ARGV[3]) end
  elseif moves then answer = {'unfilled', ''}
  elseif text == '-' then
    redis.call('DEL', asked)
    answer = {'unfilled', 'its row is no document of ours, or an event of it is parked: see dead-letter'}
  else
    local set = redis.pcall('JSON.SET', document, '$', text)
    if type(set) == 'table' and set.err then
      -- Nobody waits for it.
      redis.call('DEL', asked)
      answer = {'unfilled', set.err}
    else
      if additions ~= '' then add_numbers(document, additions) end
      if cache == 'on' then redis.call('PEXPIRE', document, ARGV[2]) end
      redis.call('DEL', asked)
      answer = {'filled', ''}
    end
  end
  answers[#answers + 1] = answer
end
return answers
