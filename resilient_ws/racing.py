"""
Several ways to one server, tried a little apart, and the first that arrives is taken (RFC 8305).

What a way does, TCP, TLS and upgrade, is not known here: it is a function that opens a connection and can be called
off. Each runs in a short daemon thread of its own, because the one before it may still block; none of them outlives its
deadline.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import attrs

from resilient_ws.clock import monotonic
from resilient_ws.connecting import Address, Deadline
from resilient_ws.dialling import DialOptions, Endpoint
from resilient_ws.exceptions import HandshakeRejected, NoEndpoint, ResilientWSError
from resilient_ws.tunnelling import addresses_of

_GLANCE = 0.1


class Opened(Protocol):
    """What a way opens."""

    def release(self) -> None:
        """Close it."""


T = TypeVar("T", bound=Opened)
Way = Callable[[Callable[[], bool]], T]
"""``way(cancelled) -> connection``; ends soon, with an error, when ``cancelled()`` says True."""


@attrs.define(eq=False)
class Race(Generic[T]):
    """
    The ways of one dial.

    Args:
        ways: In the order in which they start.
        stagger: Seconds between two starts; a way that fails lets the next one start at once.
        is_final: Says of a failure that no further way is to start: somebody has answered.
    """

    ways: Sequence[Way[T]]
    stagger: float
    is_final: Callable[[BaseException], bool]
    failures: list[BaseException] = attrs.field(factory=list)
    _ended: queue.SimpleQueue[T | BaseException] = attrs.field(factory=queue.SimpleQueue)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _is_over: bool = False
    _has_answer: bool = False
    _next_at: float = 0.0
    _started: int = 0
    _running: int = 0

    def run(self, remaining: Callable[[], float]) -> T:
        """
        Run it.

        Args:
            remaining: Gives the seconds that are left, and raises where none are.

        Raises:
            BaseException: What ended the way that failed last, or whatever ``remaining`` raised.
        """
        try:
            while self._running or self._started < self._limit:
                wait = self._start_due()
                ended = self._next(min(remaining(), _GLANCE, wait))
                if isinstance(ended, BaseException):
                    self._note(ended)
                elif ended is not None:
                    return ended
            raise self.failures[-1]
        finally:
            self._end()

    @property
    def _limit(self) -> int:
        """How many ways there are to start in all."""
        return self._started if self._has_answer else len(self.ways)

    def _start_due(self) -> float:
        """Start the next way if it is time; return the seconds until it is time for the one after it."""
        now = monotonic()
        if self._started < self._limit and now >= self._next_at:
            self._start(self.ways[self._started])
            self._next_at = now + self.stagger
        return max(self._next_at - now, 0.0) if self._started < self._limit else _GLANCE

    def _note(self, failure: BaseException) -> None:
        self.failures.append(failure)
        self._next_at = 0.0
        self._has_answer = self._has_answer or self.is_final(failure)

    def _next(self, timeout: float) -> T | BaseException | None:
        try:
            ended = self._ended.get(timeout=timeout)
        except queue.Empty:
            return None
        self._running -= 1
        return ended

    def _start(self, way: Way[T]) -> None:
        threading.Thread(target=self._go, args=(way,), name="resilient_ws-way", daemon=True).start()
        self._started += 1
        self._running += 1

    def _go(self, way: Way[T]) -> None:
        try:
            ended: T | BaseException = way(lambda: self._is_over)
        except BaseException as error:
            ended = error
        with self._lock:
            is_late = self._is_over
            if not is_late:
                self._ended.put(ended)
        if is_late and not isinstance(ended, BaseException):
            ended.release()

    def _end(self) -> None:
        """Call off whoever is under way, and close what arrived behind the winner."""
        with self._lock:
            self._is_over = True
        while not self._ended.empty():
            late = self._ended.get()
            if not isinstance(late, BaseException):
                late.release()


def first(
    endpoint: Endpoint, options: DialOptions, deadline: Deadline, open_at: Callable[[Deadline, Address | None], T]
) -> T:
    """
    Open a connection to the address of a server that is the first to let us in.

    Args:
        open_at: ``open_at(deadline, address)``; the address is None where the way leads through a proxy.

    Raises:
        NoEndpoint: no name, or no address answered.
        ConnectTimeout: the deadline passed first.
        HandshakeRejected: the server refused; or what else ``open_at`` raised at the last address.
    """
    found = addresses_of(endpoint, options, deadline)
    if len(found) < 2:
        return open_at(deadline, found[0] if found else None)

    def way(address: Address, cancelled: Callable[[], bool]) -> T:
        return open_at(Deadline(deadline.at, cancelled, deadline.where), address)

    deadline.stage = f"trying its {len(found)} addresses (TCP, TLS, upgrade)"
    race: Race[T] = Race([functools.partial(way, address) for address in found], options.stagger, _has_answered)
    try:
        return race.run(deadline.remaining)
    except NoEndpoint:
        said = "; ".join(dict.fromkeys(str(failed) for failed in race.failures))
        raise NoEndpoint(f"{endpoint}: none of its {len(found)} addresses answered ({said})") from None


def _has_answered(error: BaseException) -> bool:
    """Say whether a failed way shows that the server itself refuses us: its other addresses would not help."""
    if isinstance(error, HandshakeRejected):
        return error.status is not None or not error.retryable
    return not isinstance(error, (ResilientWSError, OSError))
