-- Notes how far a target is, removes the events before the lowest offset of all targets, and shows the offset to people.
-- The lowest offset's own entry stays: it is the witness that the stream has not gone back, as are those of the others.
-- Entries that all targets hold may stay for a while, as long as they take no room that writers need.
-- KEYS: 1 stream  2 the copy of the lowest offset  3 settings of the stream, with a field for each target
-- ARGV: 1 the target's name  2 its offset (a stream id)  3 the entry that must still be there for it, or "0-0"
--   4 consumer group  5 events of this stream ever read up to the offset
--   6 the offset of the trim before, whose entry must still be there, or "0-0"
--   7 how long an entry stays at least, in ms  8… the name and the on_full ("stop" or "detach") of each target that the sink is configured with,
--   and that has this partition
-- Returns {removed, state, the offset to which it may be trimmed, whether entries stay that all hold (1 or 0), names of
-- the targets that have lost their place…}; removed is -1 where the target's own witness is missing: nothing is changed
-- then.

local stream, settings, name, offset = KEYS[1], KEYS[3], ARGV[1], ARGV[2]

local function is_gone(witness)
  return witness ~= '0-0' and #redis.call('XRANGE', stream, witness, witness) == 0
end

-- Those that the trimming waits for. One that is configured, and that nobody has registered, may lack all. One that was
-- removed, or has lost its place, holds nobody up.
local known, targets, count = {}, {}, 0
local fields = redis.call('HGETALL', settings)
for index = 1, #fields, 2 do
  local target = string.match(fields[index], '^target:(.+)$')
  if target then known[target] = registration_of(fields[index + 1]) end
end
for index = 8, #ARGV, 2 do
  local target = ARGV[index]
  known[target] = known[target] or registration_of('')
  known[target].on_full = ARGV[index + 1]
end
local own = known[name] or registration_of('')
-- A sink of before, for which nothing is kept any more; where it is being filled, it has another place now.
if own.is ~= 'active' and own.is ~= 'paused' then return {0, own.is, '', 0} end
if is_gone(ARGV[3]) or is_gone(ARGV[6]) then return {-1, '', '', 0} end
own.offset, own.witness, known[name] = offset, ARGV[3], own
for target, at in pairs(known) do
  if at.is ~= 'removed' and at.is ~= 'detached' then
    targets[target] = at
    count = count + 1
  end
end

local function before(a, b)
  local ms, seq = string.match(a, '^(%d+)%-(%d+)$')
  local other_ms, other_seq = string.match(b, '^(%d+)%-(%d+)$')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(seq) < tonumber(other_seq)
end

-- Whether a target's offset, whose witness is there, is past the end of the stream.
local function is_beyond(at)
  if at.witness ~= '0-0' and at.witness == at.offset then return false end
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for index = 1, info.err and 0 or #info, 2 do
    if info[index] == 'last-generated-id' then return before(info[index + 1], at.offset) end
  end
  return at.offset ~= '0-0'
end

-- So is its own, where the stream was mended or has gone back since it was claimed: what came since would be lost.
if is_beyond(own) then return {-1, '', '', 0} end

-- Whether a target's offset is not of this stream, as it is now: it stands before a rewind.
local function is_foreign(at)
  return is_gone(at.witness) or is_beyond(at)
end

-- Who holds up the trimming, and the offset up to which it may go.
local function lowest()
  local slowest = name
  for target, at in pairs(targets) do
    if target ~= name and is_foreign(at) then return target, '0-0' end
    if before(at.offset, targets[slowest].offset) then slowest = target end
  end
  return slowest, targets[slowest].offset
end

local limits = redis.call('HMGET', settings, 'max_events', 'max_bytes', 'largest', 'kept')
local max_events, max_bytes = tonumber(limits[1] or '') or math.huge, tonumber(limits[2] or '') or math.huge

-- By how much of itself a stream is over a part of its limits: from 0 on, it has reached it. By the same measure as the
-- writers'; what is kept is gone by then.
local function over(part)
  local events = redis.call('XLEN', stream)
  local share = 1 - max_events * part / events
  if events * (tonumber(limits[3] or '') or 0) * 2 >= max_bytes * part then
    share = math.max(share, 1 - max_bytes * part / redis.call('MEMORY', 'USAGE', stream))
  end
  return share, events
