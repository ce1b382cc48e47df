"""
Requests as calls of the Lua scripts, and their replies as answers: keys, arguments and strict decoding.

What lives here: where everything is in the keyspace (one hash tag per slot, so a step is one slot of Redis Cluster) and
the order of keys and arguments; ``docs/backplane.md`` has them too. What never does: a connection (``redis.py``) or the
text of a script (``scripts.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Union

import attrs

from server_fixture.backplane import (
    Announce,
    Announced,
    Answer,
    Append,
    Appended,
    BackplaneError,
    Confirm,
    Done,
    EndSession,
    EnterSession,
    EnterStream,
    Entry,
    Fence,
    Foreign,
    Hole,
    LivingNode,
    OldFence,
    ProducerState,
    Publish,
    Published,
    Read,
    Refresh,
    Request,
    SessionEntered,
    SessionUnknown,
    Slice,
    Stale,
    StreamEntered,
    Tick,
    TrimPrivate,
    bucket_of,
    is_private,
    scripts,
)

MAX_NUMBER = 2**53 - 1
"""Largest number that Lua keeps exactly."""

INCARNATION = "resilient:{meta}:incarnation"
NODES = ("resilient:{nodes}:until", "resilient:{nodes}:said")
"""Until when each node lives, and what it said of itself."""
FENCE_CHANNEL = "resilient:fence"
WAKE_CHANNEL = "resilient:wake:"

_ID = re.compile(r"[!-9;-~]+")
_VISIBLE = re.compile(r"[!-~]+")

Value = Union[str, bytes]


@attrs.frozen
class Call:
    """One script with the keys and arguments of one request."""

    script: str
    keys: tuple[str, ...]
    args: tuple[Value, ...]


@attrs.frozen(kw_only=True)
class Limits:
    """What a stream keeps: ``retention`` messages, and unused producers and fences for ``producer_ttl`` seconds."""

    retention: int = 100_000
    producer_ttl: float = 7 * 86400.0


# -- the keyspace -----------------------------------------------------------------------------------------------------


def bucket_prefix(bucket: int) -> str:
    """Return what all keys of a bucket begin with."""
    return f"resilient:{{s{bucket:02d}}}:"


def stream_prefix(stream: str) -> str:
    """Return what all keys of a stream begin with; a private stream lives in its session's bucket."""
    if is_private(stream):
        return f"{bucket_prefix(bucket_of(stream[1:]))}{stream}:"
    return f"resilient:{{{stream}}}:"


def stream_keys(stream: str) -> tuple[str, ...]:
    """Return a stream's keys: log, meta, rejected, used; for a private one its bucket's clock and its record too."""
    keys = tuple(stream_prefix(stream) + name for name in ("log", "meta", "rejected", "used"))
    if not is_private(stream):
        return keys
    clock, _, record = session_keys(stream[1:])
    return (*keys, clock, record)


def session_keys(session: str) -> tuple[str, str, str]:
    """Return the keys of a session: its bucket's clock and index, and its record."""
    prefix = bucket_prefix(bucket_of(session))
    return prefix + "clock", prefix + "index", f"{prefix}session:{session}"


# -- requests ---------------------------------------------------------------------------------------------------------


def call_of(request: Request, limits: Limits, epoch: str) -> Call:
    """
    Write a request as a call.

    Args:
        epoch: Fresh random text; the step that creates a stream takes it.

    Raises:
        ValueError: An id or a number cannot be written; nothing was sent.
    """
    return _CALLS[type(request)](request, limits, epoch)


def _number(value: int) -> str:
    if not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{value} is not between 0 and 2^53-1, which is what the scripts count exactly")
    return str(value)


def _id(value: str) -> str:
    if _ID.fullmatch(value) is None:
        raise ValueError(f"the id {value!r} is not printable ASCII without space and colon")
    return value


def _visible(value: str) -> str:
    if _VISIBLE.fullmatch(value) is None:
        raise ValueError(f"{value!r} is not visible ASCII without spaces, as a node's name and URL have to be")
    return value


def _optional(value: int | None) -> str:
    return "" if value is None else _number(value)


def _fence(fence: Fence) -> str:
    return f"{_number(fence.generation)}:{_number(fence.attempt)}:{_id(fence.instance)}"


