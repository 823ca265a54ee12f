-- What scripts share; it stands before each of them.

-- A key of ours that has become something else is removed.
local function ours(key, kind)
  local there = redis.call('TYPE', key)['ok']
  if there ~= 'none' and there ~= kind then redis.call('DEL', key) end
end

-- A whole number as text: Lua would write a large one with an exponent.
local function whole(number) return string.format('%.0f', number) end

-- Milliseconds since 1970 by Redis's clock.
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A version is a whole number that a double has exactly; anything else counts as none.
local function counted(number)
  if type(number) ~= 'number' or not (number >= 0 and number <= 4503599627370496) then return 0 end
  return number == math.floor(number) and number or 0
end
local function counter(text) return counted(tonumber(string.match(text or '', '^%d+$'))) end

