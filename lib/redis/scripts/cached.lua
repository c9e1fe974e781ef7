-- Takes a step of turning a cache on or off, in one partition.
-- KEYS: 1 settings of the stream  2 stream  3 notes
-- ARGV: 1 "note": writers note each event from now on, and the target has to hold those of before; "on": documents may be
--   evicted, if no event was written without a note; "leave": none is given a time any more; "off": there is no cache
--   any more  2 for "on" and "off": how often it had been turned after the step before; else ""
-- Returns {the last event of before all was noted, how often it has been turned}; a step that comes after one of somebody
-- else is not taken: {"", ""}.

local SETTINGS, STREAM, NOTES = KEYS[1], KEYS[2], KEYS[3]
-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.call('HDEL', NOTES, '')
local state = redis.call('HGET', SETTINGS, 'cache')
-- How often it was turned: whoever takes long may see that it is not as it was, though it is on, or off, again.
local function turned() return redis.call('HGET', SETTINGS, 'turned') or '0' end
local function turn() redis.call('HSET', SETTINGS, 'turned', tonumber(turned()) + 1) end
local function set(to)
  redis.call('HSET', SETTINGS, 'cache', to)
  turn()
end
-- What somebody else has turned on may have given documents a time, and off may have taken the notes away.
local is_over = ARGV[1] == 'on' and state == 'on' or ARGV[1] == 'off' and not state
if ARGV[2] ~= '' and not is_over and ARGV[2] ~= turned() then return {'', ''} end
if ARGV[1] == 'note' then
  local foreign = redis.call('HGET', SETTINGS, 'foreign')
  if state ~= 'on' or foreign then
    local last, info = '0-0', redis.pcall('XINFO', 'STREAM', STREAM)
    for index = 1, info.err and 0 or #info, 2 do
      if info[index] == 'last-generated-id' then last = info[index + 1] end
    end
    -- What was evicted before is still read from the target.
    set((state == 'leaving' or state == 'on') and 'leaving' or 'noting')
    redis.call('HSET', SETTINGS, 'noted_from', last)
    redis.call('HDEL', SETTINGS, 'foreign')
  end
elseif ARGV[1] == 'on' then
  if state and state ~= 'on' and redis.call('HEXISTS', SETTINGS, 'foreign') == 0 then set('on') end
elseif ARGV[1] == 'leave' then
  if state == 'noting' then
    redis.call('HDEL', SETTINGS, 'cache')
    turn()
  elseif state and state ~= 'leaving' then set('leaving') end
elseif ARGV[1] == 'off' then
  redis.call('HDEL', SETTINGS, 'cache', 'settled', 'noted_from', 'foreign')
  redis.call('DEL', NOTES)
  turn()
end
return {redis.call('HGET', SETTINGS, 'noted_from') or '0-0', turned()}
