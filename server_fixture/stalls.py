"""
Times at which a process stood still: noted by itself when it goes on, and read back from the log of a node.

Here live the look at a loop or thread that should wake and does so late, and the line that says so. Whether a stall
explains that somebody was given up is for ``watching.py`` to say.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
import typing
from collections.abc import Callable, Iterable

import attrs

LOOK = 0.05
"""Seconds for which a watched loop or thread sleeps."""
LONG = 0.5
"""Seconds that it has to be late for a note."""
_NOTE = re.compile(r" loop_stalled seconds=(\d+\.\d+) until=(\d+\.\d+)$")

_log = logging.getLogger("server_fixture.node")


@attrs.frozen
class Stall:
    """
    One time at which somebody stood still.

    Attributes:
        who: The node's name, or empty for this process.
        ended_at: When he went on, in the monotonic seconds of this machine, which all its processes share.
        seconds: For how long.
    """

    who: str
    ended_at: float
    seconds: float

    @property
    def began_at(self) -> float:
        return self.ended_at - self.seconds


async def note_stalls(clock: Callable[[], float]) -> None:
    """Write a line to the node's log whenever its loop stood still for :data:`LONG` seconds; never returns."""
    while True:
        planned = clock() + LOOK
        await asyncio.sleep(LOOK)
        now = clock()
        if now - planned >= LONG:
            _log.warning("loop_stalled seconds=%.3f until=%.3f", now - planned, now)


def read_stalls(who: str, lines: Iterable[str]) -> list[Stall]:
    """
    Find the stalls in a node's log.

    Args:
        who: The node's name.
        lines: Its log; what is no note of a stall is passed over.
    """
    notes = filter(None, (_NOTE.search(line.rstrip()) for line in lines))
    return [Stall(who, float(note[2]), float(note[1])) for note in notes]


@typing.final
class Pulse:
    """
    Notes how long this process stood still: a thread that should wake every :data:`LOOK` seconds; a context manager.

    Attributes:
        stalls: What was noted so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stalls: list[Stall] = []
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        planned = self._clock() + LOOK
        while not self._stopping.wait(LOOK):
            now = self._clock()
            if now - planned >= LONG:
                self.stalls.append(Stall("", now, now - planned))
            planned = now + LOOK
