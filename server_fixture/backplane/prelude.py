"""
What the scripts of the Redis backplane share: local functions in Lua, put before the text of a step.

The steps themselves never live here (``scripts.py``), nor does Python that runs them. Numbers are written by ``%.0f``:
Lua's own conversion keeps 14 digits. Strings are compared byte by byte: Lua's ``<`` follows the server's locale.
"""

from __future__ import annotations

NUMBERS = """
local function num(n) return string.format('%.0f', n) end
local function pad(n) return string.format('%016.0f', n) end
local function wall()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
"""

FENCES = """
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
"""

SESSIONS = """
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
"""

STREAMS = """
local LOG, META, REJECTED, USED = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function offset_of(entry) return tonumber(string.match(entry[1], '^(%d+)')) end
local function first_retained(last)
  local entries = redis.call('XRANGE', LOG, '-', '+', 'COUNT', 1)
  if #entries == 0 then return last + 1 end
  return offset_of(entries[1])
end
local function crc_at(offset)
  if offset < 1 then return '' end
  local id = num(offset) .. '-0'
  local entries = redis.call('XRANGE', LOG, id, id)
  if #entries == 0 then return '' end
  return entries[1][2][2]
end
local function matching(offset, given)
  if given == '' or offset == 0 then return '' end
  local stored = crc_at(offset)
  if stored ~= '' then return stored == given and '1' or '0' end
  for from, to in string.gmatch(redis.call('HGET', META, 'holes') or '', '(%d+)-(%d+)') do
    if offset >= tonumber(from) and offset <= tonumber(to) then return '0' end
  end
  return ''
end
local function lift(last, held)
  local kept = {num(last + 1) .. '-' .. num(held)}
  for hole in string.gmatch(redis.call('HGET', META, 'holes') or '', '[%d-]+') do
    if #kept < 16 then kept[#kept + 1] = hole end
  end
  redis.call('HSET', META, 'last', num(held), 'holes', table.concat(kept, ','))
end
local function raise(session, fence, now)
  local field = 's:' .. session
  local stands = redis.call('HGET', META, field) or fence
  local owner = KEYS[6] and redis.call('HGET', KEYS[6], 'fence') or fence
  if fence_less(stands, owner) then stands = owner end
  if fence_less(fence, stands) then return stands end
  redis.call('HSET', META, field, fence)
  redis.call('ZADD', USED, num(now), field)
  return nil
end
local function producer_of(text)
  local last, offset, told, known = string.match(text or '0:0::', '^(%d+):(%d+):(%d*):(%d?)$')
  return {last = tonumber(last), offset = offset, told = told, known = known}
end
local function keep(producer, p, now)
  redis.call('HSET', META, 'p:' .. producer, num(p.last) .. ':' .. p.offset .. ':' .. p.told .. ':' .. p.known)
  redis.call('ZADD', USED, num(now), 'p:' .. producer)
end
local function owner_gone()
  if not KEYS[5] then return false end
  return not alive(KEYS[6], clock(KEYS[5]))
end
local function open(epoch)
  local found = redis.call('HMGET', META, 'epoch', 'last')
  if found[1] then return found[1], tonumber(found[2]) end
  redis.call('HSET', META, 'epoch', epoch, 'last', '0')
  return epoch, 0
end
local function store(last, limit, crc, text, producer, seq, payload)
  redis.call('XADD', LOG, 'MAXLEN', '=', limit, num(last + 1) .. '-0',
             'c', crc, 't', text, 'p', producer, 's', seq, 'd', payload)
  return last + 1
end
local function rejected(producer, from, to)
  local answer = {}
  local upper = to and producer .. ' ' .. pad(to + 1) or producer .. '!'
  for _, member in ipairs(redis.call('ZRANGEBYLEX', REJECTED, '[' .. producer .. ' ' .. pad(from), '(' .. upper)) do
    local seq, code = string.match(string.sub(member, #producer + 2), '^(%d+) (.*)$')
    answer[#answer + 1] = num(tonumber(seq))
    answer[#answer + 1] = code
  end
  return answer
end
local function forget(member, first, before)
  if string.sub(member, 1, 2) == 's:' then
    redis.call('HDEL', META, member)
    redis.call('ZREM', USED, member)
    return
  end
  local p = producer_of(redis.call('HGET', META, member) or nil)
  if tonumber(p.offset) >= first then
    redis.call('ZADD', USED, num(before + 3600000), member)
    return
  end
  local producer = string.sub(member, 3)
  redis.call('HDEL', META, member)
  redis.call('ZREM', USED, member)
  redis.call('ZREMRANGEBYLEX', REJECTED, '[' .. producer .. ' ', '(' .. producer .. '!')
end
local function forget_unused(last, producer_ttl, now)
  local before = now - producer_ttl
  local members = redis.call('ZRANGEBYSCORE', USED, '-inf', '(' .. num(before), 'LIMIT', 0, 16)
  if #members == 0 then return end
  local first = first_retained(last)
  for _, member in ipairs(members) do forget(member, first, before) end
end
"""