def _milliseconds(seconds: float) -> str:
    return _number(round(seconds * 1000))


def _entries(entries: Sequence[Entry]) -> list[Value]:
    args: list[Value] = []
    for entry in entries:
        if entry.code is not None:
            args += ["r", "0", entry.code]
        else:
            args += ["1" if entry.text else "0", str(entry.crc), entry.payload]
    return args


def _enter_session(r: EnterSession, limits: Limits, epoch: str) -> Call:
    old = r.session or r.new_session
    if bucket_of(old) != bucket_of(r.new_session):
        raise ValueError("new_session has to be in the bucket of session, or the step would touch two slots")
    keys = (*session_keys(old), session_keys(r.new_session)[2])
    args = (
        _id(r.session) if r.session is not None else "", _optional(r.presented), _id(r.new_session), _id(r.instance),
        _number(r.attempt), r.principal, _milliseconds(r.ttl),
    )  # fmt: skip
    return Call(scripts.ENTER_SESSION, keys, args)


def _refresh(r: Refresh, limits: Limits, epoch: str) -> Call:
    return Call(scripts.REFRESH, session_keys(r.session), (_id(r.session), _fence(r.fence), _milliseconds(r.ttl)))


def _confirm(r: Confirm, limits: Limits, epoch: str) -> Call:
    clock, _, record = session_keys(r.session)
    return Call(scripts.CONFIRM, (clock, record), (_number(r.generation),))


def _end_session(r: EndSession, limits: Limits, epoch: str) -> Call:
    keys = (*session_keys(r.session), *stream_keys("~" + r.session)[:4])
    return Call(scripts.END_SESSION, keys, (_id(r.session), _fence(r.fence)))


def _trim_private(r: TrimPrivate, limits: Limits, epoch: str) -> Call:
    return Call(scripts.TRIM_PRIVATE, stream_keys("~" + r.session), (_fence(r.fence), r.epoch, _number(r.offset)))


def _tick(r: Tick, limits: Limits, epoch: str) -> Call:
    prefix = bucket_prefix(r.bucket)
    return Call(scripts.TICK, (prefix + "clock", prefix + "index"), (prefix,))


def _enter_stream(r: EnterStream, limits: Limits, epoch: str) -> Call:
    args: list[Value] = [
        epoch, _id(r.session), _fence(r.fence), r.held_epoch or "", _optional(r.held_offset), _optional(r.held_crc),
        r.at or "", _milliseconds(limits.producer_ttl),
    ]  # fmt: skip
    for producer, first in r.producers:
        args += [_id(producer), _number(first)]
    return Call(scripts.ENTER_STREAM, stream_keys(r.stream), tuple(args))


def _append(r: Append, limits: Limits, epoch: str) -> Call:
    _number(r.first + len(r.entries))
    args = (
        epoch, _id(r.session), _fence(r.fence), _id(r.producer), _number(r.first), _number(limits.retention),
        _milliseconds(limits.producer_ttl), WAKE_CHANNEL + r.stream, *_entries(r.entries),
    )  # fmt: skip
    return Call(scripts.APPEND, stream_keys(r.stream), args)


def _publish(r: Publish, limits: Limits, epoch: str) -> Call:
    if any(entry.code is not None for entry in r.entries):
        raise ValueError("a tombstone belongs to a producer: append it, it cannot be published")
    args = (epoch, _number(limits.retention), WAKE_CHANNEL + r.stream, *_entries(r.entries))
    return Call(scripts.PUBLISH, stream_keys(r.stream), args)


def _read(r: Read, limits: Limits, epoch: str) -> Call:
    args = (r.epoch, _number(r.after), _optional(r.crc), _number(r.max_messages), _number(r.max_bytes))
    return Call(scripts.READ, stream_keys(r.stream), args)


def _announce(r: Announce, limits: Limits, epoch: str) -> Call:
    node = r.node
    args = (
        _visible(node.name), _milliseconds(r.ttl), _number(node.sessions), _number(node.accept_rate),
        "1" if node.is_draining else "0", _visible(node.url),
    )  # fmt: skip
    return Call(scripts.ANNOUNCE, NODES, args)


