-- Renames keys, with what is left of their time. One that is not there any more was renamed before.
-- KEYS: from and to in turn
-- Returns how many were renamed.

local moved = 0
for index = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[index]) == 1 then
    redis.call('RENAME', KEYS[index], KEYS[index + 1])
    moved = moved + 1
  end
end
return moved
