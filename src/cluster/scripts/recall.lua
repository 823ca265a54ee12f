-- All decisions of the cluster. What was lifted or over a day ago is forgotten, and what has no version.
-- KEYS: decisions, version
-- ARGV: seconds that it is known for how long something was lifted or over
-- Returns: the version, then what each is about and its entry.
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

local now = tonumber(redis.call('TIME')[1])
local all = redis.call('HGETALL', KEYS[1])
local answer = { string.format('%.0f', counter(redis.call('GET', KEYS[2]))) }
if answer[1] == '0' then redis.call('DEL', KEYS[2]) end
for at = 1, #all, 2 do
  local good, entry = pcall(cjson.decode, all[at + 1])
  local over = not good or type(entry) ~= 'table' or counted(entry.version) == 0
  if not over and type(entry.value) == 'table' then
    over = tonumber(entry.value['until']) and entry.value['until'] + ARGV[1] < now
  elseif not over then
    over = (tonumber(entry.at) or 0) + ARGV[1] < now
  end
  if over then
    redis.call('HDEL', KEYS[1], all[at])
  else
    answer[#answer + 1] = all[at]
    answer[#answer + 1] = all[at + 1]
  end
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2592000000) end
return answer
