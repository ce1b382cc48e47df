local GRACE, REMEMBERED = 600, 8

local function num(n) return string.format('%.0f', n) end
local function pad(n) return string.format('%016.0f', n) end
local function wall()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function bytes_less(x, y)
  for i = 1, math.min(#x, #y) do
    local a, b = string.byte(x, i), string.byte(y, i)
    if a ~= b then return a < b end
  end
  return #x < #y
end
local function fence_of(text)
  local generation, attempt, instance = string.match(text, '^(%d+):(%d+):(.*)$')
  return {generation = tonumber(generation), attempt = tonumber(attempt), instance = instance}
end
local function fence_less(x, y)
  x, y = fence_of(x), fence_of(y)
  if x.generation ~= y.generation then return x.generation < y.generation end
  if x.instance ~= y.instance then return bytes_less(x.instance, y.instance) end
  return x.attempt < y.attempt
end

local function clock(key)
  local t = wall()
  local c = redis.call('HMGET', key, 'now', 'seen')
  local now = tonumber(c[1] or '0')
  if c[2] then now = now + math.max(0, math.min(t - tonumber(c[2]), 2000)) end
  redis.call('HSET', key, 'now', num(now), 'seen', num(t))
  return now
end
local function alive(key, now)
  local expires = redis.call('HGET', key, 'expires')
  return expires and tonumber(expires) > now
end
local function prolong(record, index, session, expires)
  redis.call('HSET', record, 'expires', num(expires))
  redis.call('ZADD', index, num(expires), session)
end
local function raised(session, fence)
  redis.call('PUBLISH', 'resilient:fence', session .. ' ' .. fence)
end

if not alive(KEYS[2], clock(KEYS[1])) then return {'unknown'} end
local confirmed = tonumber(redis.call('HGET', KEYS[2], 'confirmed'))
redis.call('HSET', KEYS[2], 'confirmed', num(math.max(confirmed, tonumber(ARGV[1]))))
return {'done'}
