"""
The verbs of a backplane: requests and answers as values, and what each atomic step promises.

Here lives what every backplane does; how one does it never lives here. A request names one *slot* and is one atomic
step in it: the slot of a stream is the stream, the slot of a session (and of its private stream) is its bucket
(:func:`bucket_of`), all nodes together have one. The reference semantics are ``memory.py``; one contract test suite
runs against every backplane. Times are seconds. Rule numbers are those of ``docs/protocol.md``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal, Protocol, Union

import attrs

BUCKETS = 16
"""Sessions are spread over this many slots, so that a node can tick each slot's clock (rule 1)."""


class BackplaneError(Exception):
    """The outcome of a step is unknown or the backplane cannot be reached; nobody may claim that it happened or not."""


@attrs.frozen(order=True)
class Fence:
    """Number that outranks older connections of a session, compared whole (rule 4)."""

    generation: int
    instance: str
    attempt: int


@attrs.frozen
class Entry:
    """One message in a log. ``offset`` is 0 where it has none yet; ``code`` is set for a tombstone (no payload)."""

    payload: bytes
    text: bool
    offset: int = 0
    code: str | None = None

    @property
    def crc(self) -> int:
        """CRC-32 of the payload's bytes."""
        return zlib.crc32(self.payload)


# -- the session's slot -----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class EnterSession:
    """
    Step (a) of a hello (rule 3), in the session's slot.

    In this order: where ``session`` is known, the attempt is judged (same instance, not higher: :class:`Stale`); then
    the principal (:class:`Foreign`), then expiry, then the generation (below the confirmed one: verdict ``new``, reason
    ``superseded``). A verdict ``new`` creates ``new_session`` in the same step. The new generation is
    ``max(record, presented) + 1``; the session's expiry starts anew.

    Attributes:
        session: The id of a token whose MAC was good, or None.
        presented: The token's generation, or None.
        new_session: Id to create if it comes to that; its bucket is that of ``session`` where there is one.
    """

    session: str | None
    presented: int | None
    new_session: str
    instance: str
    attempt: int
    principal: str
    ttl: float


@attrs.frozen(kw_only=True)
class SessionEntered:
    session: str
    fence: Fence
    verdict: Literal["resumed", "new"]
    reason: str | None
    incarnation: str


@attrs.frozen
class Stale:
    """The attempt is not above the last one of this instance: 4410, nothing changed."""


@attrs.frozen
class Foreign:
    """Another principal: 4403, nothing changed."""


@attrs.frozen(kw_only=True)
class Refresh:
    """Prolong the session by ``ttl`` (rule 1). A record below ``fence`` is lifted to it (rule 4)."""

    session: str
    fence: Fence
    ttl: float


@attrs.frozen(kw_only=True)
class Confirm:
    """``ready``: the confirmed generation becomes max(record, ``generation``); needs no fence."""

    session: str
    generation: int


@attrs.frozen(kw_only=True)
class EndSession:
    """``bye``: the record and the private stream go, unless the fence is old."""

    session: str
    fence: Fence


@attrs.frozen(kw_only=True)
class TrimPrivate:
    """The owner acked its private stream up to ``offset``; an old fence trims nothing."""

    session: str
    fence: Fence
    epoch: str
    offset: int


@attrs.frozen(kw_only=True)
class Tick:
    """Advance a bucket's clock: the ttl counts only time in which its operations are at most 2 s apart (rule 1)."""

    bucket: int


@attrs.frozen
class Done:
    """The step happened."""


@attrs.frozen
class SessionUnknown:
    """The record is gone or expired."""


@attrs.frozen
class OldFence:
    """A newer fence stands; ``fence`` is it."""

    fence: Fence


# -- a stream's slot --------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class EnterStream:
    """
    Step (b) of a hello, and the step of a subscribe, in the stream's slot (rule 3).

    Writes the fence of the session there (a newer one standing: :class:`OldFence`), settles
    ``last = max(last, first-1)`` of each producer, reads committed and the rejected seqs >= first, compares ``held``
    and lifts the log's end to ``held`` where that is above it under the same epoch (rule 7). Creates the stream (new
    epoch, log empty) if needed.

    Attributes:
        stream: The stream's full name (a private one as ``~<session id>``).
        producers: (producer id, first) pairs.
        held_epoch, held_offset, held_crc: What the client holds, or None; the CRC may be None alone.
        at: Resolve a start: ``now`` gives the log's end, ``earliest`` the offset before the first retained; else None.
    """

    stream: str
    session: str
    fence: Fence
    producers: tuple[tuple[str, int], ...] = ()
    held_epoch: str | None = None
    held_offset: int | None = None
    held_crc: int | None = None
    at: Literal["now", "earliest"] | None = None


@attrs.frozen(kw_only=True)
class ProducerState:
    producer: str
    seq: int
    known: bool
    rejected: tuple[tuple[int, str], ...] = ()


