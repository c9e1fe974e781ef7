-- What insert, fill and settle share: the order of stream ids.

-- Whether one comes after another; none comes after no other.
local function is_after(id, other)
  if not id then return false end
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)%-(%d+)$')
  if ms ~= other_ms then return tonumber(ms) > tonumber(other_ms) end
  return tonumber(seq) > tonumber(other_seq)
end
