-- Looks for an answer; where there is none, one of those who ask may fetch it.
-- KEYS: the answer, who fetches it, the last number, changes of URIs (hash: place, milliseconds)
-- ARGV: milliseconds after which another may fetch, 1 where what is there is not good enough, place of the URI
-- Returns: 'found', milliseconds since 1970, what is there, when its URI changed last; or 'fetch', milliseconds, number; or 'wait'.
for index = 1, 3 do ours(KEYS[index], 'string') end
ours(KEYS[4], 'hash')
local now = milliseconds()
if ARGV[2] ~= '1' then
  local there = redis.call('GET', KEYS[1])
  if there then return { 'found', now, there, redis.call('HGET', KEYS[4], ARGV[3]) or '0' } end
end
if redis.call('EXISTS', KEYS[2]) == 1 then return { 'wait' } end
local number = redis.call('INCR', KEYS[3])
redis.call('SET', KEYS[2], number, 'PX', ARGV[1])
return { 'fetch', now, number }
