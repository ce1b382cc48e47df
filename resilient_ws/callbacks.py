"""
Callbacks that wait for the fate of sent messages.

They are found by the order of seqs, so an ack of thousands costs what it settles and no more. Nothing is called here.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Union

from resilient_ws.events import Receipt

Callback = Callable[[Receipt], object]
Outcome = Callable[[str, str, int], Union[bool, Exception]]


class Callbacks:
    """What waits, per producer and stream; every method needs the owner's lock."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[tuple[int, int, Receipt, Callback]]] = {}
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, receipt: Receipt, callback: Callback) -> None:
        """Wait for the fate of a message."""
        line = self._waiting.setdefault((receipt.producer, receipt.stream), [])
        heapq.heappush(line, (receipt.seq, next(self._count), receipt, callback))

    def done(self, outcome: Outcome) -> list[tuple[Callback, Receipt]]:
        """Return, in order of seqs, what need not wait any more, and forget it."""
        found: list[tuple[Callback, Receipt]] = []
        for key, line in list(self._waiting.items()):
            while line and outcome(*key, line[0][0]) is not False:
                _, _, receipt, callback = heapq.heappop(line)
                found.append((callback, receipt))
            if not line:
                del self._waiting[key]
        return found
