-- Nothing came of a fetch: another may begin.
-- KEYS: who fetches
-- ARGV: number of the fetch, channel, message for those who wait
if redis.call('TYPE', KEYS[1])['ok'] == 'string' and redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return 1
