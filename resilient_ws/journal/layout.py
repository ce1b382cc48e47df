"""
How a journal lies in its file: tables, versions, and the check sum of every row.

No file is opened here. Every row carries a CRC-32 over all of its content, because SQLite itself has none on its pages:
a flipped bit in a payload would go out as if the user had sent it.
"""

from __future__ import annotations

from typing import Any, Union
from zlib import crc32

from resilient_ws.frames import Payload
from resilient_ws.records import Void

APPLICATION_ID = 0x52575331
"""``RWS1``, in the header of the file: what another program's database does not have."""
FORMAT = 1
"""Written as ``user_version``; a file with a higher one is not touched."""
SEQ_BITS = 40
"""A message's key is ``lane << 40 | seq``: in order, and no second index is needed."""
BYTES, TEXT, VOID = 0, 1, 2

_COLUMNS = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "lane": "id INTEGER PRIMARY KEY, producer TEXT NOT NULL, stream TEXT NOT NULL, first INTEGER NOT NULL",
    "message": """
        id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, payload BLOB NOT NULL, at INTEGER NOT NULL,
        welcome INTEGER NOT NULL""",
    "position": """
        stream TEXT PRIMARY KEY, epoch TEXT NOT NULL, offset INTEGER NOT NULL, message_crc INTEGER, cursor TEXT""",
    "instance": "id INTEGER PRIMARY KEY, name TEXT NOT NULL",
    "welcome": "number INTEGER PRIMARY KEY, at INTEGER NOT NULL, incarnation TEXT NOT NULL",
}
TABLES = tuple(_COLUMNS)
"""In an order in which each can be understood from those before it."""
SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
    *(f"CREATE TABLE {table} ({columns}, crc INTEGER NOT NULL)" for table, columns in _COLUMNS.items()),
)

Row = tuple[Any, ...]


def sealed(*fields: Any) -> Row:
    """Return a small row with its check sum behind it."""
    return (*fields, crc32(repr(fields).encode()))


def is_whole(row: Row) -> bool:
    """Say whether a small row is what was written."""
    return bool(crc32(repr(tuple(row[:-1])).encode()) == row[-1])


def message_row(key: int, item: Union[Payload, Void], at: int, welcome: int) -> Row:
    """Return the row of a message; ``at`` in microseconds of wall time."""
    if isinstance(item, str):
        kind, data = TEXT, item.encode()
    elif isinstance(item, bytes):
        kind, data = BYTES, item
    else:
        kind, data = VOID, item.code.encode()
    return (key, kind, data, at, welcome, crc32(data, crc32(b"%d %d %d %d" % (key, kind, at, welcome))))


def message_of(row: Row) -> Payload | Void | None:
    """Return what the row of a message holds, None where it is damaged."""
    key, kind, data, at, welcome, crc = row
    try:
        if crc32(data, crc32(b"%d %d %d %d" % (key, kind, at, welcome))) != crc:
            return None
        return bytes(data) if kind == BYTES else data.decode() if kind == TEXT else Void(data.decode())
    except (TypeError, AttributeError, ValueError):
        return None
