"""
A connection's number with its transport and codec: what the shell keeps of one connection.

Nothing is decided here, and nothing waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Protocol

import attrs

from resilient_ws.actions import Dial
from resilient_ws.dialects import Codec
from resilient_ws.exceptions import RemoteProtocolError, ResilientWSError

_log = logging.getLogger("resilient_ws.driver")


class Transport(Protocol):
    """What is driven: see ``transport.py``."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]: ...

    @property
    def has_buffered(self) -> bool: ...

    @property
    def wants_write(self) -> bool: ...

    @property
    def buffered_bytes(self) -> int: ...

    def fileno(self) -> int: ...

    def receive(self) -> list[str | bytes]: ...

    def write(self, messages: Sequence[str | bytes]) -> bool: ...

    def flush(self) -> bool: ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...

    def shut(self) -> None: ...

    def release(self) -> None: ...


Opener = Callable[[Dial, Callable[[], bool]], Transport]
"""``(what to dial, cancelled) -> transport``; blocks, in a thread of its own."""


@attrs.define(eq=False)
class Wired:
    """
    One connection.

    Attributes:
        watchers: Which selectors have it; it is released when there is none.
        stuck_since: Since when written bytes wait for the kernel without any progress; None: nothing waits.
        leave_at: Until when the answer to our close frame is awaited; None: it is not leaving.
        is_retired: Ended; nothing is read or written any more.
    """

    conn: int
    transport: Transport
    codec: Codec
    watchers: set[Any] = attrs.field(factory=set)
    stuck_since: float | None = None
    leave_at: float | None = None
    is_retired: bool = False
    _stuck_bytes: int = 0

    def fileno(self) -> int:
        return self.transport.fileno()

    def read_into(self, arrived: Arrived) -> None:
        """Read and decode once; not under the session's lock, because a dialect may be a user's."""
        if self.is_retired:
            return
        try:
            if self.transport.wants_write:
                self.transport.flush()
            messages = self.transport.receive()
            if messages and self.leave_at is None:
                arrived.items = self.codec.decode(messages)
                arrived.error = self.codec.failure
        except (ResilientWSError, MemoryError) as error:
            arrived.error = error
        except Exception as error:
            _log.exception("resilient_ws.decoding_failed")
            arrived.error = RemoteProtocolError(f"the dialect's decoder failed with {type(error).__name__}")

    def unwatched(self) -> None:
        """No selector has it any more."""
        if self.is_retired:
            self.transport.release()

    def retire(self) -> None:
        """End it; the descriptor is closed when no selector has it."""
        if self.is_retired:
            return
        self.is_retired = True
        self.transport.shut()
        if not self.watchers:
            self.transport.release()

    def leave(self, code: int, reason: str, until: float) -> None:
        """Say goodbye; the peer has until then to answer."""
        self.leave_at = until
        try:
            self.transport.close(code, reason)
        except ValueError:  # not a code that may stand in a close frame
            self.transport.close(1002, reason)

    def events(self, *, reads: bool) -> int:
        """Return what a selector is to watch."""
        return (EVENT_READ if reads else 0) | (EVENT_WRITE if self.transport.wants_write else 0)

    def progress(self, now: float) -> None:
        """Note whether the kernel took some of what waits."""
        left = self.transport.buffered_bytes if self.transport.wants_write else 0
        if left == 0:
            self.stuck_since = None
        elif self.stuck_since is None or left < self._stuck_bytes:
            self.stuck_since = now
        self._stuck_bytes = left


@attrs.define(eq=False)
class Arrived:
    """What one read brought, on its way to the session."""

    wired: Wired
    items: list[Any] = attrs.field(factory=list)
    error: Exception | None = None


@attrs.define(eq=False)
class Connections:
    """
    All of one Client; every method needs its lock.

    Attributes:
        live: By number.
        leaving: Those that await the answer to our close frame.
        buffered: Those that have something to give without another byte from the network.
        dialling: Numbers that are being dialled and still wanted.
    """

    live: dict[int, Wired] = attrs.field(factory=dict)
    leaving: list[Wired] = attrs.field(factory=list)
    buffered: set[Wired] = attrs.field(factory=set)
    dialling: set[int] = attrs.field(factory=set)

    def add(self, wired: Wired) -> None:
        self.live[wired.conn] = wired
        self.note_buffered(wired)

    def note_buffered(self, wired: Wired) -> None:
        """Look whether it has something without another byte from the network."""
        if wired.transport.has_buffered:
            self.buffered.add(wired)
        else:
            self.buffered.discard(wired)

    def pop(self, conn: int) -> Wired | None:
        wired = self.live.pop(conn, None)
        if wired is not None:
            self.buffered.discard(wired)
        return wired

    def wanted(self, *, reads: bool) -> dict[Wired, int]:
        """Return what a selector is to watch, and for what."""
        wanted = {wired: wired.events(reads=reads) for wired in self.live.values()}
        for wired in self.leaving:
            wanted[wired] = wired.events(reads=True)
        return {wired: events for wired, events in wanted.items() if events}

    def next_deadline(self, write_timeout: float) -> float | None:
        due = [wired.leave_at for wired in self.leaving if wired.leave_at is not None]
        due += [wired.stuck_since + write_timeout for wired in self.live.values() if wired.stuck_since is not None]
        return min(due, default=None)

    def stuck(self, since: float) -> list[Wired]:
        """Return those whose peer takes nothing since then."""
        return [wired for wired in self.live.values() if wired.stuck_since is not None and wired.stuck_since <= since]

    def retire_leaving(self, now: float) -> None:
        """End those whose peer had its time to answer."""
        for wired in [wired for wired in self.leaving if wired.leave_at is not None and wired.leave_at <= now]:
            self.leaving.remove(wired)
            wired.retire()

    def retire_all(self) -> None:
        for wired in (*self.live.values(), *self.leaving):
            wired.retire()
        self.live.clear()
        self.leaving.clear()
        self.buffered.clear()
        self.dialling.clear()

    def release_all(self) -> None:
        """Close our copies of the descriptors and nothing else: this is a forked child."""
        for wired in (*self.live.values(), *self.leaving):
            wired.transport.release()

    @property
    def are_gone(self) -> bool:
        return not self.live and not self.leaving
