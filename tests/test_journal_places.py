"""What the file of a journal must be: O5 to O9, links, locks, forks; what is refused is not touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journal_tools import Clock, accepted, files_of, journal_at, need, opened, restored_from, run_python

import resilient_ws
from resilient_ws.exceptions import JournalError, JournalFailed, JournalLocked, JournalRefused
from resilient_ws.journal import layout, open_journal, places

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def made(path: Path) -> Path:
    """Make a journal with one message."""
    with journal_at(path) as journal:
        journal.write([accepted(1, "one")], durable=True)
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


# -- refused ----------------------------------------------------------------------------------------------------------


def other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
        connection.execute("INSERT INTO customers VALUES ('somebody')")
    connection.close()
    path.chmod(0o600)


def text_file(path: Path) -> None:
    path.write_text("to whom it may concern " * 100)
    path.chmod(0o600)


def symbolic_link(path: Path) -> None:
    made(path).rename(path.with_name("real.db"))
    path.symlink_to(path.with_name("real.db"))


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def hard_link(path: Path) -> None:
    os.link(made(path), path.with_name("other.db"))


def linked_log(path: Path) -> None:
    made(path).with_name("elsewhere").touch(0o600)
    Path(f"{path}-wal").symlink_to(path.with_name("elsewhere"))


def linked_lock(path: Path) -> None:
    path.with_name("elsewhere").touch(0o600)
    Path(f"{path}.lock").symlink_to(path.with_name("elsewhere"))


def rollback_journal(path: Path) -> None:
    made(path)
    Path(f"{path}-journal").touch(0o600)


def directory(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def readable_by_others(path: Path) -> None:
    made(path).chmod(0o640)


def read_only(path: Path) -> None:
    made(path).chmod(0o400)


def newer_format(path: Path) -> None:
    patch(made(path), 60, (layout.FORMAT + 1).to_bytes(4, "big"))


def foreign(path: Path) -> None:
    os.chown(made(path), 65534, 65534)


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (other_database, "another program's SQLite database: name another file"),
    (text_file, "no journal .not an SQLite database.: name another file"),
    (symbolic_link, "is a symbolic link: name the file itself"),
    (dangling_link, "is a symbolic link"),
    (hard_link, "has 2 names .hard links.: remove the others"),
    (linked_log, "device.db-wal beside it is a symbolic link"),
    (linked_lock, "device.db.lock beside it is a symbolic link"),
    (rollback_journal, "device.db-journal is beside it"),
    (directory, "is not a plain file"),
    (pipe, "is not a plain file"),
    (readable_by_others, "is open to others .mode 640., and it holds a token: chmod 600"),
    (read_only, "cannot be written: chmod 600"),
    (newer_format, "format 2 and this version knows formats up to 1: it was written by a newer resilient_ws, use that"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
@pytest.mark.parametrize("damaged", ["raise", "recover"])
def test_refused(path: Path, make: Callable[[Path], None], said: str, damaged: str) -> None:
    """O7, O9 and more: the text says what it is and what to do, and nothing is changed, nor made beside it."""
    make(path)
    before = snapshot(path.parent)
    with pytest.raises(JournalRefused, match=said):
        opened(path, damaged=damaged)
    assert snapshot(path.parent) == before


def snapshot(directory: Path) -> dict[str, object]:
    """Return all that is in a directory but a lock: names, kinds, modes, contents."""
    found: dict[str, object] = {}
    for name in directory.iterdir():
        status = name.lstat()
        content = name.read_bytes() if name.is_file() and not name.is_symlink() else None
        if name.name != "device.db.lock" or name.is_symlink():
            found[name.name] = (status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, content)
    return found


def test_a_file_of_another_user_is_refused(path: Path) -> None:
    """Whoever made it may change it, and read the token."""
    need(IS_ROOT, "root, to make a file of another user")
    foreign(path)
    with pytest.raises(JournalRefused, match="belongs to user 65534, and this is user 0"):
        opened(path)


def test_what_is_not_refused(path: Path) -> None:
    """A journal that is none of these is opened: the refusals above are about what was made there."""
    assert restored_from(made(path)).lanes[0].items == ["one"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It is not made: a typing error would become a place where messages are kept."""
    with pytest.raises(JournalRefused, match=r"there is no directory .*/nowhere: make it first"):
        opened(tmp_path / "nowhere" / "device.db")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    need(IS_ROOT and sys.platform == "linux" and shutil.which("mount") is not None, "root on Linux, to mount")
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_O7_a_read_only_file_system(mounted: Path) -> None:
    """Whether there is a journal on it or not."""
    made(mounted / "device.db")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(JournalRefused, match=r"nothing may be written into .*/mounted: give it write permission"):
        opened(mounted / "device.db")
    with pytest.raises(JournalRefused, match="nothing may be written into"):
        opened(mounted / "new.db")


