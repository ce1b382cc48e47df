"""
The process's one keeper thread: it reads for those who do not read for themselves, and runs their timers.

It knows sockets and the small Protocol :class:`Kept`, never a Client or a session, and it never waits for anything but
its selector. Whatever it keeps it keeps strongly, so what it keeps must not refer to a user's object.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from resilient_ws import process
from resilient_ws.clock import monotonic

_log = logging.getLogger("resilient_ws.keeper")
_NEVER = float("inf")


class Watched(Protocol):
    """A socket that selectors can have. ``watchers`` are those that do; it is not closed while there is one."""

    watchers: set[Any]

    def fileno(self) -> int: ...

    def unwatched(self) -> None:
        """No selector has it any more."""


class Kept(Protocol):
    """Something with sockets and deadlines; hashable by identity."""

    def attend(self, watch: Watch, ready: list[Any], now: float) -> float | None:
        """
        Do what is due, without waiting, and keep ``watch`` in step with the sockets to be watched.

        Returns:
            When to be called again at the latest; None: when a socket is ready or somebody asks.
        """

    def fail(self, error: Exception) -> None:
        """``attend`` raised, which it must not; end, and say so."""

    def leave_behind(self) -> None:
        """This is a forked child: let go of the descriptors without a byte or a lock."""


class Waker:
    """Wakes a selector in another thread; ``wake`` takes no lock, so a finalizer may call it."""

    def __init__(self) -> None:
        self._event: int | None = None
        self._pair: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return
        self._pair = socket.socketpair()
        for end in self._pair:
            end.setblocking(False)

    def fileno(self) -> int:
        if self._pair is not None:
            return self._pair[0].fileno()
        return -1 if self._event is None else self._event

    def wake(self) -> None:
        try:
            if self._event is not None:
                os.eventfd_write(self._event, 1)
            elif self._pair is not None:
                self._pair[1].send(b"w")
        except OSError:  # full, so it is awake anyway; or closed
            pass

    def drain(self) -> None:
        try:
            if self._event is not None:
                os.eventfd_read(self._event)
            elif self._pair is not None:
                self._pair[0].recv(4096)
        except OSError:
            pass

    def close(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            os.close(event)
        if self._pair is not None:
            for end in self._pair:
                end.close()


class Watch:
    """
    Which sockets of one owner a selector has; every method needs the owner's lock.

    Attributes:
        is_torn: An interrupt ended :meth:`sync` in the middle: nobody knows what the selector has.
    """

    __slots__ = ("_key", "_registered", "_selector", "is_torn")

    def __init__(self, selector: selectors.BaseSelector, key: Any = None) -> None:
        self._selector = selector
        self._key = key
        self._registered: dict[Watched, int] = {}
        self.is_torn = False

    @property
    def is_empty(self) -> bool:
        return not self._registered

    def has(self, wanted: Mapping[Any, int]) -> bool:
        """Say whether these sockets and no others are watched, for these events."""
        return self._registered == wanted

    def sync(self, wanted: Mapping[Any, int]) -> None:
        """Have the selector watch these sockets for these events and no others."""
        registered = self._registered
        if wanted == registered:
            return
        self.is_torn = True
        for watched in [watched for watched in registered if watched not in wanted]:
            self._selector.unregister(watched)
            self._forget(watched)
        for watched, events in wanted.items():
            known = registered.setdefault(watched, 0)
            watched.watchers.add(self)
            if known == 0:
                self._selector.register(watched, events, (self._key, watched))
            elif known != events:
                self._selector.modify(watched, events, (self._key, watched))
            registered[watched] = events
        self.is_torn = False

    def _forget(self, watched: Watched) -> None:
        watched.watchers.discard(self)
        if not watched.watchers:
            watched.unwatched()
        del self._registered[watched]

    def abandon(self) -> None:
        """Forget everything; for a selector that is closed."""
        for watched in list(self._registered):
            self._forget(watched)


class Waiter:
    """A selector and a waker for one thread that waits for one owner's sockets; they are used again."""

    def __init__(self) -> None:
        self.generation = process.generation()
        self._selector = selectors.DefaultSelector()
        self._waker = Waker()
        self._selector.register(self._waker, selectors.EVENT_READ, None)
        self.watch = Watch(self._selector)

    def wait(self, timeout: float | None) -> list[Any]:
        """Wait until a socket is ready, somebody wakes us, or the time is over; return the ready sockets."""
        ready = []
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._waker.drain()
            else:
                ready.append(key.data[1])
        return ready

    def wake(self) -> None:
        self._waker.wake()

    def close(self) -> None:
        self._selector.close()
        self._waker.close()
        self.watch.abandon()


class Waiters:
    """Waiters that are free. A Client that nobody reads has none, which keeps an idle one at one descriptor."""

    _KEEP = 16

    def __init__(self) -> None:
        self._free: deque[Waiter] = deque()

    def get(self) -> Waiter:
        while self._free:
            try:
                waiter = self._free.pop()
            except IndexError:
                break
            if waiter.generation == process.generation():
                return waiter
            waiter.close()  # of the parent: its selector is shared with it
        return Waiter()

    def put(self, waiter: Waiter) -> None:
        """Take back a waiter whose watch is empty."""
        if len(self._free) < self._KEEP and waiter.generation == process.generation():
            self._free.append(waiter)
        else:
            waiter.close()


