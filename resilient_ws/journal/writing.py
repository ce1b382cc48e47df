"""
An open journal: records go in, one transaction each time; what a disk says against it is said to the caller.

Which records there are the session decides, who writes when the shell does.
"""

from __future__ import annotations

import ctypes
import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

from resilient_ws.exceptions import JournalError, JournalFailed, JournalFull
from resilient_ws.journal.files import Lock, connect_writing
from resilient_ws.journal.layout import SEQ_BITS, message_row, sealed
from resilient_ws.journal.reading import Contents
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Record,
    Restored,
    SessionOver,
    Settled,
    Void,
    Welcomed,
    Withdrawn,
)

CHECKPOINT_PAGES = 1000
"""About so many pages may stand in the log before they are moved into the file."""
MOST_INSTANCES = 64
"""Of so many earlier lives the ids are kept: their connections are our own."""
_MOST_FREE_PAGES = 256
_PAGE = 4096

Key = tuple[str, str]


@attrs.frozen
class Opened:
    """
    What there was when a journal was opened.

    Attributes:
        messages, bytes: What has no ack.
        streams: How many positions are known.
        notes: What is odd, kept or missing, a sentence each.
    """

    path: str
    is_new: bool
    messages: int
    bytes: int
    streams: int
    notes: tuple[str, ...]


@attrs.define
class _Lane:
    """What is remembered of a lane: its row's id, its first seq, and the one after its last message."""

    id: int
    first: int
    next: int


