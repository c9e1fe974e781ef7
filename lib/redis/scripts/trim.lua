-- Notes how far a target is, removes the events before the lowest offset of all targets, and shows the offset to people.
-- The lowest offset's own entry stays: it is the witness that the stream has not gone back, as are those of the others.
-- KEYS: 1 stream  2 the copy of the lowest offset  3 settings of the stream, with a field for each target
-- ARGV: 1 the target's name  2 its offset (a stream id)  3 consumer group
--   4 events of this stream ever read up to the offset
--   5 the offset of the trim before, whose entry must still be there, or "0-0"  6 on_full: "stop" or "detach"
--   7… the names of all targets that the sink is configured with
-- Returns {removed, state, names of the targets that have lost their place…}; removed is -1 where the target's own
-- witness is missing: nothing is changed then.

local stream, settings, name, offset = KEYS[1], KEYS[3], ARGV[1], ARGV[2]
for _, witness in ipairs({offset, ARGV[5]}) do
  if witness ~= '0-0' and #redis.call('XRANGE', stream, witness, witness) == 0 then return {-1, ''} end
end

-- Of a target that is registered: "state offset witness on_full". One that was removed, or has lost its place, holds
-- nobody up.
local state = 'active'
local targets, count = {}, 0
local fields = redis.call('HGETALL', settings)
for index = 1, #fields, 2 do
  local target = string.match(fields[index], '^target:(.+)$')
  if target then
    local is, at, witness, on_full = string.match(fields[index + 1], '^(%S+) (%S+) (%S+) (%S+)$')
    if target == name and is then state = is end
    if is and is ~= 'removed' and is ~= 'detached' then
      targets[target] = {is = is, offset = at, witness = witness, on_full = on_full}
      count = count + 1
    end
  end
end
if state == 'removed' or state == 'detached' then return {0, state} end
if not targets[name] then count = count + 1 end
targets[name] = {is = state, offset = offset, witness = offset, on_full = ARGV[6]}

local function before(a, b)
  local ms, seq = string.match(a, '^(%d+)%-(%d+)$')
  local other_ms, other_seq = string.match(b, '^(%d+)%-(%d+)$')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(seq) < tonumber(other_seq)
end

-- Who holds up the trimming, and the offset up to which it may go; none where that is not known: of a target that
-- nobody has registered, or one that stands before a rewind, whose offset is of another history.
local function lowest()
  for index = 7, #ARGV do
    local target = ARGV[index]
    if not targets[target] and redis.call('HEXISTS', settings, 'target:' .. target) == 0 then return target, nil end
  end
  local slowest = name
  for target, at in pairs(targets) do
    if target ~= name and at.witness ~= '0-0'
      and #redis.call('XRANGE', stream, at.witness, at.witness) == 0 then return target, nil end
    if before(at.offset, targets[slowest].offset) then slowest = target end
  end
  return slowest, targets[slowest].offset
end

-- Whether writers are told to stop, by the same measure as theirs.
local function full()
  local limits = redis.call('HMGET', settings, 'max_events', 'max_bytes', 'largest')
  local events = redis.call('XLEN', stream)
  if events >= tonumber(limits[1] or math.huge) then return true end
  local max_bytes = tonumber(limits[2] or math.huge)
  return events * tonumber(limits[3] or 0) * 2 >= max_bytes
    and redis.call('MEMORY', 'USAGE', stream) >= max_bytes
end

local removed, detached = 0, {}
local slowest, to
repeat
  slowest, to = lowest()
  -- First of all writes, since a full Redis lets a script go on that has freed memory.
  removed = removed + redis.call('XTRIM', stream, 'MINID', to or '0-0')
  local lost = slowest ~= name and targets[slowest] and targets[slowest].on_full == 'detach' and full()
  if lost then
    redis.call('HSET', settings, 'target:' .. slowest, 'detached ' .. targets[slowest].offset .. ' 0-0 detach')
    detached[#detached + 1] = slowest
    targets[slowest] = nil
    count = count - 1
  end
until not lost

redis.call('HSET', settings, 'target:' .. name, state .. ' ' .. offset .. ' ' .. offset .. ' ' .. ARGV[6])
-- Named to writers that are told to stop.
local named = (count > 1 or not to) and slowest or ''
if (redis.call('HGET', settings, 'slowest') or '') ~= named then redis.call('HSET', settings, 'slowest', named) end
if to then redis.call('SET', KEYS[2], to) end
-- With nothing but the witness left, no event of the stream is large.
if redis.call('XLEN', stream) == 1 and redis.call('HEXISTS', settings, 'largest') == 1 then
  redis.call('HSET', settings, 'largest', 0)
end
-- The group is for people's tools (lag, workers): losing it costs nothing.
redis.pcall('XGROUP', 'SETID', stream, ARGV[3], offset, 'ENTRIESREAD', ARGV[4])
return {removed, state, unpack(detached)}