# -- O6: one at a time ------------------------------------------------------------------------------------------------


def test_O6_two_in_one_process(path: Path) -> None:
    """The second gets an error at once, and the first goes on; when it has closed the file is free."""
    with journal_at(path) as journal:
        with pytest.raises(JournalLocked, match="another Client has it open"):
            opened(path)
        journal.write([accepted(1, "one")], durable=True)
    assert restored_from(path).lanes[0].items == ["one"]


def test_O6_two_clients(path: Path) -> None:
    """The same by the public door: the second Client ends before it has begun."""
    outbox = resilient_ws.Outbox(journal=path)
    first = resilient_ws.connect("ws://127.0.0.1:9/", stream="s", wait=False, outbox=outbox)
    try:
        with pytest.raises(JournalLocked):
            resilient_ws.connect("ws://127.0.0.1:9/", stream="s", wait=False, outbox=outbox)
    finally:
        first.close()
    made(path)


HOLD = """
import sys, time
from resilient_ws.journal import open_journal
from resilient_ws.records import Accepted
journal = open_journal(sys.argv[1], instance="other")
journal.write([Accepted("p", "s", 1, ["of the other"], time.monotonic(), 1)], durable=False)
print("open", flush=True)
sys.stdin.read()
"""


def test_O6_two_processes(path: Path) -> None:
    """The second is refused while the first lives; a SIGKILL of that frees it, with all that was written."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalLocked):
            opened(path)
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert restored_from(path).lanes[0].items == ["of the other"]


def test_a_lock_that_nobody_holds_is_free(path: Path) -> None:
    """Its file stays when a journal is closed, and says nothing."""
    made(path)
    assert Path(f"{path}.lock").exists()
    made(path)


def test_a_dropped_journal_lets_go(path: Path) -> None:
    """One that was never closed is free when nobody refers to it any more."""
    journal = opened(path)
    journal._connection.close()
    del journal
    made(path)


# -- forks ------------------------------------------------------------------------------------------------------------

FORK = """
import os, sys, time
from resilient_ws.journal import open_journal
from resilient_ws.records import Accepted
path = sys.argv[1]
journal = open_journal(path, instance="parent")
write = lambda n: journal.write([Accepted("p", "s", n, ["x" * 100], time.monotonic(), 1)], durable=True)
write(1)
before = {name: open(name, "rb").read() for name in (path, path + "-wal")}
child = os.fork()
if not child:
    try:
        write(2)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    journal.close()
    del journal
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert before == {name: open(name, "rb").read() for name in before}, "the child has changed a file"
write(2)
idle = os.fork()
if not idle:
    os.close(1)
    os.close(2)
    time.sleep(60)
    os._exit(0)
