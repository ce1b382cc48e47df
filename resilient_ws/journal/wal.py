"""
A write-ahead log as SQLite leaves it: how much of it is valid, and whether committed frames stand behind that.

Pure: bytes in, numbers out. SQLite reads a log up to the first frame whose check sum is wrong and says nothing of what
stands behind it. After a crash that is right: a torn last transaction has no commit frame. Where there is one,
committed transactions are lost: by a damaged disk, or by a power loss before the log was synced. The format is that of
https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

from __future__ import annotations

import struct
import sys

import attrs

HEADER, FRAME = 32, 24
_MAGIC = 0x377F0682


@attrs.frozen
class Scan:
    """
    What is in a log.

    Attributes:
        frames: Frames that belong to this log, valid or not.
        committed: Frames up to the last commit that SQLite will find.
        lost_commits: Commit frames behind the first invalid frame.
    """

    frames: int
    committed: int
    lost_commits: int


def scan(data: bytes) -> Scan:
    """Read a log; one that is too short for its header, or has another header, holds nothing."""
    if len(data) < HEADER:
        return Scan(0, 0, 0)
    magic, _, size, _, salt1, salt2, check1, check2 = struct.unpack(">8I", data[:HEADER])
    order = ">" if magic & 1 else "<"
    is_log = magic & ~1 == _MAGIC and size >= 512 and size & (size - 1) == 0
    if not is_log or _checksum(data[:24], order, (0, 0)) != (check1, check2):
        return _without_header(data)
    sums, is_valid = (check1, check2), True
    frames = committed = lost = 0
    for start in range(HEADER, len(data) - FRAME - size + 1, FRAME + size):
        head = struct.unpack(">6I", data[start : start + FRAME])
        if head[2:4] != (salt1, salt2):
            is_valid = False  # of an older log, or damaged: what follows decides
            continue
        frames += 1
        if is_valid:
            sums = _checksum(data[start : start + 8], order, sums)
            sums = _checksum(data[start + FRAME : start + FRAME + size], order, sums)
            is_valid = sums == head[4:6]
        if head[1] and is_valid:
            committed = frames
        elif head[1]:
            lost += 1
    return Scan(frames, committed, lost)


def _without_header(data: bytes) -> Scan:
    """A log whose header is damaged is no log to SQLite; frames in it that agree on their salts are lost."""
    size = 4096
    heads = [
        struct.unpack(">6I", data[start : start + FRAME])
        for start in range(HEADER, len(data) - FRAME - size + 1, FRAME + size)
    ]
    salts = heads[0][2:4] if heads else None
    mine = [head for head in heads if head[2:4] == salts]
    return Scan(len(mine), 0, sum(1 for head in mine if head[1]))


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    words = memoryview(data).cast("I") if (order == "<") == (sys.byteorder == "little") else _words(data, order)
    first, second = sums
    for i in range(0, len(words), 2):
        first = (first + words[i] + second) & 0xFFFFFFFF
        second = (second + words[i + 1] + first) & 0xFFFFFFFF
    return first, second


def _words(data: bytes, order: str) -> tuple[int, ...]:
    return struct.unpack(f"{order}{len(data) // 4}I", data)
