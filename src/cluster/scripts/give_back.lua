-- Nothing came of fetches: others may begin.
-- KEYS: who fetches, for each
-- ARGV: channel, then number of the fetch or name of the look that began it, and message for those who wait, for each
for index, key in ipairs(KEYS) do
  if redis.call('TYPE', key)['ok'] == 'string' then
    local number, name = string.match(redis.call('GET', key) or '', '^(%d+) (.*)$')
    if number and (number == ARGV[2 * index] or name == ARGV[2 * index]) then
      redis.call('DEL', key)
      redis.call('PUBLISH', ARGV[1], ARGV[2 * index + 1])
    end
  end
end
return 1
