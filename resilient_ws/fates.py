"""
Why messages of one lane failed, kept as runs: neighbours that failed alike cost as much as one.

A device that drops or is refused millions of messages must not grow by each of them.
"""

from __future__ import annotations

from bisect import bisect_right

import attrs

from resilient_ws.exceptions import Rejected, Undelivered


@attrs.frozen
class Fate:
    """A code and a hint; ``is_indefinite``: nobody knows whether the message arrived, and the hint says why."""

    code: str
    hint: str = ""
    is_indefinite: bool = False

    def error(self, stream: str, seq: int) -> Exception:
        """Return what the message's receipt raises."""
        if self.is_indefinite:
            return Undelivered({stream: (seq, seq)}, self.hint)
        return Rejected(stream, seq, self.code, self.hint)


class Fates:
    """The fates of one lane's failed messages, by seq."""

    __slots__ = ("_firsts", "_runs")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._runs: list[tuple[int, Fate]] = []

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, seq: int) -> bool:
        return self.get(seq) is not None

    def get(self, seq: int) -> Fate | None:
        """Return why a message failed, None where it did not."""
        place = bisect_right(self._firsts, seq) - 1
        if place < 0 or self._runs[place][0] < seq:
            return None
        return self._runs[place][1]

    def add(self, seq: int, fate: Fate) -> bool:
        """Remember a fate; the first one of a message counts. Returns whether it is news."""
        if seq in self:
            return False
        place = bisect_right(self._firsts, seq)
        joins_left = place > 0 and self._runs[place - 1] == (seq - 1, fate)
        joins_right = place < len(self._runs) and self._firsts[place] == seq + 1 and self._runs[place][1] == fate
        if joins_left and joins_right:
            self._runs[place - 1] = self._runs.pop(place)
            del self._firsts[place]
        elif joins_left:
            self._runs[place - 1] = (seq, fate)
        elif joins_right:
            self._firsts[place] = seq
        else:
            self._firsts.insert(place, seq)
            self._runs.insert(place, (seq, fate))
        return True

    @property
    def runs(self) -> int:
        """How many runs are kept."""
        return len(self._firsts)
