-- Moves a stream's last id up to the offset: new ids begin above it, so that no new event gets an id that
-- the target has passed.
-- KEYS: 1 stream
-- ARGV: 1 the offset
-- Returns 1 where the last id was moved, 0 where it was past the offset already.

-- Removes nothing: a full Redis lets a script go on that has begun with a write that takes no memory.
redis.pcall('XTRIM', KEYS[1], 'MINID', '0-0')
return move_up(KEYS[1], ARGV[1]) and 1 or 0
