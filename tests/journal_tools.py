"""What the tests of the journal share: clocks, a model of what a journal keeps, copies of its files, and damage."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from resilient_ws.exceptions import JournalCorrupt, JournalRefused
from resilient_ws.frames import Position
from resilient_ws.journal import Journal, open_journal
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Identity,
    Mark,
    Record,
    Restored,
    RestoredLane,
    SessionOver,
    Settled,
    Void,
    Welcomed,
    Withdrawn,
)

P, Q = "a" * 32, "b" * 32
TOKEN = "canary-token"
WHO = Identity("session", TOKEN, 1)
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@attrs.define
class Clock:
    """Time that moves when it is told to; ``wall`` and ``now`` may be moved apart."""

    now: float = 1000.0
    wall: float = 1_700_000_000.0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


def opened(path: Path, clock: Clock | None = None, **settings: Any) -> Journal:
    """Open a journal by a clock that stands still."""
    clock = clock or Clock()
    settings = {"instance": "instance", "clock": lambda: clock.now, "wall": lambda: clock.wall, **settings}
    return open_journal(str(path), **settings)


@contextlib.contextmanager
def journal_at(path: Path, clock: Clock | None = None, **settings: Any) -> Iterator[Journal]:
    """Open a journal, and close it in the end."""
    journal = opened(path, clock, **settings)
    try:
        yield journal
    finally:
        journal.close()


def restored_from(path: Path, clock: Clock | None = None, **settings: Any) -> Restored:
    """Return what a restart knows."""
    with journal_at(path, clock, **settings) as journal:
        return journal.restored


def accepted(first: int, *payloads: Any, producer: str = P, stream: str = "s", **settings: Any) -> Accepted:
    at, welcome = settings.get("at", 1000.0), settings.get("welcome", 1)
    return Accepted(producer, stream, first, list(payloads), at, welcome)


def handled(stream: str, offset: int) -> Handled:
    return Handled(stream, Position("epoch", offset), offset, f"cursor {offset}")


def welcomed(number: int, *, at: float = 1000.0, incarnation: str = "store") -> Welcomed:
    return Welcomed(number, at, incarnation, attrs.evolve(WHO, generation=number))


# -- the model --------------------------------------------------------------------------------------------------------


@attrs.define
class Model:
    """What a journal should know; times are those of the one clock, which nobody turns."""

    identity: Identity | None = None
    positions: dict[str, Handled] = attrs.field(factory=dict)
    lanes: dict[tuple[str, str], dict[int, tuple[Any, float, int]]] = attrs.field(factory=dict)
    welcomes: dict[int, Welcomed] = attrs.field(factory=dict)

    def take(self, record: Record) -> None:
        if isinstance(record, Accepted):
            lane = self.lanes.setdefault((record.producer, record.stream), {})
            for seq, payload in enumerate(record.payloads, record.first):
                lane[seq] = (payload, record.at, record.welcome)
        elif isinstance(record, Settled):
            key = (record.producer, record.stream)
            self.lanes[key] = {seq: row for seq, row in self.lanes.get(key, {}).items() if seq > record.seq}
        elif isinstance(record, Withdrawn):
            lane = self.lanes.get((record.producer, record.stream), {})
            lane.update({seq: (Void(record.code), *lane[seq][1:]) for seq in record.seqs if seq in lane})
        elif isinstance(record, Handled):
            self.positions[record.stream] = record
        elif isinstance(record, Forgotten):
            self.positions.pop(record.stream, None)
        elif isinstance(record, Welcomed):
            self.welcomes[record.number] = record
            self.identity = record.identity
        else:
            assert isinstance(record, SessionOver)
            self.identity = None

    def lane(self, key: tuple[str, str]) -> dict[int, tuple[Any, float, float | None, str | None]]:
        """Return {seq: (item, birth, can have been written since, under which incarnation)}."""
        found = {}
        for seq, (item, at, welcome) in self.lanes[key].items():
            number = min((number for number in self.welcomes if number >= welcome), default=0)
            first = self.welcomes.get(number)
            found[seq] = (item, at, None if first is None else max(at, first.at), first and first.incarnation)
        return found


def spread_out(lane: RestoredLane) -> dict[int, tuple[Any, float, float | None, str | None]]:
    """Say of every message what the pairs and marks of its lane say."""
    found = {}
    for seq, item in enumerate(lane.items, lane.first):
        birth = next(at for upto, at in lane.births if seq <= upto)
        mark: Mark | None = next((mark for mark in lane.marks if seq <= mark.seq), None)
        found[seq] = (item, birth, mark and mark.at, mark and mark.incarnation)
    return found


def differences(model: Model, restored: Restored) -> list[str]:
    """Say where a journal knows something else than it should; times may be off by what neighbours share."""
    found = []
    expected = {key: model.lane(key) for key, lane in model.lanes.items() if lane}
    if [(lane.producer, lane.stream) for lane in restored.lanes] != list(expected):
        found.append(f"lanes: {[(lane.producer[:2], lane.stream) for lane in restored.lanes]}, not {list(expected)}")
    for lane in restored.lanes:
        there, wanted = spread_out(lane), expected.get((lane.producer, lane.stream), {})
        if [row[0] for row in there.values()] != [row[0] for row in wanted.values()] or there.keys() != wanted.keys():
            found.append(f"{lane.stream}: {there}, not {wanted}")
        elif not all(_is_near(there[seq], wanted[seq]) for seq in there):
            found.append(f"times of {lane.stream}: {there}, not {wanted}")
    for name, value in (("identity", model.identity), ("positions", model.positions)):
        if getattr(restored, name) != value:
            found.append(f"{name}: {getattr(restored, name)}, not {value}")
    if restored.welcomes != max(model.welcomes, default=0):
        found.append(f"welcomes: {restored.welcomes}")
    return found


def _is_near(there: Any, wanted: Any) -> bool:
    if there[3] != wanted[3] or (there[2] is None) is not (wanted[2] is None):
        return False
    pairs = [(there[1], wanted[1]), (there[2] or 0.0, wanted[2] or 0.0)]
    return all(-1.01 <= one - other <= 0.002 for one, other in pairs)


# -- files ------------------------------------------------------------------------------------------------------------


def copied(path: Path, place: Path) -> Path:
    """Copy a journal as a SIGKILL would leave it: the file and its log, nothing else."""
    place.mkdir()
    for name in (path, Path(f"{path}-wal")):
        if name.exists():
            shutil.copy2(name, place / name.name)
    return place / path.name


def files_of(path: Path) -> dict[str, bytes]:
    """Return the bytes of the file and of all that is beside it, the lock left out."""
    return {name.name: name.read_bytes() for name in sorted(path.parent.iterdir()) if not name.name.endswith(".lock")}


def abandoned(path: Path, write: Callable[[Journal], None]) -> None:
    """Have a journal at ``path`` as a SIGKILL leaves it after ``write``."""
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        with journal_at(Path(place, path.name)) as journal:
            write(journal)
            copy = copied(Path(place, path.name), Path(place, "copy"))
        for name in copy.parent.iterdir():
            name.rename(path.parent / name.name)


def flip(path: Path, offset: int, bits: int = 0x01) -> None:
    """Flip bits of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def rich(path: Path, *, is_closed: bool) -> Restored:
    """Make a journal with something of everything in it, closed, or as a SIGKILL leaves it with a log."""
    abandoned(path, lambda journal: _enrich(journal, is_closed=is_closed))
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        return restored_from(copied(path, Path(place, "copy")))


