"""
Rows straight out of the pages of a database whose tree may be broken; pure.

SQLite reaches a row through every page above it, and stops at the first that is damaged. Here each leaf is read by
itself, and what is in it judged by the check sum of its row. The format is that of
https://www.sqlite.org/fileformat2.html#b_tree_pages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from resilient_ws.journal.layout import PAGE, Row

FACT_COLUMNS, MESSAGE_COLUMNS = 5, 3
_LEAF = 13
_MOST_LOCAL, _LEAST_LOCAL = PAGE - 35, (PAGE - 12) * 32 // 255 - 23
_FIXED = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


class Broken(Exception):
    """A cell that is no row of ours."""


def rows(image: bytes | bytearray) -> Iterator[Row]:
    """Yield what looks like a row in any leaf of an image that is not on the list of free pages."""
    free = _free_pages(image)
    for number in range(2, len(image) // PAGE + 1):
        if number not in free:
            yield from leaf_rows(image[(number - 1) * PAGE : number * PAGE], image)


def leaf_rows(page: bytes | bytearray, image: bytes | bytearray = b"") -> Iterator[Row]:
    """Yield what looks like a row in one page; what is too long for it goes on in pages of ``image``."""
    if len(page) != PAGE or page[0] != _LEAF:
        return
    count = min(struct.unpack_from(">H", page, 3)[0], (PAGE - 8) // 2)
    for place in struct.unpack_from(f">{count}H", page, 8):
        try:
            yield _row(page, place, image)
        except (Broken, IndexError, struct.error):
            continue


def split(found: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Sort rows into those of ``facts`` and those of ``messages``."""
    facts: list[Row] = []
    messages: list[Row] = []
    for row in found:
        (facts if len(row) == FACT_COLUMNS else messages).append(row)
    return facts, messages


def _free_pages(image: bytes | bytearray) -> set[int]:
    """Follow the list of free pages as far as it is sound: what is in them was deleted."""
    free: set[int] = set()
    most = len(image) // PAGE
    (trunk,) = struct.unpack_from(">I", image, 32) if len(image) >= PAGE else (0,)
    while 1 < trunk <= most and trunk not in free:
        free.add(trunk)
        following, count = struct.unpack_from(">2I", image, (trunk - 1) * PAGE)
        if count <= PAGE // 4 - 2:
            free.update(struct.unpack_from(f">{count}I", image, (trunk - 1) * PAGE + 8))
        trunk = following
    return free


def _row(page: bytes | bytearray, place: int, image: bytes | bytearray) -> Row:
    size, place = _varint(page, place)
    key, place = _varint(page, place)
    record = _record(page, place, size, image)
    header, at = _varint(record, 0)
    values: list[Any] = []
    body = header
    while at < header:
        serial, at = _varint(record, at)
        width = _FIXED[serial] if serial < 10 else (serial - 12) // 2
        if serial in (10, 11) or body + width > len(record):
            raise Broken
        values.append(_value(serial, record[body : body + width]))
        body += width
    if len(values) not in (FACT_COLUMNS, MESSAGE_COLUMNS) or values[0] is not None:
        raise Broken
    return (key, *values[1:])


def _record(page: bytes | bytearray, place: int, size: int, image: bytes | bytearray) -> bytes:
    if size <= _MOST_LOCAL:
        return bytes(page[place : place + size])
    if size > len(image) + PAGE:
        raise Broken
    local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % (PAGE - 4)
    local = local if local <= _MOST_LOCAL else _LEAST_LOCAL
    found = bytearray(page[place : place + local])
    (following,) = struct.unpack_from(">I", page, place + local)
    while len(found) < size:
        start = (following - 1) * PAGE
        if not 0 < start <= len(image) - PAGE:
            raise Broken
        (following,) = struct.unpack_from(">I", image, start)
        found += image[start + 4 : start + min(PAGE, 4 + size - len(found))]
    return bytes(found)


def _value(serial: int, data: bytes) -> Any:
    if serial == 0:
        return None
    if serial in (8, 9):
        return serial - 8
    return bytes(data) if serial >= 12 else int.from_bytes(data, "big", signed=True)


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = 0
    for index in range(at, at + 8):
        value = value << 7 | data[index] & 0x7F
        if data[index] < 0x80:
            return value, index + 1
    return value << 8 | data[at + 8], at + 9
