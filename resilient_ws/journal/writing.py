"""
An open journal: records go in, one transaction each time; what a disk says against it is said to the caller.

Which records there are the session decides, who writes when the shell does. SQLite never checkpoints by itself: it
swallows an error of fsync there, and the next attempt would call it well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import sqlite3
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

from resilient_ws.exceptions import JournalCorrupt, JournalError, JournalFailed, JournalFull, JournalLocked
from resilient_ws.journal import places
from resilient_ws.journal.changes import Changes
from resilient_ws.journal.contents import Contents
from resilient_ws.journal.places import Lock
from resilient_ws.records import Record, Restored

CHECKPOINT_PAGES = 1000
"""About so many pages stand in the log before they are moved into the file."""
_MOST_FREE_PAGES = 256
_NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE
_SETTINGS = (
    "locking_mode = EXCLUSIVE",  # the index of the log is in memory, and other programs are kept out
    "journal_mode = WAL",
    "wal_autocheckpoint = 0",
    "synchronous = FULL",
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
    "journal_size_limit = 16777216",
    "secure_delete = FAST",
)


@attrs.frozen
class Opened:
    """
    What there was when a journal was opened.

    Attributes:
        path: The file.
        is_new: There was none.
        messages, bytes: What has no ack.
        streams: How many positions are known.
        notes: What is kept, missing or odd, a sentence each.
    """

    path: str
    is_new: bool
    messages: int
    bytes: int
    streams: int
    notes: tuple[str, ...]


class Journal:
    """
    The journal of one Client, made by :func:`resilient_ws.journal.open_journal`.

    Any thread may be in it, one at a time.

    Attributes:
        path: The file.
        restored: What it knew when it was opened.
        opened: The same in numbers and words.
    """

    def __init__(
        self, lock: Lock, contents: Contents, *, restored: Restored, opened: Opened, to_wall: Callable[[float], int]
    ) -> None:
        self.path = opened.path
        self.restored = restored
        self.opened = opened
        self._lock = lock
        self._contents = contents
        self._changes = Changes(contents, to_wall)
        self._connection: Any = None
        self._cursor: Any = None
        self._stopped: JournalError | None = None
        self._is_durable = True
        self._is_unsure = False
        _open_ones.add(self)

    def begin(self, instance: str, sync: Literal["full", "normal"]) -> None:
        """
        Open the file for writing and note this opening durably; called once.

        Raises:
            JournalLocked: Another program has the file open.
            JournalCorrupt: It is not what was read a moment ago.
            JournalFull: There is no room. Close it.
            JournalFailed: The disk failed. Close it.
        """
        uri = f"{pathlib.Path(os.path.abspath(self.path)).as_uri()}?mode=rw"
        try:
            self._connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=0.0, cached_statements=32
            )
            for setting in _SETTINGS:
                self._connection.execute(f"PRAGMA {setting}").fetchall()
            self._compare()
            self._cursor = self._connection.cursor()  # one for all: making one costs as much as what it executes
            self._put(lambda: self._changes.begin_opening(instance, sync), durable=True)
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise self._stop(
                    JournalLocked(
                        f"journal {self.path}: another program has it open, or its disk failed in this process: close "
                        "that program, or start this one again"
                    )
                ) from error
            raise self._fail(error) from error

    def _compare(self) -> None:
        turns = self._connection.execute("SELECT max(turn), count(*) FROM facts").fetchone()
        if turns[0] > self._contents.turn or turns[1] != len(self._contents.ids) + 1:
            raise self._stop(JournalCorrupt(self.path, "everything", "it was changed while it was opened: try again"))

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        """
        Write records in one transaction; the same ones may come twice.

        Args:
            durable: They, and all before them, survive a power loss when this returns; else the end of the process.

        Raises:
            JournalFull: There is no room. Nothing of it was written; it may be tried again.
            JournalFailed: The disk failed. The journal has stopped for good.
        """
        if self._connection is None or self._stopped is not None:
            raise self._stopped_now()
        if not (records or durable):
            return
        self._put(lambda: self._changes.put(records), durable=durable, is_whole=not records)
        if self._changes.pages > CHECKPOINT_PAGES:
            self._make_room()

    def _put(self, put: Callable[[], None], *, durable: bool, is_whole: bool = True) -> None:
        try:
            self._transact(put, durable=durable, is_whole=is_whole)
        except sqlite3.Error as error:
            self._put_in_little_room(error, lambda: self._transact(put, durable=durable, is_whole=is_whole))

    def _put_in_little_room(self, error: sqlite3.Error, again: Callable[[], None]) -> None:
        """What the log holds goes into the file, then its room is used again."""
        try:
            if not _is_full(error):
                raise error
            self._take_back()
            self._checkpoint("PASSIVE")
            again()
        except sqlite3.Error as failed:
            if not _is_full(failed):
                raise self._fail(failed) from failed
            try:
                self._take_back()
            except sqlite3.Error as last:
                raise self._fail(last) from last
            raise self._full() from failed

    def _transact(self, put: Callable[[], None] | None, *, durable: bool, is_whole: bool = True) -> None:
        """Carry out one transaction; an exception leaves it open, for whoever handles that."""
        if self._is_unsure:
            self._take_back()
        run, changes = self._cursor.execute, self._changes
        if durable is not self._is_durable:
            run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable
        self._is_unsure = True
        run("BEGIN IMMEDIATE")
        changes.begin(self._cursor)
        if put is not None:
            put()
        changes.flush(is_whole=is_whole)
        run("COMMIT")
        changes.committed()
        self._is_unsure = False
        if durable:
            self._contents.synced = changes.turn

    def _take_back(self) -> None:
        """Have the contents say what the file says, whether a transaction that broke off is in it or not."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        if self._changes.is_in_file(self._connection):
            self._changes.committed()
        else:
            self._changes.take_back()
        self._is_unsure = False

    # -- from the log into the file -----------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Move the log into the file; where there is no room for that it is tried again later."""
        try:
            self._transact(None, durable=False)
            self._checkpoint("PASSIVE")
        except sqlite3.Error as error:
            if not _is_full(error):
                raise self._fail(error) from error
            with contextlib.suppress(sqlite3.Error):
                self._take_back()
            self._changes.pages = 0

    def _checkpoint(self, how: str) -> None:
        is_busy, _, _ = self._connection.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("the log is in use by somebody else")
        self._contents.synced = self._contents.turn
        self._changes.pages = 0

    # -- ending -------------------------------------------------------------------------------------------------------

    def _full(self) -> JournalFull:
        return JournalFull(
            f"journal {self.path}: its disk is full: nothing of this was accepted, what was accepted before is safe; "
            "make room and try again"
        )

    def _fail(self, error: Exception) -> JournalError:
        """Stop for good: after a failed fsync nobody knows what the disk has, and a second one may call it well."""
        return self._stop(
            JournalFailed(
                f"journal {self.path}: its disk failed ({error}); it has stopped for good. What was being written may "
                "or may not be kept; look at the disk, then open a new Client"
            )
        )

    def _stop(self, why: JournalError) -> JournalError:
        if self._stopped is None:
            self._stopped = why
        return self._stopped

    def _stopped_now(self) -> JournalError:
        return self._stopped or JournalError(f"the journal {self.path} is closed")

    def close(self) -> None:
        """
        Move everything into the one file and let go; after a failure only let go. A second call does nothing.

        Raises:
            JournalFailed: The disk failed on the way; what was durable is so still.
        """
        connection, self._connection = self._connection, None
        _open_ones.discard(self)
        try:
            if connection is not None:
                self._end(connection)
        finally:
            self._lock.release()

    def _end(self, connection: Any) -> None:
        if self._stopped is not None:
            self._release(connection, is_done=False)
            return
        self._connection = connection
        try:
            self._tidy()
        except sqlite3.Error as error:
            if not _is_full(error):  # else the log stays beside the file, and is read at the next opening
                self._release(connection, is_done=False)
                raise self._fail(error) from error
        finally:
            self._connection = None
        self._release(connection, is_done=True)
        with contextlib.suppress(OSError):
            places.sync_directory(self.path)

    def _release(self, connection: Any, *, is_done: bool) -> None:
        if self._cursor is not None:
            self._cursor.close()  # else the connection stays open as long as it
        if is_done:
            connection.close()
        else:
            _let_go(connection)

    def _tidy(self) -> None:
        run = self._connection.execute
        if self._is_unsure:
            self._take_back()
        self._transact(None, durable=False)
        if run("PRAGMA freelist_count").fetchone()[0] > _MOST_FREE_PAGES:
            self._connection.executescript("PRAGMA incremental_vacuum")  # execute() does one step of it
        self._checkpoint("TRUNCATE")

    def leave_behind(self) -> None:
        """In a forked child: never touch the files again, not even when the interpreter ends."""
        connection, self._connection = self._connection, None
        self._stop(JournalError(f"the journal {self.path} belongs to the parent process"))
        for thing in (connection, self._cursor):  # another thread may have been in the middle of a statement
            if thing is not None:
                _keep_for_ever(thing)
        self._lock.release()


_open_ones: weakref.WeakSet[Journal] = weakref.WeakSet()


def _leave_all_behind() -> None:
    for journal in list(_open_ones):
        journal.leave_behind()


# Where this is absent (Windows) there is no fork either.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_behind)


def _is_full(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "database or disk is full" in str(error)


def _let_go(connection: Any) -> None:
    """Give a connection up without another write: closing it would move the log into the file."""
    if hasattr(connection, "setconfig"):  # Python 3.12 and later
        connection.setconfig(_NO_CHECKPOINT_ON_CLOSE, True)
        connection.close()
    else:
        _keep_for_ever(connection)


def _keep_for_ever(thing: Any) -> None:
    """Have it never finalised: SQLite would write, and remove the log, when the interpreter clears up."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
