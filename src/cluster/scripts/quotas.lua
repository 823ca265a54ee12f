-- Settles quotas: each instance writes its own sum of a window, and learns the sum of all.
-- KEYS: known (hash: @INSTANCE), then for each: sums (hash: resets, @INSTANCE: "PROMPT OUTPUT"), subjects of the quota (set)
-- ARGV: name of the instance, then for each: subject, prompt, output, number of the last reset that it knows (-1 for none),
--   1 to begin anew, 1 if its sum may be from before a reset, the second since 1970 at which the window ends
-- Returns: 1 if what this instance wrote before is lost, then for each: prompt and output of all others, prompt and output of
--   this one, number of the last reset, 1 if the sum of this instance is from before it.
-- Who used nothing only asks: then nothing is written.
local own = '@' .. ARGV[1]
-- A call on a key that is ours, again once it has become something else.
local healed = function(key, ...)
  local got = redis.pcall(...)
  if type(got) == 'table' and got['err'] then
    if not string.find(got['err'], 'WRONGTYPE', 1, true) then error(got['err']) end
    redis.call('DEL', key)
    got = redis.call(...)
  end
  return got
end
local answer = { healed(KEYS[1], 'HSETNX', KEYS[1], own, 1) }
redis.call('EXPIRE', KEYS[1], 2764800)
for place = 1, (#KEYS - 1) / 2 do
  local sums, subjects, at = KEYS[place * 2], KEYS[place * 2 + 1], place * 7 - 5
  local prompt, output = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local given, ends = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 6]) + 86400
  local there = healed(sums, 'HGETALL', sums)
  local resets, before, others = 0, nil, { 0, 0 }
  for field = 1, #there, 2 do
    local name, value = there[field], there[field + 1]
    if name == 'resets' then
      resets = tonumber(value) or 0
    else
      local p, o = string.match(value, '^(%d+) (%d+)$')
      p, o = tonumber(p) or 0, tonumber(o) or 0
      if name == own then before = { p, o } else others = { others[1] + p, others[2] + o } end
    end
  end
  local forget, wrote = 0, false
  if ARGV[at + 4] == '1' or given > resets then
    -- Begun anew; or the number was lost, and who does not know it did not hear of it.
    if ARGV[at + 4] == '1' then given = math.max(resets, given, 0) + 1 end
    redis.call('DEL', sums)
    resets, before, others = given, nil, { 0, 0 }
    redis.call('HSET', sums, 'resets', whole(resets))
    wrote = true
  elseif given < resets and (given >= 0
      or (resets > 0 and ARGV[at + 5] == '1' and (not before or before[1] + before[2] == 0))) then
    -- Only a reset that was counted: where Redis lost all, what the file has still counts.
    forget, prompt, output = 1, 0, 0
  end
  if before then prompt, output = math.max(prompt, before[1]), math.max(output, before[2]) end
  if before or prompt + output > 0 then
    redis.call('HSET', sums, own, whole(prompt) .. ' ' .. whole(output))
    wrote = true
    if not before then
      healed(subjects, 'SADD', subjects, ARGV[at])
      redis.call('EXPIREAT', subjects, ends)
    end
  end
  if wrote then redis.call('EXPIREAT', sums, ends) end
  answer[#answer + 1] = others[1]
  answer[#answer + 1] = others[2]
  answer[#answer + 1] = prompt
  answer[#answer + 1] = output
  answer[#answer + 1] = resets
  answer[#answer + 1] = forget
end
return answer
