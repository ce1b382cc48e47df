"""
Opens a journal: looks at the file, locks it, reads and checks it, makes or mends it, and only then writes into it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Literal

from resilient_ws.exceptions import JournalCorrupt, JournalFailed
from resilient_ws.journal import files, reading
from resilient_ws.journal.layout import SEQ_BITS, message_row, sealed
from resilient_ws.journal.reading import Contents
from resilient_ws.journal.writing import Journal, Opened


def open_journal(
    path: str,
    *,
    instance: str,
    sync: Literal["full", "normal"] = "full",
    damaged: Literal["raise", "recover"] = "raise",
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Journal:
    """
    Open the journal at ``path``, or make it.

    Args:
        instance: Id of the Client that opens it.
        sync: What the next openings may expect of the log's tail.
        damaged: ``recover``: go on with what can be read; the damaged file is kept beside it.
        clock, wall: Seconds; ages are kept in wall time, and given in the clock's.

    Raises:
        JournalLocked: Another Client has it open.
        JournalRefused: It must not be used.
        JournalCorrupt: It cannot be read whole; nothing was changed.
        JournalFailed: The disk failed.
    """
    is_there = _look(path, damaged)
    lock = files.Lock(path)
    try:
        contents, notes = _contents(path, is_there=is_there, damaged=damaged)
        messages, size = contents.size
        opened = Opened(path, not is_there, messages, size, len(contents.positions), tuple(notes))
        journal = Journal(path, lock, contents, opened, clock=clock, wall=wall)
        try:
            journal.begin(instance, sync)
        except BaseException:
            journal.close()
            raise
        return journal
    except BaseException:
        lock.release()
        raise


def _look(path: str, damaged: str) -> bool:
    try:
        return files.check_file(path)
    except JournalCorrupt:
        if damaged == "raise":
            raise
        return True


def _contents(path: str, *, is_there: bool, damaged: str) -> tuple[Contents, list[str]]:
    notes: list[str] = []
    if not is_there:
        if os.path.exists(path):
            notes.append("the file was empty: what it may have held is not there, a new journal begins")
        files.create(path)
        return Contents(), notes
    contents = reading.read(path)
    if contents.lost_commits:
        _judge_log(contents, notes)
    if contents.missing and damaged == "raise":
        raise JournalCorrupt(path, contents.kept, "; ".join(contents.missing[:8]))
    if contents.missing:
        notes += _recover(path, contents)
    return contents, notes


def _judge_log(contents: Contents, notes: list[str]) -> None:
    """Committed transactions behind the log's readable end: a power loss leaves that where not each was synced."""
    count = contents.lost_commits
    what = f"the log holds {count} committed transactions behind its readable end"
    if contents.meta.get("sync") == "normal":
        notes.append(
            f"{what}: messages, acks and positions of about the last second before a power loss are missing"
        )
    else:
        contents.missing.append(f"{what}: it is damaged")


# -- recovering -------------------------------------------------------------------------------------------------------


def _recover(path: str, contents: Contents) -> list[str]:
    """Put what can be read into a new file in the place of the damaged one, which is kept; returns what to say."""
    aside = _aside(path)
    try:
        for side in ("-wal", ""):
            if os.path.exists(path + side):
                os.rename(path + side, aside + side)
        files.sync_directory(path)
        files.create(path, lambda connection: _fill(connection, contents))
    except OSError as error:
        raise JournalFailed(f"journal {path}: cannot be recovered ({error.strerror}); see {aside}") from error
    kept = f"the journal was damaged; it goes on with {contents.kept}; the damaged file is {aside}"
    return [kept, *(f"missing: {what}" for what in contents.missing)]


def _aside(path: str) -> str:
    number = 1
    while any(os.path.lexists(f"{path}.damaged-{number}{side}") for side in ("", "-wal")):
        number += 1
    return f"{path}.damaged-{number}"


def _fill(connection: Any, contents: Contents) -> None:
    for lane in contents.lanes.values():
        first = min(lane.rows, default=lane.first)
        connection.execute(
            "INSERT INTO lane VALUES (?, ?, ?, ?, ?)", sealed(lane.id, lane.producer, lane.stream, first)
        )
        for seq, (item, at, welcome) in lane.rows.items():
            row = message_row(lane.id << SEQ_BITS | seq, item, at, welcome)
            connection.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)", row)
    for kept in contents.positions.values():
        row = sealed(kept.stream, kept.position.epoch, kept.position.offset, kept.crc, kept.cursor)
        connection.execute("INSERT INTO position VALUES (?, ?, ?, ?, ?, ?)", row)
    for number, name in enumerate(contents.instances, 1):
        connection.execute("INSERT INTO instance VALUES (?, ?, ?)", sealed(number, name))
    for welcome, (at, incarnation) in contents.welcomes.items():
        connection.execute("INSERT INTO welcome VALUES (?, ?, ?, ?)", sealed(welcome, at, incarnation))
    meta = {**contents.meta, "streams": str(len(contents.positions))}
    for key, value in meta.items():
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", sealed(key, value))
