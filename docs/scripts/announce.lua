
local function num(n) return string.format('%.0f', n) end
local function pad(n) return string.format('%016.0f', n) end
local function wall()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local UNTIL, SAID = KEYS[1], KEYS[2]
local name, ttl = ARGV[1], tonumber(ARGV[2])
local now = wall()
local function forget(gone)
  redis.call('ZREM', UNTIL, gone)
  redis.call('HDEL', SAID, gone)
end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', UNTIL, '-inf', num(now))) do forget(gone) end
if ttl > 0 then
  local numbers = num(tonumber(ARGV[3])) .. ' ' .. num(tonumber(ARGV[4])) .. ' ' .. num(tonumber(ARGV[5]))
  redis.call('ZADD', UNTIL, num(now + ttl), name)
  redis.call('HSET', SAID, name, numbers .. ' ' .. ARGV[6])
else
  forget(name)
end
local others, found = {}, redis.call('HGETALL', SAID)
for i = 1, #found, 2 do
  if found[i] ~= name then others[#others + 1] = {found[i], found[i + 1]} end
end
return {'nodes', others}
