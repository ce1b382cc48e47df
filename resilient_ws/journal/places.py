"""
What the file of a journal must be: ours alone, a plain file, one process at a time; how it comes to be and is replaced.

Nothing here knows what is in it. A file that is refused is not touched. A new file is made whole under another name;
one that takes the place of a damaged one gets its own name first (``FILE.recovered-<n>``): from then on the rest is
carried out whatever happens, by the next opening if need be.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator

from resilient_ws.exceptions import JournalCorrupt, JournalLocked, JournalRefused

SIDES = ("-wal", "-shm", "-journal")
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


# -- what is refused --------------------------------------------------------------------------------------------------


def check(path: str, *, to_write: bool = True) -> os.stat_result | None:
    """
    Look at the file, and those beside it, without changing anything; returns what there is, None for nothing.

    Raises:
        JournalRefused: It must not be used; the text says why, and what to do.
    """
    if not path:
        raise JournalRefused("a journal needs the path of a file, and this one is empty: name a file")
    for side in (*SIDES, ".lock"):
        _check_kind(path, path + side)
    found = _check_kind(path, path)
    if os.path.lexists(path + "-journal"):
        raise JournalRefused(
            f"journal {path}: {path}-journal is beside it, which no journal of ours has: another program has opened "
            "it; let that one finish, or move it away"
        )
    if to_write:
        _check_directory(path)
        if found is not None and not (found.st_mode & stat.S_IWUSR and os.access(path, os.R_OK | os.W_OK)):
            raise JournalRefused(f"journal {path}: cannot be written: chmod 600 {path}, or name another place")
    return found


def _check_directory(path: str) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise JournalRefused(f"journal {path}: there is no directory {directory}: make it first")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise JournalRefused(
            f"journal {path}: nothing may be written into {directory}: give it write permission, or name another place"
        )


def _check_kind(path: str, name: str) -> os.stat_result | None:
    try:
        found = os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise JournalRefused(f"journal {path}: cannot be looked at ({error})") from error
    said = f"journal {path}: " if name == path else f"journal {path}: {name} beside it "
    if stat.S_ISLNK(found.st_mode):
        raise JournalRefused(f"{said}is a symbolic link: name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise JournalRefused(f"{said}is not a plain file: name another place")
    if found.st_nlink > 1 and not _is_unfinished(path, found):
        raise JournalRefused(f"{said}has {found.st_nlink} names (hard links): remove the others")
    if sys.platform != "win32":
        if found.st_uid != os.geteuid():
            raise JournalRefused(f"{said}belongs to user {found.st_uid}, and this is user {os.geteuid()}: name another")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise JournalRefused(f"{said}is open to others (mode {mode:03o}), and it holds a token: chmod 600 {name}")
    return found


def _is_unfinished(path: str, found: os.stat_result) -> bool:
    """Say whether the second name is that under which it was made: it was about to be removed, or is by now."""
    try:
        return found.st_nlink == 2 and os.path.samestat(found, os.lstat(draft_of(path)))
    except OSError:
        return os.lstat(path).st_nlink == 1


def is_lost(path: str) -> str | None:
    """Say why there is less than there was: a log without its file; None where all is well."""
    size = os.path.getsize(path) if os.path.exists(path) else None
    if size or not os.path.exists(path + "-wal") or not os.path.getsize(path + "-wal"):
        return None
    return f"the file is {'gone' if size is None else 'empty'}, and {path}-wal beside it is not"


# -- the lock ---------------------------------------------------------------------------------------------------------


class Lock:
    """
    The lock beside a journal, held until :meth:`release` or the end of the process.

    Args:
        is_reader: Make no file: where there is none nobody has the journal.

    Raises:
        JournalLocked: Somebody has it.
        JournalRefused: It cannot be made.
    """

    def __init__(self, path: str, *, is_reader: bool = False) -> None:
        self._file: int | None = None
        name = path + ".lock"
        flags = os.O_RDONLY if is_reader else os.O_RDWR | os.O_CREAT
        try:
            self._file = os.open(name, flags | _FLAGS, 0o600)
        except FileNotFoundError:
            if is_reader:
                return
            raise JournalRefused(f"journal {path}: its lock {name} cannot be made") from None
        except OSError as error:
            raise JournalRefused(f"journal {path}: its lock {name} cannot be opened ({error.strerror})") from error
        try:
            _lock(self._file)
        except (BlockingIOError, PermissionError) as error:
            self.release()
            raise JournalLocked(
                f"journal {path}: another Client has it open, in this process or another one; close that one, or give "
                "each a journal of its own"
            ) from error
        except OSError as error:
            self.release()
            raise JournalRefused(f"journal {path}: this file system has no locks ({error.strerror})") from error

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Let go; in a forked child this closes its copy only, and the parent keeps the lock."""
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


