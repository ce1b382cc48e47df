"""
What a run saw: its history, and what each session went through, counted while it goes on.

Here lives the one lock around the history, and who was where when a node was broken. Whether the history is right is
the checker's business; nothing here knows the client or the cluster.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import attrs

from server_fixture import history as h
from server_fixture.chaos import Strike

Place = tuple[str, int]
"""An epoch and an offset in it."""


@attrs.frozen
class Struck:
    """What a fault did to a session that was on its node: when, which kind, and whether another node was left."""

    at: float
    kind: str
    was_left: bool


@attrs.frozen
class Recovery:
    """How long one session took to come back from a fault."""

    seconds: float
    kind: str
    was_left: bool


@attrs.frozen
class Ending:
    """
    A connection that a session had, and lost.

    Attributes:
        at: When, by the recorder's clock.
        code, reason: As those of :class:`resilient_ws.events.ConnectionEnded`.
    """

    process: str
    node: str
    at: float
    code: int
    reason: str


@attrs.define(eq=False)
class Tally:
    """
    One session's counts.

    Attributes:
        sends, receives: The directions in which it is meant to have messages.
        node: Where it is connected, None while it is not.
        conn: Number of that connection.
        cuts: Connections that it lost, or left for another one.
        unresolved: Sends whose fate is not known yet.
        seen: The last place that it got of each stream.
        struck: The fault that came over the node under it; None once it resumed, or where it sat that out.
        unheard: The same, until the first message after that.
    """

    process: str
    sends: bool
    receives: bool
    node: str | None = None
    conn: int = 0
    cuts: int = 0
    reconnects: int = 0
    resumed: int = 0
    sent: int = 0
    committed: int = 0
    unresolved: int = 0
    delivered: int = 0
    gaps: int = 0
    seen: dict[str, Place] = attrs.field(factory=dict)
    struck: Struck | None = None
    unheard: Struck | None = None


@attrs.frozen
class Spread:
    """Some durations in milliseconds; None where there was none."""

    count: int
    p50: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread:
        """Sum up durations that are given in seconds."""
        found = sorted(1000.0 * duration for duration in seconds)
        if not found:
            return cls(0, None, None, None)

        def at(part: float) -> float:
            return round(found[max(0, math.ceil(part * len(found)) - 1)], 1)

        return cls(len(found), at(0.5), at(0.99), at(1.0))


@attrs.define(eq=False)
class Recorder:
    """
    Takes what happens, from any thread.

    Attributes:
        recoveries, to_message: From a fault until a session that was on the node resumed, and until it got its first
            message after that.
        endings: Connections that sessions had, and lost.
        welcomes, resumes: How often a node, by its name, welcomed a session, and how often one resumed there.
    """

    clock: Callable[[], float] = time.monotonic
    history: h.History = attrs.field(factory=h.History)
    tallies: dict[str, Tally] = attrs.field(factory=dict)
    recoveries: list[Recovery] = attrs.field(factory=list)
    to_message: list[Recovery] = attrs.field(factory=list)
    endings: list[Ending] = attrs.field(factory=list)
    welcomes: Counter[str] = attrs.field(factory=Counter)
    resumes: Counter[str] = attrs.field(factory=Counter)
    changed: threading.Condition = attrs.field(factory=threading.Condition)

    def joins(self, process: str, *, sends: bool, receives: bool) -> Tally:
        """Begin to count for a session."""
        with self.changed:
            self.tallies[process] = Tally(process, sends, receives)
            return self.tallies[process]

    def record(self, op: h.Op) -> None:
        """Take an op that counts for nobody."""
        with self.changed:
            self.history.append(op)

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``ready()`` holds; it is looked at after everything that happens."""
        with self.changed:
            return self.changed.wait_for(ready, timeout)

    # -- messages -----------------------------------------------------------------------------------------------------

    def sent(self, tally: Tally, producer: str, stream: str, seq: int, data: str | bytes) -> None:
        """A message was accepted."""
        with self.changed:
            tally.sent += 1
            tally.unresolved += 1
            op = h.Send(tally.process, self.clock(), producer, stream, seq, h.fingerprint(data))
            self.history.append(op)

    def resolved(self, tally: Tally, producer: str, stream: str, seq: int, outcome: str, code: str | None) -> None:
        """The fate of a message is known."""
        with self.changed:
            tally.unresolved -= 1
            tally.committed += outcome == "ok"
            self.history.append(h.Receipt(tally.process, self.clock(), producer, stream, seq, outcome, code))
            self.changed.notify_all()

    def subscribed(self, tally: Tally, stream: str, epoch: str, offset: int) -> None:
        """The session follows a stream from behind this place."""
        with self.changed:
            tally.seen.setdefault(stream, (epoch, offset))
            self.history.append(h.Subscribed(tally.process, self.clock(), stream, epoch, offset + 1))

    def delivered(self, tally: Tally, stream: str, epoch: str, offset: int, data: str | bytes) -> None:
        """The user got a message."""
        with self.changed:
            now = self.clock()
            tally.delivered += 1
            tally.seen[stream] = (epoch, offset)
            if tally.unheard is not None and tally.struck is None:
                self.to_message.append(_since(tally.unheard, now))
                tally.unheard = None
            self.history.append(h.Deliver(tally.process, now, stream, epoch, offset, h.fingerprint(data)))
            self.changed.notify_all()

    def gap(self, tally: Tally, op: h.GapReported) -> None:
        """The user was told of a gap."""
        with self.changed:
            tally.gaps += 1
            tally.seen[op.stream] = (op.epoch, op.next - 1)
            self.history.append(op)
            self.changed.notify_all()

    # -- connections --------------------------------------------------------------------------------------------------

    def connected(self, tally: Tally, node: str, conn: int = 0) -> None:
        """The session has a connection, by its number; one that it still had is left for it."""
        with self.changed:
            tally.cuts += tally.node is not None
            if tally.cuts:
                tally.reconnects += 1
                self.history.append(h.Reconnected(tally.process, self.clock(), node))
            tally.node, tally.conn = node, conn
            self.welcomes[node] += 1
            self.changed.notify_all()

    def resumed(self, tally: Tally, node: str) -> None:
        """The session went on, on another connection."""
        with self.changed:
            now = self.clock()
            tally.resumed += 1
            self.resumes[node] += 1
            if tally.struck is not None:
                self.recoveries.append(_since(tally.struck, now))
                tally.struck = None
            self.history.append(h.Resumed(tally.process, now, node))
            self.changed.notify_all()

    def cut(self, tally: Tally, conn: int = 0, code: int = 0, reason: str = "") -> None:
        """A connection or attempt ended, by its number: the session lost its connection, if it was that one."""
        with self.changed:
            if tally.node is not None and tally.conn == conn:
                self.endings.append(Ending(tally.process, tally.node, self.clock(), code, reason))
                tally.cuts += 1
                tally.node = None
                self.changed.notify_all()

    def struck(self, strike: Strike) -> None:
        """Nodes are about to be broken: note who is there, and whose recovery has no node left to go to."""
        with self.changed:
            is_left = strike.left > 0
            for tally in self.tallies.values():
                if tally.struck is not None:
                    tally.struck = attrs.evolve(tally.struck, was_left=tally.struck.was_left and is_left)
                elif tally.node in strike.nodes:
                    tally.struck = Struck(strike.time, strike.kind, is_left)
                else:
                    continue
                tally.unheard = tally.struck if tally.receives else None

    def passed(self, kind: str, node: str) -> None:
        """A fault that a session may sit out is over: who is still connected there had nothing to recover from."""
        with self.changed:
            for tally in self.tallies.values():
                if tally.node == node and tally.struck is not None and tally.struck.kind == kind:
                    tally.struck = tally.unheard = None

    def is_peopled(self, node: str) -> bool:
        """Say whether a session is connected to a node at this moment."""
        with self.changed:
            return any(tally.node == node for tally in self.tallies.values())

    # -- sums ---------------------------------------------------------------------------------------------------------

    def total(self, what: str) -> int:
        """Add up one count of every session."""
        return sum(getattr(tally, what) for tally in self.tallies.values())

    def recovered(self, kind: str) -> list[Recovery]:
        """Return the recoveries from one kind of fault."""
        with self.changed:
            return [recovery for recovery in self.recoveries if recovery.kind == kind]

    def spread(self, of: list[Recovery], *, was_left: bool = True) -> Spread:
        """Sum up recoveries from faults that left a node, or from those that left none."""
        with self.changed:
            return Spread.of(recovery.seconds for recovery in of if recovery.was_left is was_left)


def _since(struck: Struck, now: float) -> Recovery:
    return Recovery(now - struck.at, struck.kind, struck.was_left)
