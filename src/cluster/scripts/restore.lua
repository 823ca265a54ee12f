-- Gives back to Redis what it lost: entries that are newer than its own, with the versions that they have.
-- KEYS: decisions, version
-- ARGV: channel, the highest version that the instance knows, then for each: what it is about, its version, its entry
-- Returns: the version.
ours(KEYS[1], 'hash')
ours(KEYS[2], 'string')

local version = math.max(counter(redis.call('GET', KEYS[2])), counter(ARGV[2]))
for at = 3, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  local stands = 0
  if known then
    local good, entry = pcall(cjson.decode, known)
    if good and type(entry) == 'table' then stands = counted(entry.version) end
  end
  if counter(ARGV[at + 1]) > stands then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    redis.call('PUBLISH', ARGV[1], '{"about":' .. ARGV[at] .. ',"entry":' .. ARGV[at + 2] .. '}')
  end
end
version = whole(version)
redis.call('SET', KEYS[2], version)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2592000000) end
return version
