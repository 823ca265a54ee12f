-- A URI has changed: what was asked for before is not given any more, here or anywhere.
-- KEYS: changes of URIs (hash: place, milliseconds)
-- ARGV: place of the URI, channel, message
-- Returns: milliseconds since 1970.
local there = redis.call('TYPE', KEYS[1])['ok']
if there ~= 'none' and there ~= 'hash' then redis.call('DEL', KEYS[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local text = string.format('%.0f', now)
redis.call('HSET', KEYS[1], ARGV[1], text, 'last', text)
redis.call('PEXPIRE', KEYS[1], 90000000)
redis.call('PUBLISH', ARGV[2], ARGV[3])
return now
