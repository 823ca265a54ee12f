-- A URI has changed: what was asked for before is not given any more, here or anywhere.
-- KEYS: changes of URIs (hash: place, milliseconds)
-- ARGV: place of the URI, channel, message
-- Returns: milliseconds since 1970.
ours(KEYS[1], 'hash')
local now = milliseconds()
local text = whole(now)
redis.call('HSET', KEYS[1], ARGV[1], text, 'last', text)
redis.call('PEXPIRE', KEYS[1], 90000000)
redis.call('PUBLISH', ARGV[2], ARGV[3])
return now
