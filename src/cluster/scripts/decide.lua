-- A decision of one instance becomes one of the cluster, unless somebody decided the same thing later.
-- KEYS: decisions (hash: what it is about as JSON, entry as JSON), version (counter)
-- ARGV: channel, what it is about, the version that it follows, the highest version that the instance knows, when it was
--       decided (seconds since 1970), the entry as JSON without `{` and without its version
-- Returns: 1 and the version, or 0 and the entry that stands.
ours(KEYS[1], 'hash')
ours(KEYS[2], 'string')

local version = math.max(counter(redis.call('GET', KEYS[2])), counter(ARGV[4]))
local known = redis.call('HGET', KEYS[1], ARGV[2])
if known then
  local good, entry = pcall(cjson.decode, known)
  if good and type(entry) == 'table' then
    local stands = counted(entry.version)
    if stands > counter(ARGV[3]) and (tonumber(entry.at) or 0) > tonumber(ARGV[5]) then return { 0, known } end
    version = math.max(version, stands)
  end
end
version = whole(math.min(version + 1, 4503599627370496))
local entry = '{"version":' .. version .. ',' .. ARGV[6]
redis.call('SET', KEYS[2], version)
redis.call('HSET', KEYS[1], ARGV[2], entry)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2592000000) end
redis.call('PUBLISH', ARGV[1], '{"about":' .. ARGV[2] .. ',"entry":' .. entry .. '}')
return { 1, version }
