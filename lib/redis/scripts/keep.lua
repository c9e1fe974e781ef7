-- Keeps a lock for longer, or gives it back, where it is still its own.
-- KEYS: 1 the lock
-- ARGV: 1 the token  2 for how long, in ms; "0" gives it back
-- Returns 1, or 0 where another has it, or nobody.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
