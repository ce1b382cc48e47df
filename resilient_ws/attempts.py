"""
Short daemon threads for work that blocks: dials, with the lookups that go before them, the writing of journals, and
questions for endpoints and access tokens.

Of each kind at most so many run at once in a process, the rest wait in line; a thread that is done takes the next in
line and ends when there is none. The kinds never wait for each other: a token is written while every dial hangs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from resilient_ws import process

AT_ONCE = 32
Kind = Literal["dial", "journal", "question"]

_log = logging.getLogger("resilient_ws.attempts")


class Attempts:
    """The threads of one kind and process. ``start`` never blocks."""

    def __init__(self, kind: Kind = "dial", at_once: int = AT_ONCE) -> None:
        self._name = f"resilient_ws-{kind}"
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
            threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True).start()
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


def _of_each_kind() -> dict[Kind, Attempts]:
    return {"dial": Attempts("dial"), "journal": Attempts("journal"), "question": Attempts("question")}


_attempts = _of_each_kind()


def start(work: Callable[[], None], kind: Kind = "dial") -> None:
    """
    Have ``work()`` done by the process's :class:`Attempts` of that kind.

    Raises:
        RuntimeError: The system has no thread for us, or the interpreter is ending.
    """
    if process.is_ending():
        raise RuntimeError("the interpreter is ending: no thread is started")
    _attempts[kind].start(work)


def _in_child() -> None:
    global _attempts
    _attempts = _of_each_kind()


process.in_child(_in_child)
