-- Looks for an answer; where there is none, one of those who ask may fetch it.
-- KEYS: the answer, who fetches it, the last number, changes of URIs (hash: place, milliseconds)
-- ARGV: milliseconds after which another may fetch, how what is there and not good enough begins, place of the URI, longest value that is told, name of this look
-- Returns: 'found', milliseconds since 1970, what is there, when its URI changed last; or 'long', its bytes; or 'fetch', milliseconds, number; or 'wait'.
-- A number is later than each before, and than all that were told before the last one was lost: it begins at the clock.
for index = 1, 3 do ours(KEYS[index], 'string') end
ours(KEYS[4], 'hash')
local now = milliseconds()
local begins = redis.call('GETRANGE', KEYS[1], 0, 39)
if begins ~= '' and begins ~= ARGV[2] then
  local bytes = redis.call('STRLEN', KEYS[1])
  if bytes > tonumber(ARGV[4]) then return { 'long', bytes } end
  return { 'found', now, redis.call('GET', KEYS[1]), redis.call('HGET', KEYS[4], ARGV[3]) or '0' }
end
if redis.call('PTTL', KEYS[2]) >= 0 then return { 'wait' } end
local number = math.max(counter(redis.call('GET', KEYS[3])) + 1, now)
redis.call('SET', KEYS[3], whole(number))
redis.call('SET', KEYS[2], whole(number) .. ' ' .. ARGV[5], 'PX', ARGV[1])
return { 'fetch', now, number }
