"""The journal on a failing disk: O1 no room, O2 an error of fsync; by a real small disk, and by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from journal_tools import (
    P,
    Q,
    accepted,
    files_of,
    handled,
    journal_at,
    need,
    opened,
    quick_directory,
    restored_from,
    run_python,
    strace,
)

from resilient_ws.exceptions import JournalFull
from resilient_ws.journal import Journal, writing
from resilient_ws.records import Settled

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
NEW = "import sys; sys.path[:0] = " + repr([str(Path(__file__).parent), str(Path(__file__).parent.parent)])


# -- O1: no room ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_directory() as place:
        yield place


@attrs.frozen
class SmallDisk:
    """A file system of 400 KiB, and what fills it up."""

    place: Path

    @property
    def journal(self) -> Path:
        return self.place / "device.db"

    def fill(self, free: int = 0) -> None:
        """Leave so many bytes."""
        with (self.place / "ballast").open("ab") as file:
            status = os.statvfs(self.place)
            file.write(bytes(max(0, status.f_bavail * status.f_frsize - free)))

    def make_room(self) -> None:
        (self.place / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    need(IS_ROOT and sys.platform == "linux" and shutil.which("mount") is not None, "root on Linux, to mount")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=700", "tmpfs", str(place)], check=True)
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_O1_a_full_disk_accepts_nothing_and_loses_nothing(disk: SmallDisk) -> None:
    """What was accepted is there, what was refused is not, not even a part of it; with room again it goes on."""
    with journal_at(disk.journal) as journal:
        disk.fill(free=250_000)
        with pytest.raises(JournalFull, match=r"full: nothing of this was accepted.*make room and try again"):
            write_on(journal, "x" * 1000, durable=True)
        following = journal._contents.lanes[P, "s"].next
        assert following > 20
        for _ in range(3):
            with pytest.raises(JournalFull):
                journal.write([accepted(following, *["y" * 1000] * 300), handled("a", 1)], durable=True)
        known = copy_of(disk).lanes[0].items
        assert known == ["x" * 1000] * (following - 1)
        disk.make_room()
        journal.write([Settled(P, "s", following - 2), accepted(following, "z" * 1000)], durable=True)
    known = restored_from(disk.journal).lanes[0].items
    assert known == ["x" * 1000, "z" * 1000]


def write_on(journal: Journal, payload: str, *, durable: bool) -> None:
    """Write messages until there is an error."""
    for number in range(1, 1000):
        journal.write([accepted(number, payload), handled("a", number)], durable=durable)


def copy_of(disk: SmallDisk) -> Any:
    """Return what a restart elsewhere would know."""
    place = disk.place.parent / "elsewhere"
    place.mkdir()
    for name in disk.place.glob("device.db*"):
        shutil.copy2(name, place)
    known = restored_from(place / "device.db")
    shutil.rmtree(place)
    return known


def test_O1_room_that_comes_back_is_used(disk: SmallDisk) -> None:
    """Whatever else filled the disk, the journal works again when that is gone, and closes well."""
    with journal_at(disk.journal) as journal:
        journal.write([accepted(1, "one")], durable=True)
        disk.fill()
        with pytest.raises(JournalFull):
            journal.write([accepted(2, *["x" * 5000] * 9)], durable=True)
        disk.make_room()
        journal.write([accepted(2, "two")], durable=True)
    assert restored_from(disk.journal).lanes[0].items == ["one", "two"]
    assert not Path(f"{disk.journal}-wal").exists()


def test_O1_a_journal_is_closed_and_opened_on_a_full_disk(disk: SmallDisk) -> None:
    """What does not fit into the file stays in the log; where an opening finds no room it changes nothing."""
    journal = opened(disk.journal)
    for number in range(1, 13):
        journal.write([accepted(number, "x" * 3000)], durable=True)
    disk.fill()
    journal.close()
    before = files_of(disk.journal)
    assert len(before["device.db-wal"]) > 50_000
    with pytest.raises(JournalFull):
        opened(disk.journal)
    assert files_of(disk.journal)["device.db"] == before["device.db"]
    assert copy_of(disk).lanes[0].items == ["x" * 3000] * 12
    disk.make_room()
    assert restored_from(disk.journal).lanes[0].items == ["x" * 3000] * 12


def test_O1_no_room_for_a_new_journal(disk: SmallDisk) -> None:
    """Nothing is left of the attempt."""
    disk.fill(free=4096)
    with pytest.raises(JournalFull, match="its disk is full: nothing was changed"):
        opened(disk.journal)
    assert {name.name for name in disk.place.iterdir()} == {"ballast", "device.db.lock"}


def test_O1_where_the_file_cannot_grow_the_log_does(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that finds no room is no error of a write that found some; it is made up for later."""
    monkeypatch.setattr(writing, "CHECKPOINT_PAGES", 20)
    with journal_at(disk.journal) as journal:
        with pytest.raises(JournalFull):
            write_on(journal, "x" * 3000, durable=False)
        count = journal._contents.lanes[P, "s"].next - 1
        assert count > 30
    assert copy_of(disk).lanes[0].items == ["x" * 3000] * count