@attrs.define(eq=False)
class Keeper:
    """The thread; ``ask`` is all that others need."""

    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector)
    _waker: Waker = attrs.field(factory=Waker)
    # Appended to by any thread, also by a finalizer in the middle of anything: no lock.
    _asked: deque[tuple[Kept, float]] = attrs.field(factory=deque)
    _orphans: deque[Callable[[], None]] = attrs.field(factory=deque)
    _until: float = 0.0
    _watches: dict[Kept, Watch] = attrs.field(factory=dict)
    _due: dict[Kept, float] = attrs.field(factory=dict)
    _heap: list[tuple[float, int, Kept]] = attrs.field(factory=list)
    _count: Any = attrs.field(factory=itertools.count)
    _is_stopped: bool = False
    is_running: bool = False

    def start(self) -> None:
        self._selector.register(self._waker, selectors.EVENT_READ, None)
        threading.Thread(target=self._run, name="resilient_ws-keeper", daemon=True).start()

    def ask(self, kept: Kept, at: float = 0.0) -> None:
        """Have ``kept`` attended at ``at``, or now; takes no lock and does not wait."""
        self._asked.append((kept, at))
        # The thread sets _until and then looks at _asked once more, so one of the two sees the other.
        if at < self._until:
            self._waker.wake()

    def hand_over(self, work: Callable[[], None]) -> None:
        """Have ``work()`` done in the thread; for finalizers, which may take no lock."""
        self._orphans.append(work)
        self._waker.wake()

    def stop(self) -> None:
        self._is_stopped = True
        self._waker.wake()

    def leave_behind(self) -> None:
        """Close what a forked child has of this, which is not its own."""
        self._selector.close()
        self._waker.close()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self.is_running = True
        while not self._is_stopped:
            try:
                self._round()
            except Exception:
                _log.exception("resilient_ws.keeper_failed")
        self.is_running = False

    def _round(self) -> None:
        now = monotonic()
        at = self._next_at()
        self._until = at
        if self._asked or self._orphans:
            at = now
        ready = self._selector.select(None if at == _NEVER else max(0.0, at - now))
        self._until = 0.0
        found: dict[Kept, list[Any]] = {}
        for key, _ in ready:
            if key.data is None:
                self._waker.drain()
            else:
                found.setdefault(key.data[0], []).append(key.data[1])
        while self._orphans:
            self._orphans.popleft()()
        now = monotonic()
        self._collect(found, now)
        for kept, sockets in found.items():
            self._attend(kept, sockets, now)

    def _next_at(self) -> float:
        heap = self._heap
        while heap and self._due.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else _NEVER

    def _collect(self, found: dict[Kept, list[Any]], now: float) -> None:
        while self._asked:
            kept, at = self._asked.popleft()
            if at <= now:
                found.setdefault(kept, [])
            else:
                self._plan(kept, min(at, self._due.get(kept, _NEVER)))
        while self._next_at() <= now:
            kept = heapq.heappop(self._heap)[2]
            del self._due[kept]
            found.setdefault(kept, [])

    def _plan(self, kept: Kept, at: float) -> None:
        if self._due.get(kept) != at:
            self._due[kept] = at
            heapq.heappush(self._heap, (at, next(self._count), kept))

    def _attend(self, kept: Kept, sockets: list[Any], now: float) -> None:
        watch = self._watches.get(kept)
        if watch is None:
            watch = self._watches[kept] = Watch(self._selector, kept)
        at: float | None = None
        try:
            at = kept.attend(watch, sockets, now)
        except Exception as error:
            _log.exception("resilient_ws.keeper_failed")
            self._fail(kept, error)
        if at is not None:
            self._plan(kept, at)
            return
        self._due.pop(kept, None)
        if watch.is_empty:
            del self._watches[kept]


    def _fail(self, kept: Kept, error: Exception) -> None:
        try:
            kept.fail(error)
        except Exception:
            _log.exception("resilient_ws.keeper_failed")  # the others still have to be attended


# -- one per process --------------------------------------------------------------------------------------------------

waiters = Waiters()
_keeper: Keeper | None = None
_start_lock = threading.Lock()
_all_kept: weakref.WeakSet[Any] = weakref.WeakSet()


def keeper_for(kept: Kept) -> Keeper:
    """
    Return the keeper of this process, started if it is the first time.

    Raises:
        RuntimeError: No thread can be started.
    """
    global _keeper
    with _start_lock:
        if _keeper is None:
            fresh = Keeper()
            fresh.start()
            _keeper = fresh
        _all_kept.add(kept)
        return _keeper


def _in_child() -> None:
    global _keeper, _start_lock, _all_kept
    kept = list(_all_kept)
    _all_kept = weakref.WeakSet()
    _start_lock = threading.Lock()
    old, _keeper = _keeper, None
    if old is not None:
        old.leave_behind()
    for each in kept:
        each.leave_behind()


def _at_end() -> None:
    if _keeper is not None:
        _keeper.stop()


process.in_child(_in_child)
process.at_end(_at_end)
