"""
The one thread per process that runs the user's callbacks: in order, and never under a lock of ours.

What the callbacks are for is not known here. The line is bounded; what finds no room is dropped, and the caller counts
it. What was promised, a receipt's callback, is bounded elsewhere and always finds room.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from resilient_ws import process

LIMIT = 10_000

_log = logging.getLogger("resilient_ws.dispatcher")


class Dispatcher:
    """A line of calls and the thread that makes them; the thread starts with the first call."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def post(self, callback: Callable[..., object], *args: Any) -> bool:
        """Put a call into the line; False where there was no room, or no thread."""
        with self._changed:
            if len(self._calls) >= self._limit or process.is_ending() or not self._start():
                return False
            self._calls.append((callback, args))
            self._changed.notify()
            return True

    def promise(self, callback: Callable[..., object], *args: Any) -> None:
        """Put a call into the line, however long that is; without a thread it waits for the next call's."""
        with self._changed:
            self._calls.append((callback, args))
            self._changed.notify()
            if not process.is_ending():
                self._start()

    def _start(self) -> bool:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="resilient_ws-dispatcher", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
        return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._calls:
                    self._changed.wait()
                callback, args = self._calls.popleft()
            try:
                callback(*args)
            except BaseException:  # sys.exit() too: nobody else would make the next calls
                name = getattr(callback, "__qualname__", type(callback).__name__)
                _log.exception("resilient_ws.callback_failed callback=%s", name)
            del callback, args


_dispatcher = Dispatcher()


def post(callback: Callable[..., object], *args: Any) -> bool:
    """Have the process's :class:`Dispatcher` call ``callback(*args)``; False where there was no room."""
    return _dispatcher.post(callback, *args)


def promise(callback: Callable[..., object], *args: Any) -> None:
    """Have the process's :class:`Dispatcher` call ``callback(*args)``, however much waits before it."""
    _dispatcher.promise(callback, *args)


def _in_child() -> None:
    global _dispatcher
    _dispatcher = Dispatcher()


process.in_child(_in_child)
