"""
A write-ahead log as SQLite leaves it: how much of it is valid, what stands behind that, and why it ends there.

Pure: bytes in, a :class:`Scan` out. SQLite reads a log up to the first frame whose check sum is wrong, and says nothing
of what stands behind it. After a crash that is right: the last transactions were torn. But one flipped bit looks the
same, and takes with it what was safe. The check sum is linear, so that damage within one word of 32 bits can be told
from a torn page, and put right: for one of the some thousand words there is exactly one value with which the sums are
what is written (for a torn page by chance once in four million). The format is that of
https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache

import attrs

from resilient_ws.journal.layout import PAGE

HEADER, FRAME = 32, 24 + PAGE
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF

Sums = tuple[int, int]


@attrs.define
class Scan:
    """
    What is in a log.

    Attributes:
        data: The log, with what was found damaged put right.
        pages: {page number: where in ``data`` its newest committed content is}.
        size: Pages that the database has after the last commit, 0 where there is none.
        frames: Frames up to the last commit.
        behind: Where in ``data`` the pages of all later frames are, whatever they are.
        has_commit_behind: One of them ends a transaction of this log.
        damage: What was damaged up to the last commit, a phrase each.
    """

    data: bytearray
    pages: dict[int, int] = attrs.field(factory=dict)
    size: int = 0
    frames: int = 0
    behind: list[int] = attrs.field(factory=list)
    has_commit_behind: bool = False
    damage: list[str] = attrs.field(factory=list)


def scan(log: bytes) -> Scan:
    """Read a log; what is no log of 4096-byte pages has nothing that is valid."""
    found = Scan(bytearray(log))
    starts = range(HEADER, len(log) - FRAME + 1, FRAME)
    reader = _open(found)
    if reader is not None:
        reader.read(starts)
    later = starts[found.frames :]
    found.behind = [start + 24 for start in later]
    if reader is not None:
        found.has_commit_behind = any(
            log[start + 8 : start + 16] == reader.salts and any(log[start + 4 : start + 8]) for start in later
        )
    return found


def _open(found: Scan) -> _Reader | None:
    data = found.data
    if len(data) < HEADER:
        return None
    declared = "big" if data[3] & 1 else "little"
    if _sum(data[:24], declared, (0, 0)) != _stored(data, 24):
        orders = (declared, "big" if declared == "little" else "little")
        if not any(_mend(data, [(0, 24)], 24, order, (0, 0)) for order in orders):
            return None
        found.damage.append("its header")
    magic, _, size = struct.unpack_from(">3I", data)
    if magic & ~1 != _MAGIC or size != PAGE:
        return None
    return _Reader(found, "big" if magic & 1 else "little", bytes(data[16:24]), _stored(data, 24))


@attrs.define
class _Reader:
    """Goes through the frames; ``sums`` are those of the last valid one."""

    found: Scan
    order: str
    salts: bytes
    sums: Sums

    def read(self, starts: Sequence[int]) -> None:
        data, pending, damage = self.found.data, {}, []
        header_damage = self.found.damage
        self.found.damage = []
        for number, start in enumerate(starts, 1):
            fault = self._take(start)
            if fault == "torn":
                break
            if fault:
                damage.append(f"frame {number} ({fault})")
            page, commit = struct.unpack_from(">2I", data, start)
            pending[page] = start + 24
            if commit:
                self.found.pages.update(pending)
                self.found.size, self.found.frames = commit, number
                self.found.damage += damage
                pending, damage = {}, []
        if self.found.frames:
            self.found.damage[:0] = header_damage

    def _take(self, start: int) -> str:
        """Check one frame; returns what was put right in it, or ``torn``."""
        data = self.found.data
        sums = _sum(data[start + 24 : start + FRAME], self.order, _sum(data[start : start + 8], self.order, self.sums))
        stored, fault = _stored(data, start + 16), ""
        if data[start + 8 : start + 16] != self.salts:
            if sums != stored:
                return "torn"  # of an older log
            data[start + 8 : start + 16] = self.salts
            fault = "its salt"
        elif sums != stored:
            if not _mend(data, [(start, start + 8), (start + 24, start + FRAME)], start + 16, self.order, self.sums):
                return "torn"
            fault = "one word"
        self.sums = _stored(data, start + 16)
        return fault


def _stored(data: bytearray, at: int) -> Sums:
    first, second = struct.unpack_from(">2I", data, at)
    return first, second


def _words(data: bytes | bytearray, order: str) -> array[int]:
    words = array("I", bytes(data))
    if order != sys.byteorder:
        words.byteswap()
    return words


def _sum(data: bytes | bytearray, order: str, sums: Sums) -> Sums:
    first, second = sums
    pairs = iter(_words(data, order))
    for one, other in zip(pairs, pairs):  # noqa: B905 - one iterator, taken twice at a time
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second


# -- damage within one word -------------------------------------------------------------------------------------------


def _mend(data: bytearray, parts: list[tuple[int, int]], at: int, order: str, sums: Sums) -> bool:
    """Put right the one word, among those of ``parts`` and of the sums at ``at``, that explains a wrong check sum."""
    covered = b"".join(bytes(data[start:end]) for start, end in parts)
    made, stored = _sum(covered, order, sums), _stored(data, at)
    off = ((stored[0] - made[0]) & _MASK, (stored[1] - made[1]) & _MASK)
    if 0 in off:
        struct.pack_into(">2I", data, at, *made)
        return True
    found = _explain(len(covered) // 4, off)
    if found is None:
        return False
    index, delta = found
    places = [place for start, end in parts for place in range(start, end, 4)]
    form = ("<" if order == "little" else ">") + "I"
    (word,) = struct.unpack_from(form, data, places[index])
    struct.pack_into(form, data, places[index], (word + delta) & _MASK)
    return True


def _explain(count: int, off: Sums) -> tuple[int, int] | None:
    """Find the word, of ``count``, and what must be added to it so that the sums change by ``off``."""
    for index, (first, second, inverse) in enumerate(_weights(count)):
        if first & 1:
            delta = off[0] * inverse & _MASK
            fits = delta * second & _MASK == off[1]
        else:
            delta = off[1] * inverse & _MASK
            fits = delta * first & _MASK == off[0]
        if fits:
            return index, delta
    return None


@lru_cache(maxsize=4)
def _weights(count: int) -> list[tuple[int, int, int]]:
    """How often each word is in the two sums (neighbours in Fibonacci's row: one of them is odd), and its inverse."""
    weights, one, other = [], (1, 1), (0, 1)
    for _ in range(count // 2):
        weights += [other, one]
        one = ((one[0] + one[1]) & _MASK, (one[0] + 2 * one[1]) & _MASK)
        other = ((other[0] + other[1]) & _MASK, (other[0] + 2 * other[1]) & _MASK)
    return [(a, b, pow(a if a & 1 else b, -1, 1 << 32)) for a, b in reversed(weights)]
