"""
Opens a journal: looks at the file, locks it, reads and checks it, makes or mends it, and only then writes into it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from resilient_ws.clock import monotonic
from resilient_ws.exceptions import JournalCorrupt, JournalError, JournalFailed, JournalFull
from resilient_ws.journal import layout, places, reading
from resilient_ws.journal.contents import Contents, Found, rows_of
from resilient_ws.journal.writing import Journal, Opened


def open_journal(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    instance: str,
    sync: Literal["full", "normal"] = "full",
    damaged: Literal["raise", "recover"] = "raise",
    clock: Callable[[], float] = monotonic,
    wall: Callable[[], float] = time.time,
) -> Journal:
    """
    Open the journal at ``path``, or make it.

    Args:
        path: The file; ``FILE-wal``, ``FILE.lock`` and for a moment ``FILE.new`` are beside it.
        instance: Id of the Client that opens it; it is durable when this returns.
        sync: What the Client does, kept for who looks at the file.
        damaged: ``recover``: go on with what can be read; the damaged file is kept beside it.
        clock, wall: Seconds; the file keeps wall time, ``restored`` is in the clock's.

    Raises:
        JournalLocked: Another Client has it open.
        JournalRefused: It must not be used.
        JournalCorrupt: It cannot be read whole; nothing was changed.
        JournalFull: There is no room; nothing was changed.
        JournalFailed: The disk failed.
    """
    path = os.fsdecode(path)
    places.check(path)
    lock = places.Lock(path)
    try:
        found, is_new = _find(path, mends=damaged == "recover")
        messages, size = found.size
        positions = len(found.contents.positions)
        opened = Opened(path, is_new, messages, size, positions, tuple(found.notes))
        now, then = clock(), wall()
        restored = found.restored(now, then)

        def to_wall(at: float) -> int:
            return int((wall() - max(0.0, clock() - at)) * 1000)

        journal = Journal(lock, found.contents, restored=restored, opened=opened, to_wall=to_wall)
        try:
            journal.begin(instance, sync)
        except BaseException:
            journal.close()
            raise
        return journal
    except BaseException:
        lock.release()
        raise


def _find(path: str, *, mends: bool) -> tuple[Found, bool]:
    """Bring about a whole file and say what it holds, and whether it is new; the lock is held."""
    notes: list[str] = []
    aside = _tidied(path)
    if aside is not None:
        notes.append(f"a recovery that was broken off was completed; the damaged file is {aside}")
    lost = places.is_lost(path)
    there = places.check(path)
    if lost is None and (there is None or there.st_size == 0):
        if there is not None:
            notes.append("the file was empty: what it may have held is not there, a new journal begins")
        found = Found(Contents(), [], [], notes)
        _build_in_place(path, found)
        return found, True
    found = reading.read(path)
    if lost is not None:
        found.missing.insert(0, lost)
    found.notes[:0] = notes
    if not found.missing:
        _put_right(path, found)
        return found, False
    if not mends:
        raise JournalCorrupt(path, found.kept, said(found.missing))
    return _recover(path, found), False


def _tidied(path: str) -> str | None:
    """Finish, or clear away, what a crash has broken off; the lock is held."""
    try:
        places.clear_draft(path)
        return places.finish_replacing(path)
    except OSError as error:
        raise _cannot(path, error) from error


def _put_right(path: str, found: Found) -> None:
    try:
        places.put_words(path + "-wal", found.log_words)
    except OSError as error:
        raise _cannot(path, error) from error


def said(phrases: list[str], most: int = 8) -> str:
    """Put phrases into one, the first of them only where there are many."""
    more = f"; and {len(phrases) - most} more" if len(phrases) > most else ""
    return "; ".join(phrases[:most]) + more


def _build_in_place(path: str, found: Found) -> None:
    try:
        with places.drafted(path) as draft:
            build(draft, found)
            places.put_in_place(draft, path)
    except (OSError, sqlite3.Error) as error:
        raise _cannot(path, error) from error


def _recover(path: str, found: Found) -> Found:
    """Put what can be read into a new file in the place of the damaged one."""
    try:
        aside = places.replace_damaged(path, lambda draft: build(draft, found))
    except (OSError, sqlite3.Error) as error:
        raise _cannot(path, error) from error
    found.notes.append(f"the journal was damaged; kept: {found.kept}; the damaged file is {aside}")
    found.notes += [f"missing: {what}" for what in found.missing]
    fresh = reading.read(path)
    if fresh.missing:
        raise JournalCorrupt(path, fresh.kept, said(fresh.missing))
    fresh.notes = found.notes
    return fresh


def _cannot(path: str, error: Exception) -> JournalError:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "full" in text or (isinstance(error, OSError) and error.errno in _NO_ROOM):
        return JournalFull(f"journal {path}: its disk is full: nothing was changed; make room and try again")
    return JournalFailed(f"journal {path}: cannot be made ({text}); look at the disk, then try again")


_NO_ROOM = {28, 122}  # ENOSPC, EDQUOT


def build(draft: str, found: Found) -> None:
    """Write a whole journal into an empty file; it is made safe by who gives it its name."""
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        for setting in (
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            f"page_size = {layout.PAGE}",
            "auto_vacuum = INCREMENTAL",
            "encoding = 'UTF-8'",
            f"application_id = {layout.APPLICATION_ID}",
            f"user_version = {layout.FORMAT}",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
        _fill(connection, *rows_of(found, found.contents.turn + 1))
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise sqlite3.OperationalError("this file system cannot hold a write-ahead log")
    finally:
        connection.close()


def _fill(connection: sqlite3.Connection, facts: Iterable[Any], messages: Iterable[Any]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in layout.SCHEMA.values():
        connection.execute(statement)
    connection.executemany(layout.PUT_FACT, facts)
    connection.executemany(layout.PUT_MESSAGE, messages)
    connection.execute("COMMIT")
