-- Reads documents up to a number of bytes: their present state, for events without payload.
-- KEYS: documents
-- ARGV: 1 bytes after which no further document is read
-- Returns their JSON texts in order, "" for one that is missing, and stops early past the limit. A key of
-- another type holds no document.

local texts, bytes = {}, 0
for index, key in ipairs(KEYS) do
  local text = redis.pcall('JSON.GET', key) or ''
  if type(text) == 'table' then
    -- The type is asked only now, since nearly every key holds a document.
    if redis.call('TYPE', key).ok == 'ReJSON-RL' then error(text) end
    text = ''
  end
  texts[index] = text
  bytes = bytes + #text
  if bytes >= tonumber(ARGV[1]) then break end
end
return texts
