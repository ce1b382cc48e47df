"""
The atomic steps of the Redis backplane as Lua scripts.

What lives here: script texts, and the two constants that they carry. What never does: the Python that runs them
(``redis.py``), or the order of keys and arguments in Python (``steps.py``). ``docs/backplane.md`` explains them.

Every key is in KEYS and has one hash tag (the tick alone builds keys, in its own tag). Replies are arrays of strings;
the first names the answer. Numbers are written by ``%.0f``: Lua's own conversion keeps 14 digits. Strings are compared
byte by byte: Lua's ``<`` follows the server's locale.
"""

from __future__ import annotations

SESSION_GRACE = 600
"""Seconds, by the bucket's clock, for which an expired session is still known, and its attempts are judged."""

REMEMBERED_INSTANCES = 8
"""How many instances of a session are remembered with their last attempt (rule 3)."""

_NUMBERS = """
local function num(n) return string.format('%.0f', n) end
local function pad(n) return string.format('%016.0f', n) end
local function wall()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
"""

_FENCES = """
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

_SESSIONS = """
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

_STREAMS = """
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

_ENTER_SESSION = """
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
"""

_REFRESH = """
local session, fence, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = clock(KEYS[1])
if not alive(KEYS[3], now) then return {'unknown'} end
local stands = redis.call('HGET', KEYS[3], 'fence')
if fence_less(fence, stands) then return {'old', stands} end
if fence ~= stands then
  redis.call('HSET', KEYS[3], 'fence', fence)
  raised(session, fence)
end
prolong(KEYS[3], KEYS[2], session, now + ttl)
return {'done'}
"""

_CONFIRM = """
if not alive(KEYS[2], clock(KEYS[1])) then return {'unknown'} end
local confirmed = tonumber(redis.call('HGET', KEYS[2], 'confirmed'))
redis.call('HSET', KEYS[2], 'confirmed', num(math.max(confirmed, tonumber(ARGV[1]))))
return {'done'}
"""

_END_SESSION = """
if not alive(KEYS[3], clock(KEYS[1])) then return {'unknown'} end
local stands = redis.call('HGET', KEYS[3], 'fence')
if fence_less(ARGV[2], stands) then return {'old', stands} end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7])
return {'done'}
"""

_TRIM_PRIVATE = """
if owner_gone() then return {'unknown'} end
local stands = redis.call('HGET', KEYS[6], 'fence')
if fence_less(ARGV[1], stands) then return {'old', stands} end
if redis.call('HGET', META, 'epoch') == ARGV[2] then
  redis.call('XTRIM', LOG, 'MINID', '=', num(tonumber(ARGV[3]) + 1) .. '-0')
end
return {'done'}
"""

_TICK = """
local now = clock(KEYS[1])
for _, session in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', num(now - GRACE * 1000), 'LIMIT', 0, 64)) do
  local private = ARGV[1] .. '~' .. session
  redis.call('ZREM', KEYS[2], session)
  redis.call('UNLINK', ARGV[1] .. 'session:' .. session,
             private .. ':log', private .. ':meta', private .. ':rejected', private .. ':used')
end
return {'done'}
"""

_ENTER_STREAM = """
local session, fence, held_epoch, held_crc, at = ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7]
if owner_gone() then return {'unknown'} end
local epoch, last = open(ARGV[1])
local now = wall()
local newer = raise(session, fence, now)
if newer then return {'old', newer} end
forget_unused(last, tonumber(ARGV[8]), now)

local function settle(producer, first)
  local found = redis.call('HGET', META, 'p:' .. producer)
  if not found and first == 1 then return {producer, '0', '0', {}} end
  local p = producer_of(found or '0:0:0:0')
  if p.last < first - 1 then
    if p.told == '' then p.told, p.known = num(p.last), '1' end
    p.last = first - 1
  end
  keep(producer, p, now)
  redis.call('ZREMRANGEBYLEX', REJECTED, '[' .. producer .. ' ', '(' .. producer .. ' ' .. pad(first))
  if p.told == '' then return {producer, num(p.last), '1', rejected(producer, first, nil)} end
  return {producer, p.told, p.known, rejected(producer, first, nil)}
end
local producers = {}
for i = 9, #ARGV, 2 do producers[#producers + 1] = settle(ARGV[i], tonumber(ARGV[i + 1])) end