def _enrich(journal: Journal, *, is_closed: bool) -> None:
    journal.write([welcomed(1), accepted(1, *(f"text {n} " * 20 for n in range(60)))], durable=True)
    journal.write([accepted(61, b"bytes", "x" * 9000), accepted(1, "other", stream="t")], durable=True)
    journal.write([handled(f"in/{n}", n) for n in range(20)], durable=True)
    journal.write([Settled(P, "s", 3), Withdrawn(P, "s", (5, 7), "dropped"), Forgotten("in/3")], durable=True)
    if not is_closed:
        journal._checkpoint("PASSIVE")
    journal.write([welcomed(2), accepted(63, "later", welcome=2), handled("in/4", 9)], durable=True)
    journal.write([accepted(64, *(f"more {n}" for n in range(40)), welcome=2), Settled(P, "s", 4)], durable=True)
    if is_closed:
        journal.close()


def said_of(path: Path, expected: Restored) -> str:
    """
    Open a damaged journal: ``whole`` where it knows the same, ``noted`` where it says that something is missing.

    ``corrupt`` and ``refused`` also say that nothing was changed; ``wrong`` is what must not be.
    """
    before = files_of(path)
    try:
        journal = opened(path, instance="looking")
    except (JournalCorrupt, JournalRefused) as error:
        assert files_of(path) == before, "a refused file was changed"
        return "corrupt" if isinstance(error, JournalCorrupt) else "refused"
    journal.close()
    known = attrs.evolve(journal.restored, instances=expected.instances)
    if known == expected:
        return "whole"
    return "noted" if journal.opened.notes else "wrong"


@contextlib.contextmanager
def quick_directory() -> Iterator[Path]:
    """Yield a directory that goes away again, in memory where there is such a place: there an fsync costs nothing."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="resilient-ws-", dir=IN_MEMORY) as place:
        tempfile.tempdir = IN_MEMORY  # Python 3.10 looks at a copy
        try:
            yield Path(place)
        finally:
            tempfile.tempdir = before


# -- other processes --------------------------------------------------------------------------------------------------


def run_python(script: str, *arguments: Any, under: Sequence[str] = (), **settings: Any) -> Any:
    """Run a script in another process, if need be under a tracer; returns what came of it."""
    command = [*under, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, **settings)


def need(is_there: bool, what: str) -> None:
    """Skip a test where the machine lacks what it needs; where tests run for the project that is a failure."""
    if is_there:
        return
    if os.environ.get("CI"):
        pytest.fail(f"this machine lacks what the test needs: {what}")
    pytest.skip(what)


def strace(*options: str) -> list[str]:
    """Return the command that runs another one under strace, which must be there."""
    need(shutil.which("strace") is not None, "strace")
    return ["strace", "-f", "-qq", "--seccomp-bpf", *options]