# -- new files --------------------------------------------------------------------------------------------------------


def draft_of(path: str) -> str:
    """Return the name under which a new file is made."""
    return path + ".new"


@contextlib.contextmanager
def drafted(path: str) -> Iterator[str]:
    """Yield the name of a new, empty file of ours; when this ends nothing is left under that name."""
    draft = draft_of(path)
    clear_draft(path)
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600))
        yield draft
    finally:
        clear_draft(path)


def clear_draft(path: str) -> None:
    """Remove what a crash left of a new file; the lock is held."""
    for side in ("", *SIDES):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft_of(path) + side)


def put_in_place(draft: str, path: str) -> None:
    """Give a finished file its name; an empty file there is replaced, any other is not."""
    sync_file(draft)
    if os.path.lexists(path) and os.lstat(path).st_size == 0:
        os.replace(draft, path)
    else:
        _name(draft, path)
    sync_directory(path)


def _name(draft: str, path: str) -> None:
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(f"{path} appeared meanwhile") from None
        os.rename(draft, path)


def sync_file(path: str) -> None:
    """Make a file safe against a power loss."""
    number = os.open(path, os.O_RDWR | _FLAGS)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def put_words(path: str, words: list[tuple[int, bytes]]) -> None:
    """Write (offset, bytes) into a file, and make that safe; nothing is done where there is nothing to write."""
    if not words:
        return
    with open(os.open(path, os.O_RDWR | _FLAGS), "r+b", buffering=0) as file:
        for offset, word in words:
            file.seek(offset)
            file.write(word)
        os.fsync(file.fileno())


def sync_directory(path: str) -> None:
    """Make the names beside a file safe against a power loss."""
    if sys.platform == "win32":
        return
    number = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# -- replacing a damaged one ------------------------------------------------------------------------------------------


def aside_of(path: str, number: int) -> str:
    """Return the name that a damaged file gets."""
    return f"{path}.damaged-{number}"


def replace_damaged(path: str, build: Callable[[str], None]) -> str:
    """
    Put a new file in the place of a damaged one; returns the name under which that one is kept, with its log.

    Args:
        build: Writes the new file into the empty one with this name.
    """
    number = 1
    while any(os.path.lexists(aside_of(path, number) + side) for side in ("", *SIDES)):
        number += 1
    with drafted(path) as draft:
        build(draft)
        sync_file(draft)
        os.rename(draft, f"{path}.recovered-{number}")
    sync_directory(path)
    return finish_replacing(path) or aside_of(path, number)


def finish_replacing(path: str) -> str | None:
    """Carry out a replacement that was decided; returns the name of the damaged file, None where there was nothing."""
    number = _decided(path)
    if number is None:
        return None
    aside = aside_of(path, number)
    for side in ("", *SIDES):
        if os.path.lexists(path + side):
            if os.path.lexists(aside + side):
                raise JournalCorrupt(path, f"{path}.recovered-{number}", f"{aside + side} is in the way: move it away")
            os.rename(path + side, aside + side)
    sync_directory(path)
    os.rename(f"{path}.recovered-{number}", path)
    sync_directory(path)
    return aside


def is_replacing(path: str) -> bool:
    """Say whether the replacement of a damaged file was decided and not yet carried out."""
    return _decided(path) is not None


def _decided(path: str) -> int | None:
    names = glob.glob(glob.escape(path) + ".recovered-*")
    numbers = [int(name.rpartition("-")[2]) for name in names if re.search(r"\.recovered-[1-9][0-9]*\Z", name)]
    return min(numbers, default=None)
