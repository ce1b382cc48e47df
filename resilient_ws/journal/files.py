"""
What the file of a journal must be: ours alone, a plain file, one process at a time; and how it comes to be.

Nothing here knows what is in it, but for the header that says whose it is. A file that is refused is not touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import struct
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from resilient_ws.exceptions import JournalCorrupt, JournalError, JournalFailed, JournalLocked, JournalRefused
from resilient_ws.journal.layout import APPLICATION_ID, FORMAT, SCHEMA, sealed

IS_WINDOWS = sys.platform == "win32"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_MAGIC = b"SQLite format 3\x00"
_SIDES = ("-wal", "-shm", "-journal")
_VFS = "win32-none" if IS_WINDOWS else "unix-none"


class Lock:
    """
    The lock beside a journal, held until :meth:`release` or the end of the process.

    Raises:
        JournalLocked: Somebody has it.
        JournalRefused: It cannot be made.
    """

    def __init__(self, path: str) -> None:
        name = path + ".lock"
        try:
            self._file: int | None = os.open(name, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
        except OSError as error:
            raise JournalRefused(f"journal {path}: its lock {name} cannot be made ({error.strerror})") from error
        try:
            _lock(self._file)
        except OSError as error:
            self.release()
            raise JournalLocked(
                f"journal {path}: in use by another Client, here or in another process; close that one, or give each "
                "process a journal of its own"
            ) from error

    def release(self) -> None:
        """Let go; in a forked child this closes its copy only."""
        number, self._file = self._file, None
        if number is not None:
            os.close(number)


def _lock(number: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_file(path: str) -> bool:
    """
    Look at the file without changing anything; returns whether there is one that holds something.

    Raises:
        JournalRefused: It must not be used; the text says why, and what to do.
        JournalCorrupt: It is empty, and a log beside it says that it was not.
    """
    for side in _SIDES:
        with _missing_is_fine():
            _check_kind(path + side, os.lstat(path + side))
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        _check_directory(path)
        found = None
    except OSError as error:
        raise JournalRefused(f"journal {path}: cannot be looked at ({error.strerror})") from error
    if found is not None:
        _check_kind(path, found)
    if found is None or found.st_size == 0:
        if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
            what = "gone" if found is None else "empty"
            raise JournalCorrupt(path, "nothing", f"the file is {what}, and {path}-wal beside it is not")
        return False
    _check_access(path)
    _check_header(path)
    return True


@contextlib.contextmanager
def _missing_is_fine() -> Iterator[None]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield


def _check_directory(path: str) -> None:
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise JournalRefused(f"journal {path}: there is no directory {directory}; make it first")
    if not os.access(directory, os.W_OK):
        raise JournalRefused(f"journal {path}: nothing may be written into the directory {directory}")


def _check_kind(path: str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode) or (found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)):
        raise JournalRefused(f"journal {path}: is a link; name the file itself, or remove the link")
    if not stat.S_ISREG(found.st_mode):
        raise JournalRefused(f"journal {path}: is not a plain file")
    if IS_WINDOWS:
        return
    if found.st_uid != os.geteuid():
        raise JournalRefused(f"journal {path}: belongs to user {found.st_uid}, and we are {os.geteuid()}")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise JournalRefused(f"journal {path}: others may use it (mode {mode:o}), it holds a token: chmod 600 {path}")


def _check_access(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | _NO_FOLLOW))
    except OSError as error:
        raise JournalRefused(f"journal {path}: cannot be written ({error.strerror})") from error
    _check_directory(path)


def _check_header(path: str) -> None:
    with open(path, "rb") as file:
        head = file.read(100)
    if len(head) < 100 or not head.startswith(_MAGIC):
        raise JournalRefused(f"journal {path}: is no journal (it is not an SQLite database); it was not touched")
    version, application = struct.unpack(">I4xI", head[60:72])
    if application != APPLICATION_ID:
        raise JournalRefused(f"journal {path}: is another program's SQLite database; it was not touched")
    if version > FORMAT:
        raise JournalRefused(
            f"journal {path}: has format {version}, and this version knows up to {FORMAT}: it was written by a newer "
            "version of resilient_ws; use that one"
        )


# -- opening ----------------------------------------------------------------------------------------------------------


def connect_reading(path: str) -> sqlite3.Connection:
    """Open a file so that nothing can be changed in it, nor beside it; the caller holds the lock."""
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro&vfs={_VFS}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    # Before the first read: the index of the log is kept in memory then, and not in a file.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.text_factory = bytes
    return connection


def connect_writing(path: str) -> sqlite3.Connection:
    """Open a file for writing; a checkpoint is made when we say so, and never by the way."""
    uri = f"file:{quote(os.path.abspath(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=1.0)
    for setting in (
        "locking_mode = EXCLUSIVE",
        "journal_mode = WAL",
        "wal_autocheckpoint = 0",
        "synchronous = FULL",
        "fullfsync = ON",
        "checkpoint_fullfsync = ON",
        "journal_size_limit = 8388608",
    ):
        connection.execute(f"PRAGMA {setting}")
    return connection


def create(path: str, fill: Any = None) -> None:
    """
    Make a new journal where there is none, whole or not at all; an empty file in its place is replaced.

    Args:
        fill: Called with the connection to put something in before anybody can see the file.
    """
    draft = f"{path}.new-{secrets.token_hex(6)}"
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600))
        _write_schema(draft, fill)
        _sync(draft)
        os.replace(draft, path)
        sync_directory(path)
    except OSError as error:
        raise JournalFailed(f"journal {path}: cannot be made ({error.strerror})") from error
    except sqlite3.Error as error:
        raise JournalFailed(f"journal {path}: cannot be made ({error})") from error
    finally:
        for name in (draft, *(draft + side for side in _SIDES)):
            with contextlib.suppress(OSError):
                os.unlink(name)


def _write_schema(draft: str, fill: Any) -> None:
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES (?, ?, ?)", sealed("streams", "0"))
        if fill is not None:
            fill(connection)
        connection.execute("COMMIT")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise JournalError("this file system cannot hold a write-ahead log; choose another place")
    finally:
        connection.close()


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_directory(path: str) -> None:
    """Make the names in a file's directory safe against a power loss."""
    if IS_WINDOWS:
        return
    number = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
