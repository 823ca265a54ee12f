-- An instance leaves: nobody waits until it counts as dead.
-- KEYS: members, about, leader
-- ARGV: name
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[3], 'id') == ARGV[1] then
  redis.call('HSET', KEYS[3], 'id', '', 'until', 0)
end
return 1
