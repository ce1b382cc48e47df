"""
One connection as the session sees it: phase, role, its hello, what it was granted and given, and whether it lives.

A connection decides nothing about the session; it keeps the numbers that are its own and steps through its table.
"""

from __future__ import annotations

import attrs

from resilient_ws.config import Inbox
from resilient_ws.frames import Ack as AckFrame
from resilient_ws.frames import (
    Batch,
    Bye,
    Credit,
    Drain,
    Error,
    Frame,
    GapFrame,
    Hello,
    OffsetMark,
    Ping,
    Pong,
    Reject,
    SeqMark,
    Standing,
    Subscribed,
    Welcome,
)
from resilient_ws.lane import Key, Lane
from resilient_ws.liveness import Liveness
from resilient_ws.outbox import Unacked
from resilient_ws.state import ConnectionInput, Phase, Role, next_phase

WINDOW = 256 << 10
"""Payload bytes that are handed to the shell before it says that they are written."""

_ALWAYS = frozenset({Error, Bye, Ping, Pong})
ALLOWED: dict[Phase, frozenset[type]] = {
    Phase.UPGRADED: _ALWAYS | {Drain},
    Phase.HANDSHAKING: _ALWAYS | {Welcome, Standing},
    Phase.OPEN: _ALWAYS | {Batch, Subscribed, AckFrame, GapFrame, Reject, Drain},
}
"""Which items a server may send in which phase."""


@attrs.define(eq=False)
class Connection:
    """
    Bookkeeping of one connection.

    Attributes:
        deadline: Until when it must be welcomed; None where nothing is awaited.
        hello_at: When it said its last hello.
        ping_out: (echo, when) of our last ping.
        cursors: Next seq to write, per lane, once it is OPEN.
        received: (messages, bytes) that arrived since the welcome, whatever became of them.
        granted: The totals that the server was told.
        unwritten: Payload bytes given to the shell and not reported as written.
        pongs: Answers to pings given to the shell since then.
        late_ping: The newest ping that has no answer yet because there are many of them.
        progressed: Something was acked or answered after the welcome.
        is_leaving: Its node has asked its clients to leave.
        credential: Number of the access token that the server has from us; 0 where tokens are not fetched.
        held_back: What waits until the journal has the token that came with the welcome (rule 16); None: nothing does.
    """

    number: int
    url: str
    role: Role
    deadline: float | None
    phase: Phase = Phase.DIALLING
    hello: Hello | None = None
    hello_at: float = 0.0
    ping_out: tuple[str, float] | None = None
    liveness: Liveness | None = None
    opened_at: float | None = None
    node: str = ""
    incarnation: str = ""
    spread: float = 0.0
    cursors: dict[Key, int] = attrs.field(factory=dict)
    received_messages: int = 0
    received_bytes: int = 0
    granted: Credit = attrs.field(factory=lambda: Credit(0, 0))
    unwritten: int = 0
    pongs: int = 0
    late_ping: Ping | None = None
    progressed: bool = False
    is_leaving: bool = False
    held_back: list[Batch | Frame] | None = None
    notice: Error | None = None
    acked: dict[str, tuple[str, int]] = attrs.field(factory=dict)
    credential: int = 0

    def step(self, happened: ConnectionInput) -> None:
        """Move to the next phase (see the table)."""
        self.phase = next_phase(self.phase, happened)

    def arrived(self, batch: Batch) -> None:
        """Count what arrived against the credit."""
        self.received_messages += len(batch.payloads)
        self.received_bytes += batch.size

    @property
    def is_overdrawn(self) -> bool:
        """More arrived than was granted."""
        return self.received_messages > self.granted.messages or self.received_bytes > self.granted.bytes

    def outstanding(self) -> tuple[int, int]:
        """Return (messages, bytes) that the server may still send under the present grant."""
        return (
            max(0, self.granted.messages - self.received_messages),
            max(0, self.granted.bytes - self.received_bytes),
        )

    def grantable(self, free: tuple[int, int]) -> Credit:
        """Return the totals that may be granted with so much room; they never go down."""
        return Credit(
            max(self.granted.messages, self.received_messages + free[0]),
            max(self.granted.bytes, self.received_bytes + free[1]),
        )

    def is_grant_due(self, free: tuple[int, int], settings: Inbox) -> bool:
        """Say whether half of the window could be granted anew."""
        new = self.grantable(free)
        return (
            2 * (new.messages - self.granted.messages) >= settings.max_messages
            or 2 * (new.bytes - self.granted.bytes) >= settings.max_bytes
        )

    def outbound(self, outbox: Unacked, now: float) -> list[Batch]:
        """Return what is to be written next, as far as the window goes."""
        assert self.hello is not None  # only a welcomed connection writes
        found: list[Batch] = []
        if self.held_back is not None:
            return found
        for lane in outbox.writable():
            if self.cursors.get(lane.key, lane.first) <= lane.safe and lane.producer in self.hello.producers:
                self._outbound_lane(lane, self.hello.producers.index(lane.producer), now, found)
        return found

    def _outbound_lane(self, lane: Lane, index: int, now: float, found: list[Batch]) -> None:
        cursor = max(self.cursors.get(lane.key, lane.first), lane.first)
        while cursor <= lane.safe and self.unwritten < WINDOW:
            batch = lane.batch(cursor, index)
            cursor += len(batch.payloads)
            self.unwritten += sum(map(len, batch.payloads)) + 64
            found.append(batch)
            self.cursors[lane.key] = cursor
            lane.wrote(cursor - 1, now, self.incarnation)

    def sent_marks(self) -> tuple[SeqMark, ...]:
        """Return the last seq given to this connection, per lane that it knows."""
        assert self.hello is not None  # only a welcomed connection has marks
        return tuple(
            SeqMark(self.hello.producers.index(producer), stream, cursor - 1)
            for (producer, stream), cursor in self.cursors.items()
        )

    def producer(self, index: int) -> str | None:
        """Return the producer id that an index of this connection means, None where it means nothing."""
        if self.hello is None or not 0 <= index < len(self.hello.producers):
            return None
        return self.hello.producers[index]


def is_missing(mark: OffsetMark, stream_id: int, epoch: str, offset: int) -> bool:
    """Say whether a node's mark shows that messages under the same subscription and epoch did not arrive."""
    return mark.id == stream_id and mark.epoch == epoch and mark.offset > offset
