"""
A write-ahead log as SQLite leaves it: how much of it is valid, what stands behind that, and why it ends there.

Pure: bytes in, a :class:`Scan` out. SQLite reads a log up to the first frame whose check sum is wrong, and says nothing
of what stands behind it. After a crash that is right: the last transactions were torn. But one flipped bit looks the
same, and takes with it what was safe. The check sum is linear, so that damage within one word of 32 bits can be told
from a torn page: for one of the some thousand words there is a value with which the sums are what is written (for a
torn page by chance once in four million). Where only one word can be it, it is put right. The format is that of
https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import attrs

from resilient_ws.journal.layout import PAGE

HEADER, FRAME = 32, 24 + PAGE
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF

Sums = tuple[int, int]
Order = Literal["little", "big"]


@attrs.define
class Scan:
    """
    What is in a log.

    Attributes:
        data: The log, with what is damaged put right where that can be.
        pages: {page number: where in ``data`` its newest committed content is}.
        size: Pages that the database has after the last commit, 0 where there is none.
        frames: Frames up to the last commit.
        behind: Where in ``data`` the pages of all later frames are, whatever they are.
        has_commit_behind: One of them ends a transaction of this log.
        damage: What is damaged up to the last commit, a phrase each.
        sound: Frames up to the last commit before the first damage.
        is_put_right: All damage was, in ``data``.
    """

    data: bytearray
    pages: dict[int, int] = attrs.field(factory=dict)
    size: int = 0
    frames: int = 0
    behind: list[int] = attrs.field(factory=list)
    has_commit_behind: bool = False
    damage: list[str] = attrs.field(factory=list)
    sound: int = 0
    is_put_right: bool = True


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
    header, stored = bytes(data[:24]), _stored(data, 24)
    declared: Order = "big" if header[3] & 1 else "little"
    if _sum(header, declared, (0, 0)) == stored:
        magic, _, size = struct.unpack_from(">3I", header)
        is_ours = magic & ~1 == _MAGIC and size == PAGE
        return _Reader(found, declared, header[16:], stored) if is_ours else None
    return _open_damaged(found, header, stored)


def _open_damaged(found: Scan, header: bytes, stored: Sums) -> _Reader | None:
    """Where one word of the header is damaged the first frame tells which: its salts, and what its sums go on from."""
    first = bytes(found.data[HEADER : HEADER + FRAME])
    orders: tuple[Order, Order] = ("little", "big")
    for order in orders if len(first) == FRAME else ():
        made = _sum(header, order, (0, 0))
        candidates, may_be_sums = _explain(6, _off(stored, made))
        for sums in (stored, made) if candidates or may_be_sums else ():
            if _frame_sums(first, 0, order, sums) == _stored(first, 16):
                found.damage.append("its header")
                return _Reader(found, order, first[8:16], sums)
    return None


@attrs.define
class _Reader:
    """Goes through the frames; ``sums`` are those of the last valid one."""

    found: Scan
    order: Order
    salts: bytes
    sums: Sums

    def read(self, starts: Sequence[int]) -> None:
        found, data = self.found, self.found.data
        header_damage, found.damage = found.damage, []
        pending: dict[int, int] = {}
        damage: list[str] = []
        for number, start in enumerate(starts, 1):
            fault = self._take(start)
            if fault == "torn":
                break
            if fault:
                damage.append(f"frame {number} ({fault})")
            page, commit = struct.unpack_from(">2I", data, start)
            pending[page] = start + 24
            if commit:
                found.pages.update(pending)
                found.size, found.frames = commit, number
                found.damage += damage
                found.sound = found.sound if found.damage or header_damage else number
                pending, damage = {}, []
        if found.frames and header_damage:
            found.damage[:0] = header_damage
            found.is_put_right = False

    def _take(self, start: int) -> str:
        """Check one frame; returns what is damaged in it, or ``torn``."""
        data = self.found.data
        made, stored = _frame_sums(data, start, self.order, self.sums), _stored(data, start + 16)
        is_salted = data[start + 8 : start + 16] == self.salts
        if made == stored:
            self.sums = stored
            self.found.is_put_right &= is_salted
            return "" if is_salted else "its salt"
        if not is_salted:
            return "torn"  # of an older log
        candidates, may_be_sums = _explain((8 + PAGE) // 4, _off(stored, made))
        if not candidates and not may_be_sums:
            return "torn"
        is_data = bool(candidates) and (not may_be_sums or self._goes_on(start + FRAME, stored))
        self.sums = stored if is_data else made
        if is_data and len(candidates) == 1:
            self._mend(start, *candidates[0])
        else:
            self.found.is_put_right = False
        return "one word"

    def _goes_on(self, start: int, sums: Sums) -> bool:
        """Say whether the next frame is valid behind these sums."""
        data = self.found.data
        return len(data) >= start + FRAME and _frame_sums(data, start, self.order, sums) == _stored(data, start + 16)

    def _mend(self, start: int, index: int, delta: int) -> None:
        place = start + 4 * index + (16 if index >= 2 else 0)
        form = ("<" if self.order == "little" else ">") + "I"
        (word,) = struct.unpack_from(form, self.found.data, place)
        struct.pack_into(form, self.found.data, place, (word + delta) & _MASK)


def _frame_sums(data: bytes | bytearray, start: int, order: Order, sums: Sums) -> Sums:
    return _sum(data[start + 24 : start + FRAME], order, _sum(data[start : start + 8], order, sums))


def _off(stored: Sums, made: Sums) -> Sums:
    return (stored[0] - made[0]) & _MASK, (stored[1] - made[1]) & _MASK


def _stored(data: bytes | bytearray, at: int) -> Sums:
    first, second = struct.unpack_from(">2I", data, at)
    return first, second


def _words(data: bytes | bytearray, order: Order) -> array[int]:
    words = array("I", bytes(data))
    if order != sys.byteorder:
        words.byteswap()
    return words


def _sum(data: bytes | bytearray, order: Order, sums: Sums) -> Sums:
    first, second = sums
    pairs = iter(_words(data, order))
    for one, other in zip(pairs, pairs):  # noqa: B905 - one iterator, taken twice at a time
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second


# -- damage within one word -------------------------------------------------------------------------------------------


def _explain(count: int, off: Sums) -> tuple[list[tuple[int, int]], bool]:
    """
    Find what explains that sums are off by so much.

    Returns the words, of ``count``, and what must be added to each, of which any one would do (a change of the highest
    bits has the same effect in many places); and whether one of the two sums themselves can be what is damaged.
    """
    found = []
    for index, (first, second, inverse) in enumerate(_weights(count)):
        if first & 1:
            delta = off[0] * inverse & _MASK
            fits = delta * second & _MASK == off[1]
        else:
            delta = off[1] * inverse & _MASK
            fits = delta * first & _MASK == off[0]
        if fits:
            found.append((index, delta))
    return found, 0 in off


@lru_cache(maxsize=4)
def _weights(count: int) -> list[tuple[int, int, int]]:
    """How often each word is in the two sums (neighbours in Fibonacci's row: one of them is odd), and its inverse."""
    weights, one, other = [], (1, 1), (0, 1)
    for _ in range(count // 2):
        weights += [other, one]
        one = ((one[0] + one[1]) & _MASK, (one[0] + 2 * one[1]) & _MASK)
        other = ((other[0] + other[1]) & _MASK, (other[0] + 2 * other[1]) & _MASK)
    return [(a, b, pow(a if a & 1 else b, -1, 1 << 32)) for a, b in reversed(weights)]
