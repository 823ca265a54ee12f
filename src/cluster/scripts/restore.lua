-- Gives back to Redis what it lost: entries that are newer than its own, with the versions that they have. Of two of one version
-- the one that was decided later stands, and of two of one moment that of the instance whose name comes later.
-- KEYS: decisions, version
-- ARGV: channel, the highest version that the instance knows, then for each: what it is about, its version, its entry
-- Returns: the version.
ours(KEYS[1], 'hash')
ours(KEYS[2], 'string')

-- Whether a text comes after another one by its bytes: `>` would go by the language of the host.
local function after(one, other)
  for at = 1, math.min(#one, #other) do
    local this, that = string.byte(one, at), string.byte(other, at)
    if this ~= that then return this > that end
  end
  return #one > #other
end
-- The moment and the instance of an entry.
local function decided(text)
  local good, entry = pcall(cjson.decode, text)
  if not good or type(entry) ~= 'table' then return 0, '' end
  return tonumber(entry.at) or 0, type(entry.by) == 'string' and entry.by or ''
end
local function stands(version, text, known)
  local good, entry = pcall(cjson.decode, known)
  local there = good and type(entry) == 'table' and counted(entry.version) or 0
  if version ~= there then return version > there end
  local at, by = decided(text)
  local since, whose = decided(known)
  if at ~= since then return at > since end
  return after(by, whose)
end

local version = math.max(counter(redis.call('GET', KEYS[2])), counter(ARGV[2]))
for at = 3, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  if not known or stands(counter(ARGV[at + 1]), ARGV[at + 2], known) then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 2])
    redis.call('PUBLISH', ARGV[1], '{"about":' .. ARGV[at] .. ',"entry":' .. ARGV[at + 2] .. '}')
  end
end
version = whole(version)
redis.call('SET', KEYS[2], version)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2592000000) end
return version
