-- Settles keys of rate limits: adds what an instance let pass, answers where all are. Time is Redis's own.
-- KEYS: the keys (hash: due in microseconds since 1970 and part of one, born: since when
--   it is in use, @INSTANCE: when that one settled last)
-- ARGV: name of the instance, then for each key: requests, microseconds that it is ahead at least, microseconds of a period,
--   requests of a period, burst
-- Returns for each key: microseconds that it is ahead, instances that use it (0 where that cannot be known yet).
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local own = '@' .. ARGV[1]
local answer = {}
for place, key in ipairs(KEYS) do
  local at = place * 5 - 4
  local taken, ahead, burst = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 5])
  local interval = ARGV[at + 3] / ARGV[at + 4]
  local there = redis.pcall('HGETALL', key)
  if there['err'] then
    if not string.find(there['err'], 'WRONGTYPE', 1, true) then return there end
    redis.call('DEL', key)
    there = {}
  end
  local due, part, born, last, among = 0, 0, now, 0, 1
  for field = 1, #there, 2 do
    local name, value = there[field], tonumber(there[field + 1]) or 0
    if name == 'due' then due = value
    elseif name == 'part' then part = value
    elseif name == 'born' then born = math.min(value, now)
    else
      if value <= now then last = math.max(last, value) end
      if name ~= own then
        if value <= now and now - value < 1000000 then among = among + 1 else redis.call('HDEL', key, name) end
      end
    end
  end
  -- After a while in which nobody came, others may come at this moment.
  if now - last > 500000 then born = now end
  -- More than twice the burst was never due: a clock was set back, or somebody else wrote here.
  local most = now + 2 * (burst + 1) * interval
  if not (due <= most) then due = math.floor(most) end
  if not (part >= 0 and part < 1) then part = 0 end
  part = part + taken * interval
  due = due + math.floor(part)
  part = part - math.floor(part)
  if due < now + ahead then due, part = math.floor(now + ahead), 0 end
  redis.call('HSET', key, 'due', whole(due), 'part', string.format('%.6f', part), 'born', whole(born), own, whole(now))
  redis.call('PEXPIRE', key, whole(math.max(math.ceil((due - now) / 1000), 0) + 1000))
  answer[#answer + 1] = due - now
  answer[#answer + 1] = now - born < 50000 and 0 or among
end
return answer