@attrs.frozen(kw_only=True)
class StreamEntered:
    """
    The facts of one stream; the node draws the conclusions.

    Attributes:
        epoch: The stream's epoch now.
        first: First retained offset (``last + 1`` where nothing is retained).
        last: The log's end, after a lift.
        lifted: True where ``held`` was above the log's end.
        matches: Did the payload at ``held_offset`` have ``held_crc``? None where it is not retained or no CRC is given;
            False where a lift has shown that the message at ``held_offset`` is gone.
        position: Where a reader of ``at`` or of ``held`` (same epoch) continues: the offset before its first message.
            For ``held`` of another epoch: before the first message of the present epoch that is retained (rule 8).
        crc: CRC of the message at ``position``, None where it is not retained.
    """

    epoch: str
    first: int
    last: int
    lifted: bool
    matches: bool | None
    position: int
    crc: int | None
    producers: tuple[ProducerState, ...] = ()


@attrs.frozen(kw_only=True)
class Append:
    """Rule 2, one atomic step: ``entries`` have the seqs first, first+1, ...; those <= last are not stored again."""

    stream: str
    session: str
    fence: Fence
    producer: str
    first: int
    entries: tuple[Entry, ...]


@attrs.frozen(kw_only=True)
class Appended:
    """``seq`` is the producer's last seq now; ``rejected`` its tombstones among the seqs asked for."""

    seq: int
    rejected: tuple[tuple[int, str], ...] = ()


@attrs.frozen(kw_only=True)
class Hole:
    """``first`` was above ``last + 1``: nothing was stored."""

    last: int


@attrs.frozen(kw_only=True)
class Publish:
    """The server's own API: append without a producer. A private stream must belong to a living session."""

    stream: str
    entries: tuple[Entry, ...]


@attrs.frozen(kw_only=True)
class Published:
    epoch: str
    last: int


@attrs.frozen(kw_only=True)
class Read:
    """
    Entries after ``after``, at most ``max_messages`` and about ``max_bytes`` (at least one entry if there is one).

    The slot compares ``epoch`` and, where given, ``crc`` with the message at ``after`` in the same step (rule 7).
    """

    stream: str
    epoch: str
    after: int
    crc: int | None
    max_messages: int
    max_bytes: int


@attrs.frozen(kw_only=True)
class Slice:
    """
    What a read found.

    ``entries`` is empty where ``epoch`` differs, ``matches`` is False, or ``after`` is below ``first - 1``. ``first``
    and ``last`` as in :class:`StreamEntered`; ``matches`` None: not retained, or no CRC given. Tombstones are not in
    the log: they only live with their producer. Offsets rise but need not be consecutive.
    """

    epoch: str
    first: int
    last: int
    matches: bool | None
    entries: tuple[Entry, ...]


# -- the slot of the nodes --------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class LivingNode:
    """
    What a node says of itself.

    Attributes:
        name: 1 to 255 visible ASCII; no two nodes of a store have the same one.
        url: Where clients reach it; visible ASCII.
        sessions: How many have a connection there.
        accept_rate: Hellos that it can take per second, 1 or more.
        is_draining: Whether it takes in nobody any more.
    """

    name: str
    url: str
    sessions: int
    accept_rate: int
    is_draining: bool = False


@attrs.frozen(kw_only=True)
class Announce:
    """``node`` lives for ``ttl`` seconds from now, by the store's time; with a ttl of 0 it is gone at once."""

    node: LivingNode
    ttl: float


@attrs.frozen
class Announced:
    """The other nodes that live, by their names; what they said last."""

    others: tuple[LivingNode, ...] = ()


Request = Union[
    EnterSession, Refresh, Confirm, EndSession, TrimPrivate, Tick, EnterStream, Append, Publish, Read, Announce
]
Answer = Union[
    SessionEntered, Stale, Foreign, Done, SessionUnknown, OldFence, StreamEntered, Appended, Hole, Published, Slice,
    Announced,
]  # fmt: skip

OnWake = Callable[[str], None]
OnFence = Callable[[str, Fence], None]


class Backplane(Protocol):
    """
    What a node needs of a backplane.

    ``run`` performs one request and returns its answer or raises :class:`BackplaneError` where the outcome is unknown.
    ``watch`` makes ``on_wake(stream)`` be called after somebody appended to the stream (a hint only, it may be lost or
    doubled; a read is the truth) until ``unwatch``; ``on_fence(session, fence)`` after a fence was raised anywhere.
    """

    async def start(self, on_wake: OnWake, on_fence: OnFence) -> None: ...

    async def run(self, request: Request) -> Answer: ...

    async def watch(self, stream: str) -> None: ...

    async def unwatch(self, stream: str) -> None: ...

    async def close(self) -> None: ...


def bucket_of(session: str) -> int:
    """Return the bucket that a session id (``<two hex digits><random>``) lives in."""
    return int(session[:2], 16) % BUCKETS


def is_private(stream: str) -> bool:
    """Say whether the full name is a session's private stream."""
    return stream.startswith("~")
