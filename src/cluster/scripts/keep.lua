-- Keeps what was fetched, unless somebody began to fetch it later.
-- KEYS: who fetches, then where each value belongs
-- ARGV: number of the fetch, channel, message for those who wait, then value and milliseconds for each key
-- A value begins with the number of its fetch in 20 digits.
for _, key in ipairs(KEYS) do ours(key, 'string') end
local number = tonumber(ARGV[1])
local fetches = counter(string.match(redis.call('GET', KEYS[1]) or '', '^%d+'))
if fetches > number then return 0 end
for index = 2, #KEYS do
  local there = redis.call('GETRANGE', KEYS[index], 0, 19)
  if counter(there) <= number then
    redis.call('SET', KEYS[index], ARGV[2 * index], 'PX', ARGV[2 * index + 1])
  end
end
if fetches == number then redis.call('DEL', KEYS[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
