-- A sign of life: who is alive, and who leads. Time is Redis's own.
-- KEYS: members (sorted set: name, milliseconds of the last sign), about (hash: name, JSON), leader (hash: id, until, token)
-- ARGV: name, JSON about it, milliseconds until the dead are dead, milliseconds of a lease, the highest token known, 1 to lead if nobody does
-- Returns: milliseconds since 1970, leader, token, then name, milliseconds since its last sign, JSON for each that is alive.
ours(KEYS[1], 'zset')
ours(KEYS[2], 'hash')
ours(KEYS[3], 'hash')

local now = milliseconds()
local function bury(from, to)
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], from, to)) do
    redis.call('ZREM', KEYS[1], dead)
    redis.call('HDEL', KEYS[2], dead)
  end
end
bury('-inf', now - ARGV[3])
-- Where this clock was set back, or is another one's, who lives writes anew.
bury(now + ARGV[3], '+inf')
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])

local lease = redis.call('HMGET', KEYS[3], 'id', 'until', 'token')
local leader, token = lease[1], math.max(tonumber(lease[3]) or 0, tonumber(ARGV[5]))
local ends = tonumber(lease[2]) or 0
local over = not leader or ends <= now or ends > now + 2 * ARGV[4] or not redis.call('ZSCORE', KEYS[1], leader)
if ARGV[6] == '1' and (over or leader == ARGV[1]) then
  if leader ~= ARGV[1] then token = token + 1 end
  leader = ARGV[1]
  redis.call('HSET', KEYS[3], 'id', leader, 'until', now + ARGV[4], 'token', token)
elseif leader == ARGV[1] then
  redis.call('HSET', KEYS[3], 'id', '', 'until', 0, 'token', token)
  leader = ''
end
-- A cluster that is given up leaves nothing behind.
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 86400000) end

local answer = { now, leader or '', token }
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local about = redis.call('HGET', KEYS[2], id)
  if about then
    answer[#answer + 1] = id
    answer[#answer + 1] = now - redis.call('ZSCORE', KEYS[1], id)
    answer[#answer + 1] = about
  end
end
return answer
