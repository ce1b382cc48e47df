"""
What a test reads straight from the Redis backplane, without a node: the whole log of a stream, and a store's faults.

What lives here: the final read of a run, and cutting a log's tail as a store does that lost it. What never does:
anything that a node uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import redis

from server_fixture.backplane.steps import stream_keys


@attrs.frozen
class Stored:
    """One message of a log and where it came from: ``producer`` None and ``seq`` 0 where the server published it."""

    offset: int
    payload: bytes
    text: bool
    crc: int
    producer: str | None
    seq: int


def read_all(url: str, stream: str, *, timeout: float = 5.0) -> tuple[str | None, int, int, tuple[Stored, ...]]:
    """
    Read all that a stream retains, in one atomic step.

    Returns:
        Its epoch (None where the stream does not exist), first retained offset, last offset, and the messages.
    """
    log, meta = stream_keys(stream)[:2]
    with _connected(url, timeout) as client:
        transaction = client.pipeline(transaction=True)
        transaction.hmget(meta, "epoch", "last")
        transaction.execute_command("XRANGE", log, "-", "+")
        (epoch, last), found = transaction.execute()
    entries = tuple(_stored(entry) for entry in found)
    end = int(last or 0)
    first = entries[0].offset if entries else end + 1
    return (None if epoch is None else epoch.decode()), first, end, entries


def cut_tail(url: str, stream: str, last: int, *, timeout: float = 5.0) -> int:
    """
    Lose the messages after ``last`` under the same epoch, and roll their producers back, as a replica does.

    The log's end is then before the first of them.

    Returns:
        How many messages were lost.
    """
    with _connected(url, timeout) as client:
        return int(client.eval(_CUT, 3, *stream_keys(stream)[:3], str(last)))


_CUT = """
local log, meta, rejected = KEYS[1], KEYS[2], KEYS[3]
local lost = redis.call('XRANGE', log, '(' .. ARGV[1] .. '-0', '+')
if #lost == 0 then return 0 end
local kept = redis.call('XRANGE', log, '-', ARGV[1] .. '-0')
local last = tonumber(string.match(lost[1][1], '^(%d+)')) - 1
-- A stream never goes back behind an id that it deleted: write a new one.
redis.call('DEL', log)
for _, entry in ipairs(kept) do redis.call('XADD', log, entry[1], unpack(entry[2])) end
local holes = {}
for from, to in string.gmatch(redis.call('HGET', meta, 'holes') or '', '(%d+)-(%d+)') do
  if tonumber(to) <= last then holes[#holes + 1] = from .. '-' .. to end
end
redis.call('HSET', meta, 'last', string.format('%.0f', last), 'holes', table.concat(holes, ','))
for _, entry in ipairs(lost) do
  local producer, seq = entry[2][6], tonumber(entry[2][8])
  local found = redis.call('HGET', meta, 'p:' .. producer)
  if found then
    local stored, offset, told = string.match(found, '^(%d+):(%d+):(.*)$')
    stored, offset = math.min(tonumber(stored), seq - 1), math.min(tonumber(offset), last)
    redis.call('HSET', meta, 'p:' .. producer, string.format('%.0f:%.0f:%s', stored, offset, told))
    redis.call('ZREMRANGEBYLEX', rejected, '[' .. producer .. ' ' .. string.format('%016.0f', seq),
               '(' .. producer .. '!')
  end
end
return #lost
"""


@contextmanager
def _connected(url: str, timeout: float) -> Iterator[Any]:
    client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2)
    try:
        yield client
    finally:
        client.close()


def _stored(entry: Any) -> Stored:
    identifier, fields = entry
    offset = int(identifier.split(b"-")[0])
    if isinstance(fields, dict):
        crc, text, producer, seq, payload = (fields[name] for name in (b"c", b"t", b"p", b"s", b"d"))
    else:
        crc, text, producer, seq, payload = fields[1::2]
    return Stored(offset, payload, text == b"1", int(crc), producer.decode() or None, int(seq))
