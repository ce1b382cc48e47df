"""
Waiting for a change that another thread makes under a lock, safe from Ctrl-C.

``threading.Condition`` takes its lock again inside ``wait``. An interrupt there ends the wait without the lock, and the
``with`` around it then frees a lock that another thread holds. Here one enters under the lock, and waits without it.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any


class Bell:
    """Wakes threads that wait; :meth:`enter` and :meth:`ring` need the owner's lock, :meth:`wait` must not have it."""

    def __init__(self) -> None:
        self._waiting: list[Any] = []

    def enter(self) -> Any:
        """Return what :meth:`wait` takes: every ring from now on ends that wait."""
        place = threading.Lock()
        place.acquire()
        self._waiting.append(place)
        return place

    def wait(self, place: Any, timeout: float | None) -> None:
        """Wait until somebody rings or the time is over."""
        try:
            place.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))
        finally:
            with contextlib.suppress(ValueError):  # who rang has forgotten it already
                self._waiting.remove(place)

    def ring(self) -> None:
        """Wake everybody; an interrupt in it has the next one wake the rest."""
        for place in self._waiting[:]:
            with contextlib.suppress(RuntimeError):  # an interrupted ring woke it already
                place.release()
        self._waiting.clear()
