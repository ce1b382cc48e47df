"""
How a journal lies in its file: two tables, and a check sum over every row; no file is opened here.

``messages`` holds what has no ack; the key is ``lane << 40 | seq``, so that a stream's messages lie in order and no
second index is needed. The content is five numbers (kind, milliseconds of wall time, welcome, turn, synced), each with
a blank behind it, then the payload: one column is much faster than six. Key ``lane << 40`` names the lane's producer
and stream. ``facts`` holds everything else, a JSON list each:

=========  ==============================================================================================
kind       content
=========  ==============================================================================================
0 journal  synced, sync mode, number of the last welcome, then how many rows of each kind below there are
1 lane     producer, stream, turn of its creation, first seq, the one after the last (at least)
2 position stream, epoch, offset, CRC-32 of the message or null, cursor or null
3 identity session, token, generation
4 instance id of a Client that had this journal open
5 welcome  number, wall time, incarnation
=========  ==============================================================================================

Every transaction has a *turn*, one more than the one before; *synced* is the last turn that was known to be safe
against a power loss when the row was written. So a row that outlived what went before it tells what is missing.

SQLite has no check sum on its pages: a flipped bit in a payload would go out as if the user had sent it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, Union
from zlib import crc32

from resilient_ws.frames import Payload
from resilient_ws.records import Void

APPLICATION_ID = 0x52575331
"""``RWS1``, in the header of the file: what another program's database does not have."""
FORMAT = 1
"""Written as ``user_version``; a file with a higher one is not touched."""
PAGE = 4096
SEQ_BITS = 40
SEQ_MASK = (1 << SEQ_BITS) - 1
MOST_IDS = 1 << 22
"""Ids of facts, and so of lanes, are below this; they are used again when all were used."""

TEXT, BYTES, VOID, NAME = range(4)
JOURNAL, LANE, POSITION, IDENTITY, INSTANCE, WELCOME = range(6)
KINDS = ("journal", "lane", "position", "identity", "instance", "welcome")
JOURNAL_ID = 1

SCHEMA = {
    "facts": (
        "CREATE TABLE facts (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, turn INTEGER NOT NULL, "
        "content BLOB NOT NULL, crc INTEGER NOT NULL)"
    ),
    "messages": "CREATE TABLE messages (id INTEGER PRIMARY KEY, content BLOB NOT NULL, crc INTEGER NOT NULL)",
}
PUT_FACT = "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)"
PUT_MESSAGE = "INSERT OR REPLACE INTO messages VALUES (?, ?, ?)"

Row = tuple[Any, ...]
Head = tuple[int, int, int, int, int]
"""(kind, milliseconds of wall time, welcome, turn, synced) of a message."""

_MAGIC = b"SQLite format 3\x00"
_pack_fact = struct.Struct(">qqq").pack
_encoder = json.JSONEncoder(separators=(",", ":"))


# -- rows -------------------------------------------------------------------------------------------------------------


def encode(values: tuple[Any, ...]) -> bytes:
    """Return the content of a fact."""
    return _encoder.encode(values).encode()


def fact_row(key: int, kind: int, turn: int, values: tuple[Any, ...]) -> Row:
    """Return a row of ``facts``."""
    content = encode(values)
    return (key, kind, turn, content, crc32(content, crc32(_pack_fact(key, kind, turn))))


def read_fact(row: Row) -> tuple[int, int, int, list[Any]] | None:
    """Return (id, kind, turn, values) of a row of ``facts``, None where it is not what was written."""
    try:
        key, kind, turn, content, crc = row
        if crc32(content, crc32(_pack_fact(key, kind, turn))) != crc:
            return None
        return key, kind, turn, json.loads(content)
    except (TypeError, ValueError, struct.error):
        return None


def head_of(kind: int, at: int, welcome: int, turn: int, synced: int) -> bytes:
    """Return what the messages of one record have in front of them."""
    return b"%d %d %d %d %d " % (kind, at, welcome, turn, synced)


def message_rows(first: int, contents: list[bytes]) -> list[Row]:
    """Return rows of ``messages`` with the keys from ``first`` on; the contents have their head."""
    return [
        (key, content, crc32(content, (key ^ key >> 32) & 0xFFFFFFFF)) for key, content in enumerate(contents, first)
    ]


def read_message(row: Row) -> tuple[int, tuple[bytes, ...], bytes] | None:
    """Return (key, head, payload) of a row of ``messages``, None where it is not what was written."""
    try:
        key, content, crc = row
        if crc32(content, (key ^ key >> 32) & 0xFFFFFFFF) != crc:
            return None
        *head, payload = content.split(b" ", 5)
        return key, tuple(head), payload
    except (TypeError, ValueError, AttributeError):
        return None


def read_head(head: Sequence[bytes]) -> Head:
    """Return the numbers in front of a message."""
    kind, at, welcome, turn, synced = map(int, head)
    return kind, at, welcome, turn, synced


def encoded(item: Payload | Void) -> tuple[int, bytes]:
    """Return (kind, content) of a message."""
    if isinstance(item, str):
        return TEXT, item.encode()
    return (BYTES, item) if isinstance(item, bytes) else (VOID, item.code.encode())


def decoded(kind: int, content: bytes) -> Union[Payload, Void]:
    """Return the message of a kind and a content."""
    return content.decode() if kind == TEXT else content if kind == BYTES else Void(content.decode())


# -- the header -------------------------------------------------------------------------------------------------------


def foreign(head: bytes) -> str | None:
    """Say why a file that begins so is not ours to open, None where it is."""
    if not (head.startswith(_MAGIC) or (len(head) < len(_MAGIC) and _MAGIC.startswith(head))):
        return "it is no journal (not an SQLite database): name another file"
    if len(head) < 100:
        return None
    version, application = struct.unpack(">I4xI", head[60:72])
    if application != APPLICATION_ID:
        return "it is another program's SQLite database: name another file"
    if version > FORMAT:
        return (
            f"it has format {version} and this version knows formats up to {FORMAT}: it was written by a newer "
            "resilient_ws, use that one"
        )
    return None


def damaged_header(head: bytes) -> str | None:
    """Say what is wrong with the header of a database of ours; nothing of it ever changes but what SQLite counts."""
    if len(head) < 100:
        return "the file is cut off in its header"
    constant = (head[16:24], head[44:48], head[56:60], head[60:64], head[64:68], head[72:92])
    expected = (
        PAGE.to_bytes(2, "big") + b"\x02\x02\x00\x40\x20\x20",
        b"\x00\x00\x00\x04",
        b"\x00\x00\x00\x01",
        FORMAT.to_bytes(4, "big"),
        b"\x00\x00\x00\x01",
        bytes(20),
    )
    return None if constant == expected else "the header of the file is damaged"
