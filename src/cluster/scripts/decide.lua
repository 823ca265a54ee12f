-- A decision of one instance becomes one of the cluster, unless somebody decided the same thing later.
-- KEYS: decisions (hash: what it is about as JSON, entry as JSON), version (counter)
-- ARGV: channel, what it is about, the version that it follows, the highest version that the instance knows, when it was
--       decided (seconds since 1970), the entry as JSON without `{` and without its version
-- Returns: 1 and the version, or 0 and the entry that stands.
local there = redis.call('TYPE', KEYS[1])['ok']
if there ~= 'none' and there ~= 'hash' then redis.call('DEL', KEYS[1]) end
there = redis.call('TYPE', KEYS[2])['ok']
if there ~= 'none' and there ~= 'string' then redis.call('DEL', KEYS[2]) end

-- A version is a whole number that a double has exactly; anything else counts as none.
local counted = function(number)
  if type(number) ~= 'number' or not (number >= 0 and number <= 4503599627370496) then return 0 end
  return number == math.floor(number) and number or 0
end
local counter = function(text) return counted(tonumber(string.match(text or '', '^%d+$'))) end

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
version = string.format('%.0f', math.min(version + 1, 4503599627370496))
local entry = '{"version":' .. version .. ',' .. ARGV[6]
redis.call('SET', KEYS[2], version)
redis.call('HSET', KEYS[1], ARGV[2], entry)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2592000000) end
redis.call('PUBLISH', ARGV[1], '{"about":' .. ARGV[2] .. ',"entry":' .. entry .. '}')
return { 1, version }
