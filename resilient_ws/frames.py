"""
Control frames of a session and the batch that carries data: plain values, no bytes and no dialect.

Here live the things that cross a connection, as every dialect understands them. How they look on the wire never
lives here (see ``dialects/``). Data is never a frame object per message: a :class:`Batch` carries many payloads.
Frame by frame, the meaning is written down in ``docs/protocol.md``.
"""

from __future__ import annotations

import re
from typing import Literal, Union

import attrs

from resilient_ws.sizes import sizes_of

MAX_NUMBER = 2**53 - 1
"""Largest offset, seq, generation or attempt (exact in every JSON implementation)."""

STREAM_NAME = re.compile(r"[A-Za-z0-9_~][A-Za-z0-9._~/-]{0,127}\Z")
PRIVATE = "~"
"""The name under which a session says its own private stream on the wire."""

Payload = Union[str, bytes]


@attrs.frozen
class Position:
    """A place in a stream: ``offset`` is the last message before it, 0 is before the first one."""

    epoch: str
    offset: int


Start = Union[Literal["now", "earliest"], Position]


@attrs.frozen
class Held:
    """The last message that a client has of a stream; ``crc`` is the CRC-32 of its payload's bytes, None if unknown."""

    epoch: str
    offset: int
    crc: int | None = None


@attrs.frozen
class Credit:
    """Absolute totals granted since the welcome."""

    messages: int
    bytes: int


class Batch:
    """
    Consecutive messages of one stream, as they cross the door.

    ``first`` is the number of the first payload (offset inbound, seq outbound), None where the dialect has none;
    ``prev`` is the offset before ``first`` where the log itself skipped numbers (never with more than one payload),
    ``producer`` the index into the hello's producers (outbound only), ``cursor`` a dialect's own resume position.
    ``void`` (outbound only) is a code: the client withdrew these messages after they were numbered, their payloads are
    empty, and the server consumes each by a tombstone with that code. Payload ``i`` has the number ``first + i``.
    """

    __slots__ = ("_size", "cursor", "epoch", "first", "payloads", "prev", "producer", "stream", "void")

    def __init__(
        self,
        stream: str,
        first: int | None,
        payloads: list[Payload],
        *,
        prev: int | None = None,
        epoch: str | None = None,
        producer: int = 0,
        cursor: str | None = None,
        void: str | None = None,
    ) -> None:
        self.stream, self.first, self.payloads = stream, first, payloads
        self.prev, self.epoch, self.producer = prev, epoch, producer
        self.cursor, self.void = cursor, void
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Bytes of all payloads; counted once, so that nothing may be put into ``payloads`` afterwards."""
        self._size = found = sizes_of(self.payloads) if self._size is None else self._size
        return found

    def __eq__(self, other: object) -> bool:
        names = self.__slots__[1:]
        return isinstance(other, Batch) and all(getattr(self, name) == getattr(other, name) for name in names)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        count = len(self.payloads)
        return f"Batch({self.stream!r}, first={self.first}, {count=}, prev={self.prev}, producer={self.producer})"


# -- client to server -------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class HelloStream:
    """One subscription in a hello: ``held`` where it was answered once, ``start`` where it never was."""

    stream: str
    id: int
    held: Held | None = None
    acked: int | None = None
    start: Start | None = None


@attrs.frozen(kw_only=True)
class HelloOutbound:
    """Unacked messages of one (producer, stream): ``first`` is the oldest unacked seq, ``next`` the next new one."""

    producer: int
    stream: str
    first: int
    next: int


@attrs.frozen(kw_only=True)
class Hello:
    """The client's first frame on a connection."""

    instance: str
    attempt: int
    producers: tuple[str, ...]
    credit: Credit
    max_message: int
    version: int = 1
    features: tuple[str, ...] = ()
    session: str | None = None
    token: str | None = attrs.field(default=None, repr=lambda value: "None" if value is None else "***")
    streams: tuple[HelloStream, ...] = ()
    outbound: tuple[HelloOutbound, ...] = ()
    standby: bool = False


@attrs.frozen(kw_only=True)
class Ready:
    """The client's first frame after a welcome: the generation that it accepted."""

    generation: int


@attrs.frozen(kw_only=True)
class Subscribe:
    """Ask for a stream; ``held`` or ``start`` as in a hello."""

    stream: str
    id: int
    held: Held | None = None
    start: Start | None = None


@attrs.frozen(kw_only=True)
class Unsubscribe:
    """Give a stream up; there is no answer."""

    stream: str
    id: int


@attrs.frozen
class AckedMark:
    """Everything up to ``offset`` was handled by the user."""

    stream: str
    epoch: str
    offset: int


@attrs.frozen
class SeqMark:
    """A seq of a (producer, stream); ``producer`` is an index into the hello's list."""

    producer: int
    stream: str
    seq: int


@attrs.frozen
class OffsetMark:
    """The last offset that a node sent under a subscription."""

    stream: str
    id: int
    epoch: str
    offset: int


@attrs.frozen(kw_only=True)
class Auth:
    """A fresh access token, without reconnecting."""

    access_token: str = attrs.field(repr=lambda value: "***")


