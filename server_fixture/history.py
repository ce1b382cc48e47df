"""
The record of one run: what was asked, what was answered, what was delivered, what was broken.

Operations ("ops") are plain values in the order in which they were recorded. Nothing here judges them (``checker.py``
does), takes a lock (whoever records from several threads does) or looks at a clock: every ``time`` is in monotonic
seconds and comes in.
"""

from __future__ import annotations

import collections.abc
import hashlib
import json
import typing

import attrs

_READABLE = 48


class MalformedHistory(ValueError):
    """
    A history that cannot be read or judged: an unknown line, or an op without what it needs.
    """


def fingerprint(data: str | bytes) -> str:
    """
    Name a payload such that equal names mean equal payloads of the same kind.

    Short payloads stay readable, long ones become a digest; text and binary never share a name.

    Args:
        data: The payload as the user sent or received it.

    Returns:
        The name to record as ``payload``.
    """
    kind = "text" if isinstance(data, str) else "binary"
    raw = data.encode() if isinstance(data, str) else bytes(data)
    if len(raw) <= _READABLE:
        return f"{kind}:{data if isinstance(data, str) else raw.hex()}"
    return f"{kind}#{len(raw)}#{hashlib.blake2b(raw, digest_size=16).hexdigest()}"


# Outbound: from a client to a stream.


@attrs.frozen
class Send:
    """
    A client accepted a message under this number; whether it reaches the stream is the business of its `Receipt`.
    """

    process: str
    time: float
    producer: str
    stream: str
    seq: int
    payload: str


@attrs.frozen
class Receipt:
    """
    How a send ended: ``ok`` (committed), ``fail`` (certainly not in the stream, with a code) or ``info`` (nobody can
    say).
    """

    process: str
    time: float
    producer: str
    stream: str
    seq: int
    outcome: str = attrs.field(validator=attrs.validators.in_(("ok", "fail", "info")))
    code: str | None = None


@attrs.frozen
class AcknowledgedLost:
    """
    The client reported that the store lost committed messages ``first`` to ``last`` of this producer.
    """

    process: str
    time: float
    producer: str
    stream: str
    first: int
    last: int


@attrs.frozen
class Publish:
    """
    The server's own API was asked to append; with epoch and offset where it answered, without where nobody can say.
    """

    process: str
    time: float
    stream: str
    payload: str
    epoch: str | None = None
    offset: int | None = None


# Inbound: from a stream to a client.


@attrs.frozen
class Subscribed:
    """
    This process follows the stream from ``first`` on: the next offset it expects.
    """

    process: str
    time: float
    stream: str
    epoch: str
    first: int


@attrs.frozen
class Unsubscribed:
    """
    This process follows the stream no longer (it unsubscribed, or it ended): nothing more is owed to it.
    """

    process: str
    time: float
    stream: str


@attrs.frozen
class Deliver:
    """
    The user got this message; ``redelivered`` where the library said that he may have had it before.
    """

    process: str
    time: float
    stream: str
    epoch: str
    offset: int
    payload: str
    redelivered: bool = False


@attrs.frozen
class GapReported:
    """
    The user was told that ``first`` to ``last`` cannot come and that ``next`` is what he gets next.

    ``epoch`` is the one that ``next`` belongs to; where it is a new one, ``first`` and ``last`` belong to the old one.
    """

    process: str
    time: float
    stream: str
    epoch: str
    first: int
    last: int | None
    next: int
    reason: str


@attrs.frozen
class Acked:
    """
    The user handled everything up to this offset.
    """

    process: str
    time: float
    stream: str
    epoch: str
    offset: int


# Sessions and the world around them.


@attrs.frozen
class SessionLostReported:
    """
    The user was told that his session is gone and a new one took its place.
    """

    process: str
    time: float
    reason: str


@attrs.frozen
class Reconnected:
    """
    The process has a new connection, to this node where it is known.
    """

    process: str
    time: float
    node: str | None = None


@attrs.frozen
class Resumed:
    """
    The session went on under a new connection.
    """

    process: str
    time: float
    node: str | None = None


@attrs.frozen
class Fault:
    """
    The nemesis broke something.
    """

    kind: str
    node: str
    time: float


@attrs.frozen
class Heal:
    """
    The nemesis undid a fault.
    """

    kind: str
    node: str
    time: float


# What the store really holds.


@attrs.frozen
class Effect:
    """
    One message in the store; ``producer`` and ``seq`` are None where the server's own API appended it.
    """

    offset: int
    payload: str
    producer: str | None = None
    seq: int | None = None


@attrs.frozen
class FinalRead:
    """
    One epoch of a stream as the store holds it when nothing moves any more: everything from its first retained offset
    on.

    ``first_offset`` is one past the end where nothing is retained, 1 where nothing was ever trimmed. ``contiguous``
    is False where the log itself skips numbers (compaction, markers), so that an offset below ``first_offset`` may
    never have had a message.
    """

    time: float
    stream: str
    epoch: str
    first_offset: int
    messages: tuple[Effect, ...]
    contiguous: bool = True


Op: typing.TypeAlias = (
    Send
    | Receipt
    | AcknowledgedLost
    | Publish
    | Subscribed
    | Unsubscribed
    | Deliver
    | GapReported
    | Acked
    | SessionLostReported
    | Reconnected
    | Resumed
    | Fault
    | Heal
    | FinalRead
)

_KINDS: dict[str, type[Op]] = {kind.__name__: kind for kind in typing.get_args(Op)}
_FIELDS = {name: tuple(field.name for field in attrs.fields(kind)) for name, kind in _KINDS.items()}


def _to_line(op: Op) -> str:
    """
    Write an op as one line: its kind, then its fields in their order.
    """
    name = type(op).__name__
    values = [getattr(op, field) for field in _FIELDS[name]]
    if isinstance(op, FinalRead):
        at = _FIELDS[name].index("messages")
        values[at] = [[e.offset, e.payload, e.producer, e.seq] for e in op.messages]
    return json.dumps({"op": name, **dict(zip(_FIELDS[name], values, strict=True))}, separators=(",", ":"))


def _from_line(line: str) -> Op:
    """
    Read back what `_to_line` wrote.
    """
    fields = json.loads(line)
    kind = _KINDS[fields.pop("op")]
    if kind is FinalRead:
        fields["messages"] = tuple(Effect(*entry) for entry in fields["messages"])
    return kind(**fields)


@attrs.define
class History:
    """
    The ops of one run, in the order in which they were recorded.
    """

    ops: list[Op] = attrs.field(factory=list)

    def append(self, op: Op) -> None:
        """
        Record one op; a recorder with several threads holds its own lock around this call.
        """
        self.ops.append(op)

    def dump(self, file: typing.TextIO) -> None:
        """
        Write every op as one line of JSON.
        """
        for op in self.ops:
            file.write(_to_line(op) + "\n")

    @classmethod
    def load(cls, file: collections.abc.Iterable[str]) -> History:
        """
        Read what `dump` wrote.

        Raises:
            MalformedHistory: A line is no op; its number and the reason are named.
        """
        history = cls()
        for number, line in enumerate(file, 1):
            try:
                history.ops.append(_from_line(line))
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                raise MalformedHistory(
                    f"line {number} of the history is no recorded op ({type(exc).__name__}: {exc}): "
                    "the file is damaged or was written by another version"
                ) from exc
        return history

    def __len__(self) -> int:
        return len(self.ops)

    def __iter__(self) -> collections.abc.Iterator[Op]:
        return iter(self.ops)
