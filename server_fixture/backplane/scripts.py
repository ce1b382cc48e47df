"""
The atomic steps of the Redis backplane as Lua scripts.

What lives here: script texts, and the two constants that they carry. What never does: the functions that they share
(``prelude.py``), the Python that runs them (``redis.py``), or the order of keys and arguments in Python (``steps.py``).
``docs/backplane.md`` explains them.

Every key is in KEYS and has one hash tag (the tick alone builds keys, in its own tag). Replies are arrays of strings;
the first names the answer.
"""

from __future__ import annotations

from server_fixture.backplane import prelude

SESSION_GRACE = 600
"""Seconds, by the bucket's clock, for which an expired session is still known, and its attempts are judged."""

REMEMBERED_INSTANCES = 8
"""How many instances of a session are remembered with their last attempt (rule 3)."""

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


_ANNOUNCE = """
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
"""


_CONSTANTS = f"local GRACE, REMEMBERED = {SESSION_GRACE}, {REMEMBERED_INSTANCES}\n"
_SESSION_STEP = _CONSTANTS + prelude.NUMBERS + prelude.FENCES + prelude.SESSIONS
_STREAM_STEP = prelude.NUMBERS + prelude.FENCES + prelude.SESSIONS + prelude.STREAMS

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
ANNOUNCE = prelude.NUMBERS + _ANNOUNCE
