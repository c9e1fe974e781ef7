-- What is to be done about documents that a cache does not have: who may ask its target for them.
-- KEYS: 1 stream  2 settings of the stream  3 notes  then for each document: it, and whether its target was just asked
-- ARGV: 1 for how long one who asks keeps the others waiting, in ms  2… the documents' ids
-- Returns the state of the cache, and for each document {"there", its JSON text}, {"ask"}, {"wait"}: another one asks,
-- or {"missing"}.

local cache = redis.call('HGET', KEYS[2], 'cache')
-- Nobody has written since all was emptied.
if not cache and redis.call('HEXISTS', KEYS[2], 'partitions') == 0 and redis.call('XLEN', KEYS[1]) == 0 then cache = 'on' end
local answers = {cache or ''}
for index = 4, #KEYS, 2 do
  local document, asked, id = KEYS[index], KEYS[index + 1], ARGV[index / 2]
  local text = redis.pcall('JSON.GET', document)
  if type(text) == 'table' then text = nil end
  local answer = {'missing'}
  if text then answer = {'there', text}
  elseif (cache == 'on' or cache == 'leaving') and redis.call('HEXISTS', KEYS[3], id) == 0 then
    local known = redis.call('GET', asked)
    if not known then
      -- A full Redis refuses it: then all ask for themselves.
      redis.pcall('SET', asked, '?', 'PX', ARGV[1])
      answer = {'ask'}
    elseif known == '?' then answer = {'wait'} end
  end
  answers[#answers + 1] = answer
end
return answers