# -- O2: errors, by strace --------------------------------------------------------------------------------------------

ACT = f"""
{NEW}
from pathlib import Path
from journal_tools import accepted, handled, opened
from resilient_ws.journal import writing
writing.CHECKPOINT_PAGES = int(sys.argv[2])
from resilient_ws.exceptions import JournalError
def say(*words):
    print(*words, flush=True)
path = Path(sys.argv[1])
def write(journal, number, durable):
    try:
        journal.write([accepted(number, "x" * 2000), handled("a", number)], durable=durable)
        say("written", number, durable)
        return True
    except JournalError as error:
        say(type(error).__name__, error)
        return False
try:
    journal = opened(path)
except JournalError as error:
    say("opening:", type(error).__name__, error)
    sys.exit()
say("opened")
going = all(write(journal, number, number % 3 == 0) for number in range(1, 19))
if not going:
    say("again:", [write(journal, number, True) for number in range(100, 103)])
try:
    journal.close()
    say("closed")
except JournalError as error:
    say("closing:", type(error).__name__, error)
"""
SYNC = re.compile(r"^\d+ +(fsync|fdatasync)\((\d+)<(.*?)>\) += (-?\d+)", re.M)


def acted(path: Path, *, fault: str | None, pages: int = 30) -> tuple[list[str], str]:
    """Let a process write, close, and meet a fault; returns what it said, and its calls."""
    log = path.with_suffix(".calls")
    what = ["-e", "trace=fsync,fdatasync,pwrite64,write,ftruncate,unlink"]
    inject = ["-e", f"inject={fault}"] if fault else []
    need(sys.platform == "linux", "Linux")
    done = run_python(ACT, path, pages, under=strace("-y", "-s", "8", "-o", str(log), *what, *inject))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), log.read_text()


def syncs(calls: str) -> list[tuple[str, bool]]:
    """Return (file, whether it went well) of each fsync."""
    return [(Path(name).name, result == "0") for _, _, name, result in SYNC.findall(calls)]


def test_fsyncs_are_what_is_promised(tmp_path: Path) -> None:
    """A durable write makes one of the log, the others none; a checkpoint one of the log and one of the file."""
    said, calls = acted(tmp_path / "j.db", fault=None, pages=100_000)
    assert said[0] == "opened"
    assert said[-1] == "closed"
    log = [name for name, _ in syncs(calls)]
    durable = sum(line.startswith("written") and line.endswith("True") for line in said)
    assert durable == 6
    # The log's header and the opening's own transaction, the durable writes, the checkpoint that closes.
    assert log.count("j.db-wal") == 2 + durable + 1
    assert log.count("j.db.new") == 1
    assert log.count("j.db") == 1


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_O2_an_error_of_fsync_stops_for_good(tmp_path: Path, call: str) -> None:
    """At whichever it comes: no later one is made, nothing is called durable, and what was before is there."""
    _, calls = acted(tmp_path / "none.db", fault=None)
    count = sum(name == call for name, *_ in SYNC.findall(calls))
    seen = []
    for number in range(1, count + 1):
        path = tmp_path / f"{number}.db"
        said, calls = acted(path, fault=f"{call}:error=EIO:when={number}")
        results = syncs(calls)
        failed = [name for name, is_well in results if not is_well]
        assert len(failed) == 1
        if failed[0] == tmp_path.name:  # the directory, when all is done
            continue
        after = results[results.index((failed[0], False)) + 1 :]
        assert after == [], f"{number}: {after} after {failed}"
        assert any("its disk failed" in line or "cannot be made" in line for line in said), said
        assert "closed" not in said or said[-2].startswith("again: [False, False, False]")
        seen.append(failed[0].removeprefix(f"{number}."))
        check_kept(path, said)
    if call == "fdatasync":
        assert {"db-wal", "db"} <= set(seen), seen


