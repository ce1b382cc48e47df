"""
Reads a journal whole, checks it, and says what is kept and what is missing. Nothing here can change a file.

The file and its write-ahead log are put together in memory and looked at there: SQLite never opens a file that was not
checked before, since even closing one moves the log into it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import attrs

from resilient_ws.exceptions import JournalFull, JournalRefused
from resilient_ws.journal import layout, pages, wal
from resilient_ws.journal.assembling import assemble
from resilient_ws.journal.contents import Contents, Found
from resilient_ws.journal.layout import PAGE, SCHEMA, Row

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_MOST_IN_MEMORY = 1 << 30  # what SQLite takes as a database in memory


@attrs.frozen
class Image:
    """
    A database as it is with its log.

    Attributes:
        missing: What is wrong with the file and the log as such.
    """

    data: bytearray
    log: wal.Scan
    missing: list[str]


def read(path: str) -> Found:
    """
    Read and check a journal; the caller holds the lock.

    Raises:
        JournalRefused: It cannot be read, or is none.
        JournalFull: There is no room to look at it (Python 3.10 only, which needs a copy).
    """
    file = read_bytes(path)
    why = layout.foreign(file[:100]) if file else None
    if why is not None:
        raise JournalRefused(f"journal {path}: {why}")
    log = read_bytes(path + "-wal")
    image = put_together(file, log)
    missing = list(image.missing)
    try:
        facts, messages = _rows(image, missing)
        found = assemble(facts, messages)
    except (sqlite3.Error, UnicodeError) as error:  # it quotes the file in its texts, which then may be no text
        missing.append(f"SQLite says: {'malformed schema' if isinstance(error, UnicodeError) else error}")
        found = Found(Contents(), [], [])
    _judge_damage(found, file, log, image, missing)
    if missing or found.missing:
        raw = assemble(*pages.split(pages.rows(image.data)), is_raw=True)
        said = [*missing, *raw.missing, *(what for what in found.missing if what not in raw.missing)]
        found = Found(raw.contents, raw.backlogs, said)
    _judge_tail(found, image.log)
    return found


def read_bytes(path: str) -> bytes:
    """Return what is in a file, nothing where there is none."""
    try:
        number = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise JournalRefused(f"journal {path}: cannot be read ({error.strerror})") from error
    with open(number, "rb") as file:
        return file.read()


def put_together(file: bytes, log: bytes) -> Image:
    """Make the image of a database out of its file and its log."""
    found = wal.scan(log)
    missing: list[str] = []
    data = bytearray(file)
    size = found.size or _pages_of(data)
    there = len(file) // PAGE
    del data[size * PAGE :]
    data += bytes(size * PAGE - len(data))
    for page, start in found.pages.items():
        if page <= size:
            data[(page - 1) * PAGE : page * PAGE] = found.data[start : start + PAGE]
    gone = [page for page in range(there + 1, size + 1) if page not in found.pages]
    if gone:
        missing.append(f"the file is cut off: {len(gone)} of {size} pages")
    what = layout.damaged_header(bytes(data[:100]))
    if what is not None:
        missing.append(what)
    return Image(data, found, missing)


def _pages_of(file: bytearray) -> int:
    """Return how many pages a database says that it has, or as many as there are, where it says nothing of use."""
    if len(file) < 100:
        return 0
    changed, said, valid_for = struct.unpack_from(">24xII60xI", file)
    whole = -(-len(file) // PAGE)
    return said if changed == valid_for and 0 < said < 2 * whole + 1024 else whole


def _rows(image: Image, missing: list[str]) -> tuple[list[Row], list[Row]]:
    with _opened(image.data) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        schema = dict(connection.execute("SELECT name, sql FROM sqlite_schema"))
        if schema != SCHEMA:
            missing.append("the tables are not those of a journal")
        said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(4)")]
        missing += [f"SQLite says: {text}" for text in said if text != "ok"]
        facts = connection.execute("SELECT * FROM facts").fetchall()
        return facts, connection.execute("SELECT * FROM messages").fetchall()


@contextlib.contextmanager
def _opened(data: bytearray) -> Iterator[sqlite3.Connection]:
    """Open an image as a database."""
    if len(data) < PAGE:
        raise sqlite3.DatabaseError("the file is cut off in its first page")
    data = data[:18] + b"\x01\x01" + data[20:]  # it has no log any more
    if hasattr(sqlite3.Connection, "deserialize") and len(data) < _MOST_IN_MEMORY:
        memory: Any = sqlite3.connect(":memory:")
        with contextlib.closing(memory):
            memory.deserialize(bytes(data))
            yield memory
        return
    with tempfile.TemporaryDirectory(prefix="resilient-ws-") as directory:
        copy = pathlib.Path(directory, "journal")
        try:
            copy.write_bytes(data)
        except OSError as error:
            raise JournalFull(f"no room to check the journal in {directory} ({error.strerror})") from error
        uri = f"{copy.as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            yield connection


def _judge_damage(found: Found, file: bytes, log: bytes, image: Image, missing: list[str]) -> None:
    """
    Say what the damage within the valid part of the log is.

    A power loss can leave of a page all but one word. Where nothing says that the transaction was safe that is told
    from a torn end only by the check sum, and it is put right.
    """
    where = ", ".join(image.log.damage[:4])
    if not where:
        return
    before = put_together(file, log[: wal.HEADER + image.log.sound * wal.FRAME])
    turn = assemble(*pages.split(pages.rows(before.data)), is_raw=True).contents.turn
    if missing or found.missing or not image.log.is_put_right or found.contents.synced > turn:
        missing.insert(0, f"the log has damage in {where}")
        return
    found.notes.append(
        f"a word of the last transactions is not in the log ({where}), as after a power loss; the check sum tells "
        "which: nothing is missing"
    )
    right = image.log.data
    found.log_words = [
        (place, bytes(right[place : place + 4]))
        for place in range(0, len(log) // 4 * 4, 4)
        if log[place : place + 4] != right[place : place + 4]
    ]


def _judge_tail(found: Found, log: wal.Scan) -> None:
    """
    Say what became of transactions behind the end of the log.

    Where a later one knew that they were safe, they were, and the disk has lost them. Else a power loss has cut off
    what was not yet safe, out of order: that was promised to nobody.
    """
    contents = found.contents
    behind = [row for start in log.behind for row in pages.leaf_rows(log.data[start : start + PAGE], log.data[:0])]
    facts, messages = pages.split(behind)
    later = assemble(facts, messages, is_raw=True).contents
    if later.synced > contents.turn:
        found.missing.append(f"transactions {contents.turn + 1} to {later.synced}, which were safe: the log is damaged")
    elif later.turn > contents.turn and log.has_commit_behind:
        found.notes.append(
            f"{later.turn - contents.turn} transactions that were written after the last fsync are missing, as after a "
            "power loss: messages, acks and positions of the last moments before it"
        )
