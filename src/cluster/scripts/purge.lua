-- Writes down what is thrown away, and tells everybody. What is older than a day is forgotten, as answers are by then.
-- KEYS: the purges (sorted set: JSON, milliseconds), the moment of the last one that was forgotten early
-- ARGV: JSON, how many are remembered, channel
-- Returns: milliseconds since 1970.
ours(KEYS[1], 'zset')
ours(KEYS[2], 'string')
local now = milliseconds()
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400000)
local many = redis.call('ZCARD', KEYS[1]) - ARGV[2]
if many > 0 then
  local last = redis.call('ZRANGE', KEYS[1], many - 1, many - 1, 'WITHSCORES')
  redis.call('SET', KEYS[2], last[2], 'PX', 86400000)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, many - 1)
end
redis.call('PEXPIRE', KEYS[1], 90000000)
redis.call('PUBLISH', ARGV[3], '{"at":' .. whole(now) .. ',"purge":' .. ARGV[1] .. '}')
return now
