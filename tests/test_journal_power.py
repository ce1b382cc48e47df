"""O8 and more: after a SIGKILL, or a power loss, at any moment a journal knows what it promised (rule 16)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import attrs
import pytest
from journal_disk import Call, Disk, traced
from journal_tools import (
    Model,
    P,
    accepted,
    copied,
    differences,
    files_of,
    flip,
    handled,
    opened,
    rich,
    welcomed,
)

from resilient_ws.exceptions import JournalCorrupt
from resilient_ws.journal import writing
from resilient_ws.records import Forgotten, Record, Restored, Settled, Void, Withdrawn

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where fsync costs nothing
ACT = (
    f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]}; "
    "import test_journal_power as it; it.act(sys.argv[1], *map(int, sys.argv[2:]))"
)
RECOVER = f"{ACT.rpartition('; ')[0]}; it.opened(sys.argv[1], damaged='recover').close()"
Step = tuple[list[Record], bool]


def steps(seed: int, count: int = 10) -> Iterator[Step]:
    """Yield what one life writes: (records, durable)."""
    rng = Random(seed)
    first = following = 1
    welcomes = 0
    for number in range(count):
        records: list[Record] = []
        if number % 5 == 2:
            welcomes += 1
            records.append(welcomed(welcomes))
        payloads = [rng.randbytes(rng.choice([0, 30, 100, 5000])) for _ in range(rng.choice([1, 1, 3, 40]))]
        records.append(accepted(following, *payloads, welcome=welcomes + 1))
        following += len(payloads)
        if rng.random() < 0.3:
            records.append(Withdrawn(P, "s", (following - 1,), "too_large"))
        if rng.random() < 0.5:
            records.append(handled(f"in/{rng.randint(1, 9)}", number))
        if rng.random() < 0.2:
            records.append(Forgotten("in/1"))
        if rng.random() < 0.6:
            first = rng.randint(first, following - 1)
            records.append(Settled(P, "s", first))
        yield records, rng.random() < 0.5


def act(path: str, seed: int, first: int, following: int) -> None:
    """Live a part of a life in a process of its own, and say on stdout what has been promised; the last one closes."""
    writing.CHECKPOINT_PAGES = 25
    journal = opened(Path(path), instance=f"life {first}")
    os.write(1, b"opened")
    parts = list(steps(seed))
    for number, (records, durable) in enumerate(parts[first:following], first):
        os.write(1, b"begin %d" % number)
        journal.write(records, durable=durable)
        os.write(1, b"end %d %d" % (number, durable))
    if following < len(parts):
        os._exit(0)
    journal.close()
    os.write(1, b"closed")


@attrs.define
class Promise:
    """What was promised so far: numbers of steps, -1 for none."""

    begun: int = -1
    written: int = -1
    safe: int = -1

    def hear(self, said: bytes) -> None:
        """Take note of what the process said."""
        word, *numbers = said.split()
        if word == b"begin":
            self.begun = int(numbers[0])
        elif word == b"end":
            self.written = int(numbers[0])
            self.safe = self.written if numbers[1] == b"1" else self.safe
        else:  # opening makes safe what there is, and so does closing
            self.safe = self.written


def models(seed: int) -> list[Model]:
    """Return what a journal should know before each step of a life, and at its end."""
    found = []
    for count in range(len(list(steps(seed))) + 1):
        model = Model()
        for records, _ in list(steps(seed))[:count]:
            for record in records:
                model.take(record)
        found.append(model)
    return found


def what_is_wrong(
    files: dict[str, bytes], lowest: int, highest: int, known: Sequence[Model], twice: bool
) -> str | None:
    """Open what a crash has left; say what is wrong with it, None where it is as after one of the steps allowed."""
    with laid_out(files) as path:
        for instance in ("first", "second")[: 1 + twice]:
            try:
                journal = opened(path, instance=instance)
            except Exception as error:
                return f"{type(error).__name__}: {error}"
            journal.close()
            off = [differences(known[step + 1], journal.restored) for step in range(lowest, highest + 1)]
            if all(off):
                return f"{instance} opening: {off[0]}"
    return None


@contextlib.contextmanager
def laid_out(files: dict[str, bytes]) -> Iterator[Path]:
    """Lay files out in a directory of their own; yield the path of the journal."""
    with tempfile.TemporaryDirectory(prefix="resilient-ws-journal-", dir=IN_MEMORY) as directory:
        for name, content in files.items():
            file = Path(directory, name)
            file.write_bytes(content)
            file.chmod(0o600)
        yield Path(directory, "j.db")


def life(tmp_path: Path, seed: int) -> list[Call]:
    """Let two processes, of which the first ends without a word, live one life; returns what they did."""
    (tmp_path / "d").mkdir(mode=0o700)
    count = len(list(steps(seed)))
    end = Random(seed).randrange(1, count)
    place, log = tmp_path / "d" / "j.db", tmp_path / "calls"
    parts = ((0, end), (end, count))
    return [call for part in parts for call in traced(ACT, place, seed, *part, log=log)]


def crashes(directory: Path, calls: Sequence[Call], seed: int) -> Iterator[str]:
    """Crash after every call, once by SIGKILL and once by a power loss; yield what is wrong then."""
    disk, known, rng, promise = Disk(str(directory)), models(seed), Random(seed), Promise()
    for number, call in enumerate(calls):
        if call.name == "said":
            promise.hear(call.data)
            continue
        disk.do(call)
        left = [("killed", promise.written, disk.after_kill())]
        left.append(("power lost", promise.safe, disk.after_power_loss(rng, rng.choice([0.0, 0.5, 0.9, 0.99]))))
        for what, lowest, files in left:
            found = what_is_wrong(files, lowest, promise.begun, known, twice=number % 10 == 0)
            if found:
                yield f"{what} after call {number}, {call.name} {call.files}: {found}"


# More of them take some 15 s each: RESILIENT_WS_POWER_SEEDS=100:200.
SEEDS = range(*map(int, os.environ.get("RESILIENT_WS_POWER_SEEDS", "1:2").split(":")))


@pytest.mark.faults
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.timeout(300)
def test_a_journal_knows_what_it_promised_whenever_the_process_or_the_power_ends(tmp_path: Path, seed: int) -> None:
    """After any call of a life, from creation to closing: all that was written, or all that was durable."""
    calls = life(tmp_path, seed)
    assert sum(call.name == "write" for call in calls) > 100
    assert list(crashes(tmp_path / "d", calls, seed)) == []


def test_the_model_of_the_disk_is_right(tmp_path: Path) -> None:
    """Control: all calls done again make the same files as those that the process has left."""
    calls = life(tmp_path, 1)
    disk = Disk(str(tmp_path / "d"))
    for call in calls:
        disk.do(call)
    left = {file.name: file.read_bytes() for file in (tmp_path / "d").iterdir()}
    assert disk.after_kill() == left
    assert {"j.db", "j.db.lock"} == left.keys()
    assert disk.after_power_loss(Random(1), 0.0) == left  # it was closed


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_faults_of_a_disk_are_found(tmp_path: Path) -> None:
    """Control: a disk that does not do what fsync asks of it, and a process that does not write all."""
    calls = life(tmp_path, 1)
    log = str(tmp_path / "d" / "j.db-wal")
    lying = [call for call in calls if call != Call("sync", (log,))]
    assert any(what.startswith("power lost") for what in crashes(tmp_path / "d", lying, 1))
    place = next(number for number, call in enumerate(calls) if call.data == b"begin 5")
    written = next(number for number in range(place, len(calls)) if calls[number].name == "write")
    forgetful = calls[:written] + calls[written + 1 :]
    assert any(what.startswith("killed") for what in crashes(tmp_path / "d", forgetful, 1))


# -- recovery ---------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_recovery_may_be_interrupted_at_any_call(tmp_path: Path) -> None:
    """What was readable is there in the end, and so is the damaged file, whenever the process or the power ends."""
    source = tmp_path / "d" / "j.db"
    source.parent.mkdir(mode=0o700)
    rich(source, is_closed=False)
    flip(source, source.read_bytes().index(b"text 30"))
    before = files_of(source)
    disk = Disk(str(source.parent))
    disk.load(source.parent)
    expected = tried(before)
    assert Void("lost") in expected[0].lanes[0].items
    with pytest.raises(JournalCorrupt):
        opened(copied(source, tmp_path / "copy"))
    calls = traced(RECOVER, source, log=tmp_path / "calls")
    rng = Random(1)
    seen = set()
    for call in calls:
        disk.do(call)
        for files in (disk.after_kill(), disk.after_power_loss(rng, rng.choice([0.0, 0.5, 1.0]))):
            restored, names = tried(files)
            assert attrs.evolve(restored, instances=expected[0].instances) == expected[0], call
            assert all(content in names.values() for content in before.values()), call
            seen.add(tuple(sorted(files)))
    assert len(seen) > 4  # in the middle of it, too


def tried(files: dict[str, bytes]) -> tuple[Restored, dict[str, bytes]]:
    """Recover what a crash has left; returns what is known then, and the files."""
    with laid_out(files) as path:
        journal = opened(path, damaged="recover")
        journal.close()
        return journal.restored, files_of(path)
