-- What was thrown away, for an instance that may have missed something. What is older than a day is forgotten, as answers are by then.
-- KEYS: the purges (sorted set: JSON, milliseconds), the moment of the last one that was forgotten early, then changes of URIs (hash: place, milliseconds) for each space
-- Returns: milliseconds since 1970, the moment of the last one that was forgotten early, purges and their moments in turn, the moment of the last change in each space.
ours(KEYS[1], 'zset')
ours(KEYS[2], 'string')
local now = milliseconds()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400000)
local changes = {}
for index = 3, #KEYS do
  ours(KEYS[index], 'hash')
  changes[index - 2] = redis.call('HGET', KEYS[index], 'last') or '0'
end
return { now, redis.call('GET', KEYS[2]) or '0', redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), changes }