class Journal:
    """
    The journal of one Client, made by :func:`resilient_ws.journal.open_journal`.

    One thread at a time may be in it.

    Attributes:
        restored: What it knew when it was opened.
        opened: The same in numbers and words.
    """

    def __init__(
        self,
        path: str,
        lock: Lock,
        contents: Contents,
        opened: Opened,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.path = path
        self.opened = opened
        self._lock = lock
        self._clock = clock
        self._wall = wall
        self.restored: Restored = contents.restored(clock(), wall())
        self._connection: Any = None
        self._failure: JournalError | None = None
        self._is_full_sync = True
        self._pages = 0
        self._next_lane = max(contents.lanes, default=0) + 1
        self._lanes: dict[Key, _Lane] = {
            (lane.producer, lane.stream): _Lane(lane.id, lane.first, max(lane.rows, default=lane.first - 1) + 1)
            for lane in contents.lanes.values()
        }
        self._positions = set(contents.positions)
        self._own: set[Key] = set()

    def begin(self, instance: str, sync: Literal["full", "normal"]) -> None:
        """Open for writing, and note this life durably; called once."""
        try:
            self._connection = connect_writing(self.path)
            self._execute_begin(instance, sync)
        except sqlite3.Error as error:
            raise self._fail(error) from error

    def _execute_begin(self, instance: str, sync: str) -> None:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        number = (run("SELECT max(id) FROM instance").fetchone()[0] or 0) + 1
        run("INSERT INTO instance VALUES (?, ?, ?)", sealed(number, instance))
        run("DELETE FROM instance WHERE id <= ?", (number - MOST_INSTANCES,))
        run("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", sealed("sync", sync))
        for key, lane in list(self._lanes.items()):
            if lane.first == lane.next:
                self._drop_lane(key, lane)
        run("COMMIT")
        self._checkpoint()

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        """
        Write records in one transaction; the same ones may come twice.

        Args:
            durable: It and all before it survive a power loss when this returns; else the end of the process.

        Raises:
            JournalFull: There is no room. Nothing of it was written; it may be tried again.
            JournalFailed: The disk failed. The journal has stopped for good.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._transact(records, durable)
        except sqlite3.Error as error:
            if not _is_full(error):
                raise self._fail(error) from error
            self._write_in_little_room(records, durable)

    def _write_in_little_room(self, records: Sequence[Record], durable: bool) -> None:
        """What the log holds goes into the file, then its room is used again."""
        try:
            self._roll_back()
            self._checkpoint()
            self._transact(records, durable)
        except sqlite3.Error as error:
            if not _is_full(error):
                raise self._fail(error) from error
            self._undo()
            raise JournalFull(
                f"journal {self.path}: its disk is full; nothing of this was accepted, what was accepted before is "
                "safe: make room and try again"
            ) from error

    def _undo(self) -> None:
        try:
            self._roll_back()
        except sqlite3.Error as error:
            raise self._fail(error) from error

    def _transact(self, records: Sequence[Record], durable: bool) -> None:
        run = self._connection.execute
        if self._connection.in_transaction:  # an interrupt has left it
            self._roll_back()
        if durable is not self._is_full_sync:
            run("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            self._is_full_sync = durable
        run("BEGIN IMMEDIATE")
        for record in records:
            _PUT[type(record)](self, record)
        if durable and not records:  # an empty transaction would make nothing durable
            run("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", sealed("synced", str(self._micros(self._clock()))))
        run("COMMIT")
        self._pages += 3
        if self._pages >= CHECKPOINT_PAGES:
            self._checkpoint()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        rows = self._connection.execute("SELECT id, producer, stream, first FROM lane").fetchall()
        self._lanes = {}
        for number, producer, stream, first in rows:
            last = self._connection.execute(
                "SELECT max(id) FROM message WHERE id < ?", ((number + 1) << SEQ_BITS,)
            ).fetchone()[0]
            is_there = last is not None and last >> SEQ_BITS == number
            self._lanes[producer, stream] = _Lane(number, first, (last & _SEQ_MASK) + 1 if is_there else first)
        self._positions = {row[0] for row in self._connection.execute("SELECT stream FROM position")}

    def _checkpoint(self) -> None:
        # Not by SQLite's own automatism: that one swallows an error of fsync, and the next attempt would call it well.
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._pages = 0

    def _micros(self, at: float) -> int:
        return int((at - self._clock() + self._wall()) * 1e6)

    # -- records ------------------------------------------------------------------------------------------------------

    def _put_accepted(self, record: Accepted) -> None:
        key = (record.producer, record.stream)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(self._next_lane, record.first, record.first)
            self._next_lane += 1
            self._put_lane(key, lane)
        self._own.add(key)
        base, at, welcome = lane.id << SEQ_BITS, self._micros(record.at), record.welcome
        rows = [
            message_row(base | seq, payload, at, welcome)
            for seq, payload in enumerate(record.payloads, record.first)
            if seq >= lane.first
        ]
        self._connection.executemany("INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?)", rows)
        lane.next = max(lane.next, record.first + len(record.payloads))
        self._pages += sum(len(row[2]) for row in rows) // _PAGE

    def _put_lane(self, key: Key, lane: _Lane) -> None:
        row = sealed(lane.id, *key, lane.first)
        self._connection.execute("INSERT OR REPLACE INTO lane VALUES (?, ?, ?, ?, ?)", row)

    def _drop_lane(self, key: Key, lane: _Lane) -> None:
        self._connection.execute("DELETE FROM lane WHERE id = ?", (lane.id,))
        del self._lanes[key]

    def _put_settled(self, record: Settled) -> None:
        key = (record.producer, record.stream)
        lane = self._lanes.get(key)
        if lane is None or record.seq < lane.first:
            return
        base = lane.id << SEQ_BITS
        between = (base | lane.first, base | record.seq)
        self._connection.execute("DELETE FROM message WHERE id BETWEEN ? AND ?", between)
        lane.first = record.seq + 1
        lane.next = max(lane.next, lane.first)
        if lane.first == lane.next and key not in self._own:
            self._drop_lane(key, lane)
        else:
            self._put_lane(key, lane)

    def _put_withdrawn(self, record: Withdrawn) -> None:
        lane = self._lanes.get((record.producer, record.stream))
        if lane is None:
            return
        for key in (lane.id << SEQ_BITS | seq for seq in record.seqs if seq >= lane.first):
            found = self._connection.execute("SELECT at, welcome FROM message WHERE id = ?", (key,)).fetchone()
            if found is not None:
                row = message_row(key, Void(record.code), *found)
                self._connection.execute("INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?)", row)

    def _put_handled(self, record: Handled) -> None:
        position = record.position
        self._connection.execute(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?, ?, ?, ?)",
            sealed(record.stream, position.epoch, position.offset, record.crc, record.cursor),
        )
        if record.stream not in self._positions:
            self._positions.add(record.stream)
            self._count_positions()

    def _put_forgotten(self, record: Forgotten) -> None:
        if record.stream in self._positions:
            self._connection.execute("DELETE FROM position WHERE stream = ?", (record.stream,))
            self._positions.discard(record.stream)
            self._count_positions()

    def _count_positions(self) -> None:
        row = sealed("streams", str(len(self._positions)))
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", row)

    def _put_welcomed(self, record: Welcomed) -> None:
        run = self._connection.execute
        run(
            "INSERT OR REPLACE INTO welcome VALUES (?, ?, ?, ?)",
            sealed(record.number, self._micros(record.at), record.incarnation),
        )
        run(
            "DELETE FROM welcome WHERE number < ? AND number NOT IN (SELECT DISTINCT welcome FROM message)",
            (record.number,),
        )
        who = record.identity
        said = json.dumps({"session": who.session, "token": who.token, "generation": who.generation})
        run("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", sealed("identity", said))

    def _put_session_over(self, record: SessionOver) -> None:
        self._connection.execute("DELETE FROM meta WHERE key = 'identity'")

    # -- ending -------------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> JournalError:
        """Stop for good: after a failed fsync nobody knows what the disk has, and a second one may call it well."""
        self._failure = JournalFailed(
            f"journal {self.path}: its disk failed ({error}); it has stopped for good. What was being written may or "
            "may not be kept; look at the disk, then open a new Client"
        )
        return self._failure

    def close(self) -> None:
        """Move everything into the one file and let go; after a failure only let go. A second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is None:
            self._lock.release()
            return
        try:
            if self._failure is None:
                self._tidy(connection)
                connection.close()
            else:
                _let_go(connection)
        except sqlite3.Error as error:
            self._fail(error)
            _let_go(connection)
        finally:
            self._lock.release()

    def _tidy(self, connection: Any) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        free = connection.execute("PRAGMA freelist_count").fetchone()[0]
        try:
            if free > _MOST_FREE_PAGES:
                connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            if not _is_full(error):  # the log stays beside the file, and is read at the next opening
                raise

    def leave_behind(self) -> None:
        """In a forked child: never touch the files again, not even when the interpreter ends."""
        connection, self._connection = self._connection, None
        self._failure = JournalError("the journal belongs to the parent process")
        if connection is not None:
            _keep_for_ever(connection)
        self._lock.release()


_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, which the module names from Python 3.12 on
_SEQ_MASK = (1 << SEQ_BITS) - 1
_PUT: dict[type, Callable[[Journal, Any], None]] = {
    Accepted: Journal._put_accepted,
    Settled: Journal._put_settled,
    Withdrawn: Journal._put_withdrawn,
    Handled: Journal._put_handled,
    Forgotten: Journal._put_forgotten,
    Welcomed: Journal._put_welcomed,
    SessionOver: Journal._put_session_over,
}


def _is_full(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "database or disk is full" in str(error)


def _let_go(connection: Any) -> None:
    """Give a connection up without another write: closing it would move the log into the file."""
    if hasattr(connection, "setconfig"):  # Python 3.12 and later
        connection.setconfig(_NO_CHECKPOINT_ON_CLOSE, True)
        connection.close()
    else:
        _keep_for_ever(connection)


def _keep_for_ever(connection: Any) -> None:
    """Have it never finalised: SQLite would write, and remove the log, when the interpreter clears up."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

