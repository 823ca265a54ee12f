-- Gives back to Redis what it lost: entries that are newer than its own, with the versions that they have.
-- KEYS: decisions, version
-- ARGV: channel, the highest version that the instance knows, then for each: what it is about, its version, its entry
-- Returns: the version.
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
version = string.format('%.0f', version)
redis.call('SET', KEYS[2], version)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2592000000) end
return version
