-- What is to be done about documents that a cache does not have: who may ask its target for them.
-- KEYS: 1 stream  2 settings of the stream  3 notes  then for each document: it, and whether its target was just asked
-- ARGV: 1 for how long one who asks keeps the others waiting, in ms  2… the documents' ids
-- Returns the newest of what is settled, or "", and for each document {"there", its JSON text}, {"ask"}, {"wait"}: another one
-- asks, {"missing"}, or {"off"}: the cache is, so nothing was evicted.

-- Who asks is noted for a moment only, so neither a file nor a replica need it.
redis.set_repl(redis.REPL_NONE)
local answers = {settled or ''}
for index = 4, #KEYS, 2 do
  local document, asked, id = KEYS[index], KEYS[index + 1], ARGV[index / 2]
  local text = redis.pcall('JSON.GET', document)
  if type(text) == 'table' then text = nil end
  local answer = {evicts and 'missing' or 'off'}
  if text then answer = {'there', text}
  elseif evicts and redis.call('HEXISTS', KEYS[3], id) == 0 then
    -- A full Redis refuses it: then all ask for themselves.
    local known = redis.pcall('SET', asked, '?', 'NX', 'GET', 'PX', ARGV[1])
    if not known or type(known) == 'table' then answer = {'ask'}
    elseif known == '?' then answer = {'wait'} end
  end
  answers[#answers + 1] = answer
end
return answers
