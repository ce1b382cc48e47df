"""
What a run saw: its history, and what each session went through, counted while it goes on.

Here lives the one lock around the history, and who was where when a node was killed. Whether the history is right is
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
from server_fixture.chaos import Kill

Place = tuple[str, int]
"""An epoch and an offset in it."""


@attrs.define(eq=False)
class Tally:
    """
    One session's counts.

    Attributes:
        sends, receives: The directions in which it is meant to have messages.
        node: Where it is connected, None while it is not.
        cuts: Connections that it lost.
        unresolved: Sends whose fate is not known yet.
        seen: The last place that it got of each stream.
        struck: When the node under it was killed, and whether another one was left; None once it resumed.
        unheard: The same, until the first message after that.
    """

    process: str
    sends: bool
    receives: bool
    node: str | None = None
    cuts: int = 0
    reconnects: int = 0
    resumed: int = 0
    sent: int = 0
    committed: int = 0
    unresolved: int = 0
    delivered: int = 0
    gaps: int = 0
    seen: dict[str, Place] = attrs.field(factory=dict)
    struck: tuple[float, bool] | None = None
    unheard: tuple[float, bool] | None = None


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
        recoveries, to_message: Seconds from a kill until a session that was on the node resumed, and until it got its
            first message after that; (duration, whether a node was left) each.
        welcomes, resumes: How often a node, by its name, welcomed a session, and how often one resumed there.
    """

    clock: Callable[[], float] = time.monotonic
    history: h.History = attrs.field(factory=h.History)
    tallies: dict[str, Tally] = attrs.field(factory=dict)
    recoveries: list[tuple[float, bool]] = attrs.field(factory=list)
    to_message: list[tuple[float, bool]] = attrs.field(factory=list)
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
                at, was_left = tally.unheard
                self.to_message.append((now - at, was_left))
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

    def connected(self, tally: Tally, node: str) -> None:
        """The session has a connection."""
        with self.changed:
            if tally.cuts:
                tally.reconnects += 1
                self.history.append(h.Reconnected(tally.process, self.clock(), node))
            tally.node = node
            self.welcomes[node] += 1
            self.changed.notify_all()

    def resumed(self, tally: Tally, node: str) -> None:
        """The session went on, on another connection."""
        with self.changed:
            now = self.clock()
            tally.resumed += 1
            self.resumes[node] += 1
            if tally.struck is not None:
                at, was_left = tally.struck
                self.recoveries.append((now - at, was_left))
                tally.struck = None
            self.history.append(h.Resumed(tally.process, now, node))
            self.changed.notify_all()

    def cut(self, tally: Tally) -> None:
        """The session lost its connection, if it had one."""
        with self.changed:
            if tally.node is not None:
                tally.cuts += 1
                tally.node = None
                self.changed.notify_all()

    def kill(self, kill: Kill) -> None:
        """Nodes are about to be killed: note who is there, and whose recovery has no node left to go to."""
        with self.changed:
            is_left = kill.left > 0
            for tally in self.tallies.values():
                if tally.struck is not None:
                    tally.struck = (tally.struck[0], tally.struck[1] and is_left)
                elif tally.node in kill.nodes:
                    tally.struck = (kill.time, is_left)
                else:
                    continue
                tally.unheard = tally.struck if tally.receives else None

    # -- sums ---------------------------------------------------------------------------------------------------------

    def total(self, what: str) -> int:
        """Add up one count of every session."""
        return sum(getattr(tally, what) for tally in self.tallies.values())

    def spread(self, of: list[tuple[float, bool]], *, was_left: bool = True) -> Spread:
        """Sum up recoveries from kills that left a node, or from those that left none."""
        with self.changed:
            return Spread.of(duration for duration, left in of if left is was_left)