print(idle, flush=True)
os._exit(0)  # as a crash: nothing is closed
"""


def test_O6_a_forked_child_leaves_the_journal_alone(path: Path) -> None:
    """It can write nothing, changes nothing, also when it ends by the book; and it does not keep the lock."""
    need(hasattr(os, "fork"), "fork")
    done = run_python(FORK, path)
    assert done.returncode == 0, done.stderr
    said, idle = done.stdout.splitlines()
    try:
        assert "JournalError" in said
        assert "belongs to the parent process" in said
        assert restored_from(path).lanes[0].items == ["x" * 100] * 2
    finally:
        os.kill(int(idle), signal.SIGKILL)


NAIVE_FORK = """
import os, sqlite3, sys
path = sys.argv[1]
connection = sqlite3.connect(path, isolation_level=None)
connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE t (a)")
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
print(os.path.exists(path + "-wal"), flush=True)
os._exit(0)
"""


def test_a_plain_connection_is_spoiled_by_a_fork(path: Path) -> None:
    """This is why: the child of one that does nothing moves the parent's log into the file, and removes it."""
    need(hasattr(os, "fork"), "fork")
    assert run_python(NAIVE_FORK, path).stdout == "False\n"


# -- names ------------------------------------------------------------------------------------------------------------


def test_what_a_crash_left_of_a_new_file_is_cleared_away(path: Path) -> None:
    """Nothing was in it yet."""
    for side in ("", "-journal", "-wal"):
        Path(f"{places.draft_of(str(path))}{side}").write_text("half")
    made(path)
    assert sorted(files_of(path)) == ["device.db"]


def test_a_second_name_that_a_crash_left_is_removed(path: Path) -> None:
    """A new file has two names for a moment; a crash then is no hard link by somebody else."""
    os.link(made(path), places.draft_of(str(path)))
    assert restored_from(path).lanes[0].items == ["one"]
    assert path.stat().st_nlink == 1


def test_a_draft_that_cannot_be_removed(path: Path) -> None:
    """What is in the way is named."""
    Path(places.draft_of(str(path))).mkdir()
    with pytest.raises(JournalFailed, match="cannot be made"):
        opened(path)


def test_a_file_that_appears_meanwhile_is_not_replaced(path: Path) -> None:
    """Between the look and the new file's name somebody else took the name."""
    path.write_text("precious")
    with pytest.raises(FileExistsError), places.drafted(str(path)) as draft:
        places.put_in_place(draft, str(path))
    assert path.read_text() == "precious"


def test_without_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has none a new journal is renamed, and still replaces nothing."""

    def link(*arguments: object, **settings: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    assert restored_from(made(path)).lanes[0].items == ["one"]
    with pytest.raises(FileExistsError), places.drafted(str(path)) as draft:
        places.put_in_place(draft, str(path))


def test_paths_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What means something in an URI, a pattern or a shell is a name like any other; so is a relative one."""
    monkeypatch.chdir(tmp_path)
    for name in ("a b.db", "a%20b.db", "a?mode=ro.db", "a#b.db", "[a]*.db", "ä.db", "-a.db", "a.db.new"):
        for path in (tmp_path / name, Path(name)):
            with journal_at(path, Clock()) as journal:
                journal.write([accepted(1, name, producer=str(path))], durable=True)
        assert len(restored_from(tmp_path / name).lanes) == 2
    with pytest.raises(JournalError):
        opened(Path("a\0b"))


def test_a_second_name_that_goes_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else who makes the journal removes the second name just now: that is no hard link, but a lock."""
    owner = opened(path)
    os.link(path, places.draft_of(str(path)))
    looked = os.lstat

    def look(name: str) -> os.stat_result:
        if name == places.draft_of(str(path)):
            os.unlink(name)
        return looked(name)

    monkeypatch.setattr(places.os, "lstat", look)
    with pytest.raises(JournalLocked):
        opened(path)
    monkeypatch.undo()
    os.link(path, f"{path}.other")
    with pytest.raises(JournalRefused, match="2 names"):
        opened(path)
    owner.close()


def test_a_path_of_bytes_and_none_at_all(tmp_path: Path) -> None:
    """What ``os`` takes is taken; nothing is not."""
    with contextlib.closing(open_journal(os.fsencode(tmp_path / "j.db"), instance="i")) as journal:
        assert journal.path == str(tmp_path / "j.db")
    with pytest.raises(JournalRefused, match="is empty: name a file"):
        open_journal("", instance="i")
