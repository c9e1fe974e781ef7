-- What trim and register share: the field of a target in a stream's settings, "state offset witness on_full".

local STATES = {active = true, paused = true, filling = true, detached = true, removed = true}

local function is_id(text)
  local ms, seq = string.match(text, '^(%d+)%-(%d+)$')
  return ms and #ms < 20 and #seq < 20
end

-- One that cannot be read says nothing of how far its target is, which may lack all then.
local function registration_of(field)
  local is, offset, witness, on_full = string.match(field, '^(%l+) (%S+) (%S+) (%l+)$')
  if STATES[is] and is_id(offset) and is_id(witness) and (on_full == 'stop' or on_full == 'detach') then
    return {is = is, offset = offset, witness = witness, on_full = on_full}
  end
  return {is = 'active', offset = '0-0', witness = '0-0', on_full = 'stop'}
end

local function field_of(target)
  return table.concat({target.is, target.offset, target.witness, target.on_full}, ' ')
end
