"""
One direction of one proxied connection, and the faults it takes: stall, cut, reset, delay, slice.

No selector and no thread: the proxy in link.py says when to read and write, and runs every fault in its own thread.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

_READ = 64 << 10
#: A link that holds so much reads no more: back-pressure reaches the sender.
_HOLD = 256 << 10


class Owner(Protocol):
    """The connection that a link belongs to."""

    def run(self, call: Callable[[], object]) -> None:
        """Run a change in the proxy's thread."""

    def end(self) -> None:
        """Send FIN to both sides; in the proxy's thread only."""

    def reset(self) -> None:
        """Send RST to both sides."""


class Link:
    """
    One direction of one proxied connection.

    Attributes:
        received: Bytes read from the source.
        passed: Bytes handed to the target.
        is_stalled: Whether the data stands still.
    """

    def __init__(self, carried: Owner, source: socket.socket, target: socket.socket) -> None:
        self.received = 0
        self.passed = 0
        self.is_stalled = False
        self._carried = carried
        self._source = source
        self._target = target
        self._held: deque[tuple[float, memoryview]] = deque()
        self._delay = self._pause = self._not_before = 0.0
        self._slice = 0
        self._cut_after: int | None = None
        self._is_at_end = False
        self._is_finished = False

    # -- faults

    def stall(self) -> None:
        """Read and pass on nothing more until :meth:`heal`; nothing is lost."""
        self._carried.run(lambda: setattr(self, "is_stalled", True))

    def heal(self) -> None:
        """Take back stall, delay, slice and a cut that has not happened; what is held goes on at once."""
        self._carried.run(self._heal)

    def cut(self, after: int = 0) -> None:
        """
        End the connection with FIN to both sides when exactly so many bytes have passed here.

        Args:
            after: Counted from the start of the connection; what has passed already counts.
        """
        self._carried.run(lambda: self._set_cut(after))

    def reset(self) -> None:
        """End the connection with RST to both sides; what is held is lost."""
        self._carried.reset()

    def delay(self, seconds: float) -> None:
        """Pass on each piece so much later than it came; order is kept."""
        self._carried.run(lambda: setattr(self, "_delay", seconds))

    def slice(self, size: int, pause: float = 0.0) -> None:
        """Pass on at most so many bytes at a time, with a pause in between: slow and in small segments."""
        self._carried.run(lambda: self._set_slice(size, pause))

    def _heal(self) -> None:
        self.is_stalled = False
        self._delay = self._pause = self._not_before = 0.0
        self._slice = 0
        self._cut_after = None
        self._held = deque((0.0, piece) for _, piece in self._held)

    def _set_cut(self, after: int) -> None:
        self._cut_after = after
        if self.passed >= after:
            self._carried.end()

    def _set_slice(self, size: int, pause: float) -> None:
        self._slice, self._pause = size, pause

    # -- the data; in the proxy's thread only

    def wants_read(self) -> bool:
        """Say whether more may be read: not at the end, not stalled, and not too much held."""
        held = self.received - self.passed
        return not self._is_at_end and not self.is_stalled and held < _HOLD

    def due_at(self) -> float | None:
        """Give the instant from which something can be passed on, or None."""
        if self.is_stalled or not self._held:
            return None
        return max(self._held[0][0], self._not_before)

    def read(self, now: float) -> None:
        """Take what the source has; it may go on after the delay."""
        data = self._source.recv(_READ)
        if not data:
            self._is_at_end = True
        else:
            self.received += len(data)
            self._held.append((now + self._delay, memoryview(data)))

    def write(self, now: float) -> None:
        """Pass on what is due: one piece, or one slice of it."""
        due = self.due_at()
        if due is None or due > now:
            return
        piece = self._held[0][1]
        limit = min(len(piece), self._slice or len(piece))
        if self._cut_after is not None:
            limit = min(limit, self._cut_after - self.passed)
        sent = self._target.send(piece[:limit])
        self.passed += sent
        self._held[0] = (due, piece[sent:])
        if sent == len(piece):
            self._held.popleft()
        self._not_before = now + self._pause
        if self._cut_after is not None and self.passed >= self._cut_after:
            self._carried.end()

    def finish(self) -> bool:
        """Pass on the end of the source once all before it is out; say whether it is."""
        if self._is_at_end and not self._held and not self.is_stalled and not self._is_finished:
            self._is_finished = True
            with contextlib.suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)
        return self._is_finished
