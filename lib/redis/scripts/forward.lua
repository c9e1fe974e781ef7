-- Moves a stream's last id up to the offset: new ids begin above it, so that no new event gets an id that
-- the target has passed.
-- KEYS: 1 stream
-- ARGV: 1 the offset
-- Returns 1 where the last id was moved, 0 where it was past the offset already.

-- Where there is none: a stream can only be made empty by a group, which goes again.
if not redis.pcall('XGROUP', 'CREATE', KEYS[1], 'made', '0-0', 'MKSTREAM').err then
  redis.call('XGROUP', 'DESTROY', KEYS[1], 'made')
end
-- XSETID refuses an id below the newest entry: then the stream is past the offset already.
local moved = redis.pcall('XSETID', KEYS[1], ARGV[1])
if not moved.err then return 1 end
return string.find(moved.err, 'smaller than', 1, true) and 0 or moved
