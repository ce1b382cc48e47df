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

local CLOCK, INDEX, OLD, NEW = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local session, presented, new_session, instance = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local attempt, principal, ttl = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local now = clock(CLOCK)
local reason = ''

local function judged(attempts)
  local kept = {{instance, num(attempt)}}
  for _, pair in ipairs(attempts) do
    if pair[1] == instance then
      if attempt <= tonumber(pair[2]) then return nil end
    elseif #kept < REMEMBERED then
      kept[#kept + 1] = pair
    end
  end
  return cjson.encode(kept)
end

local function resume()
  local r = redis.call('HMGET', OLD, 'principal', 'expires', 'confirmed', 'fence', 'attempts')
  if not r[1] or tonumber(r[2]) + GRACE * 1000 <= now then reason = 'unknown' return nil end
  local attempts = judged(cjson.decode(r[5]))
  if not attempts then return {'stale'} end
  if r[1] ~= principal then return {'foreign'} end
  redis.call('HSET', OLD, 'attempts', attempts)
  if tonumber(r[2]) <= now then reason = 'expired' return nil end
  if presented and presented < tonumber(r[3]) then reason = 'superseded' return nil end
  local generation = num(math.max(fence_of(r[4]).generation, presented or 0) + 1)
  local fence = generation .. ':' .. num(attempt) .. ':' .. instance
  redis.call('HSET', OLD, 'fence', fence)
  prolong(OLD, INDEX, session, now + ttl)
  raised(session, fence)
  return {'session', session, generation, 'resumed', ''}
end

if session ~= '' then
  local answer = resume()
  if answer then return answer end
end
redis.call('HSET', NEW, 'principal', principal, 'confirmed', '0', 'fence', '1:' .. num(attempt) .. ':' .. instance,
           'attempts', judged({}))
prolong(NEW, INDEX, new_session, now + ttl)
return {'session', new_session, '1', 'new', reason}