end

-- A full Redis refuses what takes memory: then nothing is kept.
local NODE = 100 -- entries, as Redis has them unless it is configured otherwise
local keep_ms = tonumber(ARGV[7])
if keep_ms > 0 and type(redis.pcall('HSET', settings, 'target:' .. name, field_of(own))) == 'table' then keep_ms = 0 end

-- The last entry that a target has passed stays, also where its offset has no entry: so the first entry of a stream tells
-- that no target lacks what is gone.
local function trim_to(to, witness)
  if to ~= witness and to ~= '0-0' then
    local passed = redis.call('XREVRANGE', stream, to, '-', 'COUNT', 1)[1]
    to = passed and passed[1] or '0-0'
  end
  if keep_ms == 0 then return redis.call('XTRIM', stream, 'MINID', to) end
  local due = string.format('%.0f-0', math.max(0, tonumber(redis.call('TIME')[1]) * 1000 - keep_ms))
  local gone = redis.call('XTRIM', stream, 'MINID', before(due, to) and due or to)
  -- It may take half of the room, to within a node of the stream.
  local share, events = over(0.5)
  if share <= 0 then return gone end
  local nodes = redis.call('XTRIM', stream, 'MINID', '~', to, 'LIMIT', math.ceil(share * events) + NODE)
  return gone + (nodes > 0 and nodes or redis.call('XTRIM', stream, 'MINID', to))
end

-- How many entries are kept that all targets hold, at least; the witness is none of them. What the others have read is
-- not known here: where they are behind, what they have noted last holds, without what was removed.
local function count_kept(slowest, removed)
  if keep_ms == 0 then return 0 end
  local kept = (tonumber(limits[4] or '') or 0) - removed
  if slowest == name then
    local fields, info = {}, redis.call('XINFO', 'STREAM', stream)
    for index = 1, #info, 2 do fields[info[index]] = info[index + 1] end
    kept = math.min(fields.length, tonumber(ARGV[5]) - (fields['entries-added'] - fields.length)) - 1
  end
  return math.max(0, math.min(kept, math.floor(max_events / 2)))
end

local removed, detached = 0, {}
local slowest, to
repeat
  slowest, to = lowest()
  -- First of all writes, since a full Redis lets a script go on that has freed memory.
  removed = removed + trim_to(to, targets[slowest].witness)
  local lost = slowest ~= name and targets[slowest].on_full == 'detach' and over(1) >= 0
  if lost then
    local gone = targets[slowest]
    gone.is, gone.witness = 'detached', '0-0'
    redis.call('HSET', settings, 'target:' .. slowest, field_of(gone))
    detached[#detached + 1] = slowest
    targets[slowest] = nil
    count = count - 1
  end
until not lost

redis.call('HSET', settings, 'target:' .. name, field_of(own))
-- Named to writers that are told to stop.
local named = count > 1 and slowest or ''
if (redis.call('HGET', settings, 'slowest') or '') ~= named then redis.call('HSET', settings, 'slowest', named) end
if to ~= '0-0' then redis.call('SET', KEYS[2], to) end
-- They do not count for the writers.
local kept = count_kept(slowest, removed)
if kept ~= (tonumber(limits[4] or '') or 0) then redis.call('HSET', settings, 'kept', kept) end
-- With nothing but the witness left, no event of the stream is large.
if redis.call('XLEN', stream) == 1 and redis.call('HEXISTS', settings, 'largest') == 1 then
  redis.call('HSET', settings, 'largest', 0)
end
-- The group is for people's tools (lag, workers): losing it costs nothing.
redis.pcall('XGROUP', 'SETID', stream, ARGV[4], offset, 'ENTRIESREAD', ARGV[5])
local stays = 0
if keep_ms > 0 and to ~= '0-0' then stays = #redis.call('XRANGE', stream, '-', '(' .. to, 'COUNT', 1) end
return {removed, own.is, to, stays, unpack(detached)}