local first = first_retained(last)
local lifted, matches = '0', ''
local position = math.max(tonumber(redis.call('HGET', META, 'base') or '0'), first - 1)
local held = tonumber(ARGV[5])
if held and held_epoch == epoch then
  if held > last then
    lift(last, held)
    lifted, last = '1', held
    first = first_retained(last)
  else
    matches = matching(held, held_crc)
  end
  position = math.max(held, first - 1)
elseif not held then
  position = at == 'earliest' and first - 1 or last
end
return {'stream', epoch, num(first), num(last), lifted, matches, num(position), crc_at(position), producers}
"""

_APPEND = """
local session, fence, producer, first = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local limit, producer_ttl, wake = ARGV[6], tonumber(ARGV[7]), ARGV[8]
if owner_gone() then return {'unknown'} end
local _, last = open(ARGV[1])
local now = wall()
local newer = raise(session, fence, now)
if newer then return {'old', newer} end
local found = redis.call('HGET', META, 'p:' .. producer)
local p = producer_of(found or nil)
if first > p.last + 1 then return {'hole', num(p.last)} end
if not found then forget_unused(last, producer_ttl, now) end

local end_seq = first + (#ARGV - 8) / 3 - 1
local before = last
for seq = p.last + 1, end_seq do
  local i = 9 + (seq - first) * 3
  if ARGV[i] == 'r' then
    redis.call('ZADD', REJECTED, 0, producer .. ' ' .. pad(seq) .. ' ' .. ARGV[i + 2])
  else
    last = store(last, limit, ARGV[i + 1], ARGV[i], producer, num(seq), ARGV[i + 2])
    p.offset = num(last)
  end
  p.last, p.told, p.known = seq, '', ''
end
keep(producer, p, now)
if last > before then
  redis.call('HSET', META, 'last', num(last))
  redis.call('PUBLISH', wake, num(last))
end
return {'appended', num(p.last), rejected(producer, first, end_seq)}
"""

_PUBLISH = """
if owner_gone() then return {'unknown'} end
local epoch, last = open(ARGV[1])
local before = last
for i = 4, #ARGV, 3 do last = store(last, ARGV[2], ARGV[i + 1], ARGV[i], '', '0', ARGV[i + 2]) end
if last > before then
  redis.call('HSET', META, 'last', num(last))
  redis.call('PUBLISH', ARGV[3], num(last))
end
return {'published', epoch, num(last)}
"""

_READ = """
local after, max_messages, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
if owner_gone() then return {'unknown'} end
local found = redis.call('HMGET', META, 'epoch', 'last')
if KEYS[5] and not found[1] then return {'unknown'} end
local epoch, last = found[1] or '', tonumber(found[2] or '0')
local first = first_retained(last)
local entries, matches, size = {}, '', 0
local function answer() return {'slice', epoch, num(first), num(last), matches, entries} end
if epoch ~= ARGV[1] then return answer() end
matches = matching(after, ARGV[3])
if matches == '0' or after < first - 1 then return answer() end

local from = '(' .. num(after) .. '-0'
while #entries < max_messages do
  local part = redis.call('XRANGE', LOG, from, '+', 'COUNT', num(math.min(32, max_messages - #entries)))
  if #part == 0 then return answer() end
  for _, entry in ipairs(part) do
    local f = entry[2]
    size = size + #f[10]
    if #entries > 0 and size > max_bytes then return answer() end
    entries[#entries + 1] = {num(offset_of(entry)), f[4], f[10]}
  end
  from = '(' .. part[#part][1]
end
return answer()
"""


_CONSTANTS = f"local GRACE, REMEMBERED = {SESSION_GRACE}, {REMEMBERED_INSTANCES}\n"
_SESSION_STEP = _CONSTANTS + _NUMBERS + _FENCES + _SESSIONS
_STREAM_STEP = _NUMBERS + _FENCES + _SESSIONS + _STREAMS

ENTER_SESSION = _SESSION_STEP + _ENTER_SESSION
REFRESH = _SESSION_STEP + _REFRESH
CONFIRM = _SESSION_STEP + _CONFIRM
END_SESSION = _SESSION_STEP + _END_SESSION
TICK = _SESSION_STEP + _TICK
TRIM_PRIVATE = _STREAM_STEP + _TRIM_PRIVATE
ENTER_STREAM = _STREAM_STEP + _ENTER_STREAM
APPEND = _STREAM_STEP + _APPEND
PUBLISH = _STREAM_STEP + _PUBLISH
READ = _STREAM_STEP + _READ