_CALLS: dict[type, Callable[[Any, Limits, str], Call]] = {
    EnterSession: _enter_session,
    Refresh: _refresh,
    Confirm: _confirm,
    EndSession: _end_session,
    TrimPrivate: _trim_private,
    Tick: _tick,
    EnterStream: _enter_stream,
    Append: _append,
    Publish: _publish,
    Read: _read,
    Announce: _announce,
}


# -- answers ----------------------------------------------------------------------------------------------------------


def answer_of(reply: Any, request: Request, incarnation: str) -> Answer:
    """
    Read a script's reply.

    Raises:
        BackplaneError: It is not a reply of our scripts; the step may have happened.
    """
    try:
        if reply[0] == b"session" and isinstance(request, EnterSession):
            return _session_entered(reply, request, incarnation)
        return _ANSWERS[reply[0]](reply)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BackplaneError(
            f"the reply to {type(request).__name__} is not one of this version's scripts ({type(error).__name__}); "
            f"check that nothing else answers under this address"
        ) from error


def fence_of(text: str) -> Fence:
    """Read ``generation:attempt:instance``."""
    generation, attempt, instance = text.split(":", 2)
    return Fence(int(generation), instance, int(attempt))


def _maybe(value: bytes) -> int | None:
    return None if value == b"" else int(value)


def _matches(value: bytes) -> bool | None:
    return {b"": None, b"0": False, b"1": True}[value]


def _pairs(flat: Sequence[bytes]) -> tuple[tuple[int, str], ...]:
    return tuple((int(seq), code.decode()) for seq, code in zip(flat[::2], flat[1::2], strict=True))


def _session_entered(reply: Any, r: EnterSession, incarnation: str) -> SessionEntered:
    _, session, generation, verdict, reason = (part.decode() for part in reply)
    if verdict not in ("resumed", "new"):
        raise ValueError(verdict)
    fence = Fence(int(generation), r.instance, r.attempt)
    return SessionEntered(
        session=session, fence=fence, verdict=verdict, reason=reason or None, incarnation=incarnation
    )  # fmt: skip


def _producer(reply: Any) -> ProducerState:
    producer, seq, known, rejected = reply
    return ProducerState(producer=producer.decode(), seq=int(seq), known=known == b"1", rejected=_pairs(rejected))


def _stream_entered(reply: Any) -> StreamEntered:
    _, epoch, first, last, lifted, matches, position, crc, producers = reply
    return StreamEntered(
        epoch=epoch.decode(), first=int(first), last=int(last), lifted=lifted == b"1", matches=_matches(matches),
        position=int(position), crc=_maybe(crc), producers=tuple(_producer(producer) for producer in producers),
    )  # fmt: skip


def _slice(reply: Any) -> Slice:
    _, epoch, first, last, matches, found = reply
    entries = tuple(Entry(payload, text == b"1", int(offset)) for offset, text, payload in found)
    return Slice(
        epoch=epoch.decode(), first=int(first), last=int(last), matches=_matches(matches), entries=entries
    )  # fmt: skip


def _living(name: bytes, said: bytes) -> LivingNode:
    sessions, accept_rate, is_draining, url = said.decode().split(" ", 3)
    return LivingNode(
        name=name.decode(), url=url, sessions=int(sessions), accept_rate=int(accept_rate),
        is_draining=is_draining == "1",
    )  # fmt: skip


_ANSWERS: dict[bytes, Callable[[Any], Answer]] = {
    b"stale": lambda reply: Stale(),
    b"foreign": lambda reply: Foreign(),
    b"done": lambda reply: Done(),
    b"unknown": lambda reply: SessionUnknown(),
    b"old": lambda reply: OldFence(fence_of(reply[1].decode())),
    b"stream": _stream_entered,
    b"appended": lambda reply: Appended(seq=int(reply[1]), rejected=_pairs(reply[2])),
    b"hole": lambda reply: Hole(last=int(reply[1])),
    b"published": lambda reply: Published(epoch=reply[1].decode(), last=int(reply[2])),
    b"slice": _slice,
    b"nodes": lambda reply: Announced(tuple(_living(name, said) for name, said in sorted(reply[1]))),
}
