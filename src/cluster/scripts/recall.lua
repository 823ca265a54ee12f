-- All decisions of the cluster. What was lifted or over a day ago is forgotten, and what has no version.
-- KEYS: decisions, version
-- ARGV: seconds that it is known for how long something was lifted or over
-- Returns: the version, then what each is about and its entry.
ours(KEYS[1], 'hash')
ours(KEYS[2], 'string')

local now = tonumber(redis.call('TIME')[1])
local all = redis.call('HGETALL', KEYS[1])
local answer = { whole(counter(redis.call('GET', KEYS[2]))) }
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