# -- both directions --------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Ack:
    """Cumulative: ``acked`` from the client, ``committed`` from the server."""

    acked: tuple[AckedMark, ...] = ()
    committed: tuple[SeqMark, ...] = ()


@attrs.frozen(kw_only=True)
class Grant:
    """Frame ``credit``: new absolute totals since the welcome."""

    credit: Credit


@attrs.frozen(kw_only=True)
class Ping:
    """Liveness with everything that may ride along; answered by :class:`Pong` with the same echo."""

    echo: str
    acked: tuple[AckedMark, ...] = ()
    committed: tuple[SeqMark, ...] = ()
    sent_seqs: tuple[SeqMark, ...] = ()
    sent_offsets: tuple[OffsetMark, ...] = ()
    credit: Credit | None = None
    spread: float | None = None


@attrs.frozen(kw_only=True)
class Pong:
    """The answer to a ping, with the answerer's own marks."""

    echo: str
    acked: tuple[AckedMark, ...] = ()
    committed: tuple[SeqMark, ...] = ()
    sent_seqs: tuple[SeqMark, ...] = ()
    sent_offsets: tuple[OffsetMark, ...] = ()
    credit: Credit | None = None
    spread: float | None = None


@attrs.frozen(kw_only=True)
class Error:
    """Something went wrong; ``fatal``: the sender closes next."""

    code: str
    hint: str = ""
    fatal: bool = False


@attrs.frozen(kw_only=True)
class Bye:
    """The end of the session, not only of the connection."""

    code: str = "closed"
    hint: str = ""


# -- server to client -------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class GapFrame:
    """Messages ``first`` to ``last`` (None: unknown) will not come; ``next`` is the offset that comes next."""

    stream: str
    id: int
    epoch: str
    first: int
    last: int | None
    next: int
    reason: str


@attrs.frozen(kw_only=True)
class StreamAnswer:
    """
    What a welcome or ``subscribed`` says of one subscription.

    ``first`` is the first offset that will be sent, ``crc`` that of the message before it, ``live`` the log's end when
    the answer was made: replay is over when it is passed. Where ``error`` is set the rest is empty.
    """

    stream: str
    id: int
    epoch: str = ""
    first: int = 0
    crc: int | None = None
    live: int = 0
    gap: GapFrame | None = None
    error: Error | None = None


@attrs.frozen(kw_only=True)
class CommittedAnswer:
    """What the stream's slot knows of one (producer, stream): ``known`` is False where it has never heard of it."""

    producer: int
    stream: str
    seq: int
    known: bool = True
    rejected: tuple[tuple[int, str], ...] = ()


@attrs.frozen(kw_only=True)
class KeepaliveAdvice:
    """Seconds between pings, and until a silent peer is given up."""

    interval: float
    timeout: float


@attrs.frozen(kw_only=True)
class Welcome:
    """The answer to a hello."""

    session: str
    token: str = attrs.field(repr=lambda value: "***")
    generation: int
    verdict: Literal["resumed", "new"]
    ttl: float
    node: str
    incarnation: str
    producer_ttl: float
    max_message: int
    version: int = 1
    features: tuple[str, ...] = ()
    reason: str | None = None
    committed: tuple[CommittedAnswer, ...] = ()
    streams: tuple[StreamAnswer, ...] = ()
    keepalive: KeepaliveAdvice | None = None
    peers: tuple[str, ...] = ()
    spread: float = 0.0


@attrs.frozen(kw_only=True)
class Standing:
    """The spare was accepted: no fence raised, no token rotated."""

    node: str


@attrs.frozen(kw_only=True)
class Subscribed:
    """The answer to a subscribe."""

    answer: StreamAnswer


@attrs.frozen(kw_only=True)
class Reject:
    """One message was consumed by a tombstone; later ones go on."""

    producer: int
    stream: str
    seq: int
    code: str
    hint: str = ""


@attrs.frozen(kw_only=True)
class Drain:
    """Leave within ``within`` seconds."""

    within: float
    jitter: float = 0.0
    spread: float = 0.0
    peers: tuple[str, ...] = ()


ClientFrame = Union[Hello, Ready, Subscribe, Unsubscribe, Ack, Grant, Ping, Pong, Auth, Error, Bye]
ServerFrame = Union[Welcome, Standing, Subscribed, Ack, GapFrame, Reject, Ping, Pong, Drain, Error, Bye]
Frame = Union[ClientFrame, ServerFrame]


def check_stream_name(name: object) -> str:
    """
    Return ``name`` if it may name a stream.

    Raises:
        ValueError: The name is not allowed; the text says which names are.
        TypeError: It is not a str.
    """
    if not isinstance(name, str):
        raise TypeError(f"a stream's name is a str, not {type(name).__name__}")
    if STREAM_NAME.match(name) is None:
        raise ValueError(
            f"stream name {name[:140]!r} is not allowed: 1 to 128 of A-Z a-z 0-9 . _ ~ / -, "
            "the first one a letter, a digit, _ or ~ (for example 'orders/eu')"
        )
    return name
