"""
What a journal keeps: the records that a session wants written down, and what a restart reads back.

Plain values. When they are written is the session's business, how they lie on a disk the journal's. Times are those of
the process's monotonic clock (``now``); a journal converts them to wall time and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

import attrs

from resilient_ws.frames import Payload, Position


@attrs.frozen
class Void:
    """Stands where a message was withdrawn after it had been numbered; ``code`` says why."""

    code: str


@attrs.frozen
class Identity:
    """What proves who we are on the next connection."""

    session: str
    token: str = attrs.field(repr=lambda value: "***")
    generation: int


# -- written ----------------------------------------------------------------------------------------------------------


@attrs.define
class Accepted:
    """
    Messages ``first``, ``first + 1``, ... of a lane were accepted.

    Attributes:
        at: When; one time for all of them.
        welcome: Number of the first welcome under which a server can have got them.
    """

    producer: str
    stream: str
    first: int
    payloads: list[Payload]
    at: float
    welcome: int


@attrs.frozen
class Settled:
    """Everything of a lane up to ``seq`` needs no resend: it was acked, or its number is expected by nobody."""

    producer: str
    stream: str
    seq: int


@attrs.frozen
class Withdrawn:
    """The messages with these numbers go out as tombstones: their payloads are gone."""

    producer: str
    stream: str
    seqs: tuple[int, ...]
    code: str


@attrs.frozen
class Handled:
    """
    The user has handled a stream up to ``position``.

    Attributes:
        crc: CRC-32 of the message there, where it is known.
        cursor: The dialect's own word for that place, where it has one.
    """

    stream: str
    position: Position
    crc: int | None
    cursor: str | None = None


@attrs.frozen
class Forgotten:
    """A stream was given up, or asked for anew: what was handled of it before says nothing any more."""

    stream: str


@attrs.frozen
class Welcomed:
    """
    A server welcomed us; from now on it may get what waits.

    Attributes:
        number: Counts the welcomes of this journal, from 1.
        incarnation: The server's store.
    """

    number: int
    at: float
    incarnation: str
    identity: Identity


@attrs.frozen
class SessionOver:
    """The session was ended for good: its token is worth nothing any more."""


Record = Union[Accepted, Settled, Withdrawn, Handled, Forgotten, Welcomed, SessionOver]


# -- read back --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Mark:
    """Messages up to ``seq`` can have been written since ``at``, to a server whose store had this incarnation."""

    seq: int
    at: float
    incarnation: str


@attrs.frozen
class RestoredLane:
    """
    The unacked messages of one (producer, stream), in order from ``first`` on.

    Attributes:
        births: (seq, when) pairs: messages up to ``seq``, above those of the pair before, were accepted then.
        marks: Which of them a server may have; none above the last one's ``seq``.
    """

    producer: str
    stream: str
    first: int
    items: list[Payload | Void]
    births: tuple[tuple[int, float], ...] = ()
    marks: tuple[Mark, ...] = ()


@attrs.frozen(kw_only=True)
class Restored:
    """
    What a journal knows when it is opened.

    Attributes:
        identity: The session and its newest token.
        instances: Ids of the Clients that wrote into it before; their connections are our own.
        positions: Where each stream was handled to.
        lanes: What has no ack, the oldest producer first.
        welcomes: Number of the last welcome.
    """

    identity: Identity | None = None
    instances: frozenset[str] = frozenset()
    positions: Mapping[str, Handled] = attrs.field(factory=dict)
    lanes: tuple[RestoredLane, ...] = ()
    welcomes: int = 0
