-- What insert, update and restore share: numbers that no spelling gives exactly.

-- Adds to numbers of a document what is missing, by a JSON list of path and number in turn.
-- Returns the first path at which there is no number, else nil.
local function add_numbers(key, additions)
  local list = cjson.decode(additions)
  for index = 1, #list, 2 do
    local sum = redis.call('JSON.NUMINCRBY', key, list[index], list[index + 1])
    if not string.find(sum, '^%[%-?%d') then return list[index] end
  end
end