def check_kept(path: Path, said: list[str]) -> None:
    """What was said to be written is there, in order; of what failed any part may be."""
    written = sum(line.startswith("written") for line in said)
    if not path.exists():
        assert not written
        return
    lanes = restored_from(path).lanes
    items = lanes[0].items if lanes else []
    assert written <= len(items) <= written + 1


def test_O2_the_check_sees_a_retried_fsync(tmp_path: Path) -> None:
    """SQLite's own checkpoint swallows the error and tries again later: what the journal must not do."""
    script = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("PRAGMA synchronous = NORMAL")
connection.execute("PRAGMA wal_autocheckpoint = 2")
connection.execute("CREATE TABLE t (a)")
for number in range(9):
    connection.execute("INSERT INTO t VALUES (1)")
print("no error")
"""
    log = tmp_path / "calls"
    under = strace("-y", "-o", str(log), "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync:error=EIO:when=4")
    done = run_python(script, tmp_path / "bare.db", under=under)
    assert done.stdout == "no error\n"
    results = [is_well for _, is_well in syncs(log.read_text())]
    assert False in results
    assert True in results[results.index(False) :]


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "fault", ["pwrite64:error=EIO", "pwrite64:error=ENOSPC", "ftruncate:error=EIO", "unlink:error=EIO"]
)
def test_O1_O2_any_call_may_fail(tmp_path: Path, fault: str) -> None:
    """Nothing that was said to be written is lost, whichever write, cut or removal has an error, and which one."""
    _, calls = acted(tmp_path / "none.db", fault=None)
    name = fault.partition(":")[0]
    count = len(re.findall(rf"^\d+ +{name}\(", calls, re.M))
    step = max(1, count // 12)
    errors = 0
    for number in range(1, count + 1, step):
        path = tmp_path / f"{number}.db"
        said, _ = acted(path, fault=f"{fault}:when={number}")
        errors += any("Journal" in line for line in said)
        check_kept(path, said)
        if "ENOSPC" in fault:
            assert not any("JournalFailed" in line for line in said), said
    assert errors or name in ("unlink", "ftruncate")


def test_a_journal_that_failed_can_be_opened_again(tmp_path: Path) -> None:
    """By a new process at once, with all that was safe; and it refuses to go on itself."""
    path = tmp_path / "j.db"
    said, _ = acted(path, fault="fdatasync:error=EIO:when=6")
    assert "again: [False, False, False]" in said
    assert sum("JournalFailed" in line for line in said) == 4
    with journal_at(path) as journal:
        assert journal.restored.lanes[0].producer == P
        journal.write([accepted(1, "on", producer=Q)], durable=True)


REOPEN = f"""
{NEW}
from pathlib import Path
from journal_tools import accepted, opened
from resilient_ws.exceptions import JournalError
journal = opened(Path(sys.argv[1]))
journal.write([accepted(1, "one")], durable=True)
try:
    journal.write([accepted(2, "two")], durable=True)
except JournalError:
    journal.close()
    try:
        again = opened(Path(sys.argv[1]))
        print(again.restored.lanes[0].items[0])
        again.close()
    except JournalError as error:
        print(error)
"""


def test_a_journal_that_failed_in_this_process(tmp_path: Path) -> None:
    """It is opened again by the same process too; before Python 3.12 SQLite cannot be told to let go, which is said."""
    log = tmp_path / "calls"
    under = strace("-y", "-o", str(log), "-e", "trace=fdatasync,fsync")
    run_python(REOPEN, tmp_path / "whole.db", under=under)
    calls = [name for name, *_ in SYNC.findall(log.read_text())]
    when = calls.count("fdatasync") - 2  # the last two are of closing
    done = run_python(REOPEN, tmp_path / "j.db", under=[*under, "-e", f"inject=fdatasync:error=EIO:when={when}"])
    if sys.version_info >= (3, 12):
        assert done.stdout == "one\n"
    else:
        assert "its disk failed in this process: close that program, or start this one again" in done.stdout
