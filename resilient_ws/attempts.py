"""
Short daemon threads for work that blocks: dials, and the lookups that go before them.

At most so many run at once in a process, the rest wait in line; a thread that is done takes the next in line and ends
when there is none. What the work is, is not known here.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from resilient_ws import process

AT_ONCE = 32

_log = logging.getLogger("resilient_ws.attempts")


class Attempts:
    """The threads of one process. ``start`` never blocks."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = 0

    @property
    def running(self) -> int:
        """How many threads there are."""
        return self._running

    def start(self, work: Callable[[], None]) -> None:
        """
        Have ``work()`` done in a thread, which it may block; it must not raise.

        Raises:
            RuntimeError: The system has no thread for us.
        """
        with self._lock:
            if self._running >= self._at_once:
                self._waiting.append(work)
                return
            self._running += 1
        try:
            threading.Thread(target=self._run, args=(work,), name="resilient_ws-dial", daemon=True).start()
        except BaseException:
            with self._lock:
                self._running -= 1
            raise

    def _run(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            try:
                work()
            except BaseException:  # also sys.exit() in a user's function: the next in line must have its turn
                _log.exception("resilient_ws.attempt_failed")
            with self._lock:
                work = self._waiting.popleft() if self._waiting else None
                self._running -= work is None


_attempts = Attempts()


def start(work: Callable[[], None]) -> None:
    """
    Have ``work()`` done by the process's :class:`Attempts`.

    Raises:
        RuntimeError: The system has no thread for us, or the interpreter is ending.
    """
    if process.is_ending():
        raise RuntimeError("the interpreter is ending: no new connection is made")
    _attempts.start(work)


def _in_child() -> None:
    global _attempts
    _attempts = Attempts()


process.in_child(_in_child)
