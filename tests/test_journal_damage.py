"""The journal on a damaged disk: cut off, flipped, torn, rows lost; never a wrong state, and not a byte changed."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from journal_tools import (
    P,
    Q,
    abandoned,
    accepted,
    copied,
    files_of,
    flip,
    handled,
    journal_at,
    opened,
    quick_directory,
    restored_from,
    rich,
    said_of,
    welcomed,
)

from resilient_ws.exceptions import JournalCorrupt
from resilient_ws.journal import Journal, layout, pages, wal
from resilient_ws.journal.layout import PAGE
from resilient_ws.records import Mark, Restored, Settled, Void

EVERY_BYTE = "RESILIENT_WS_JOURNAL_EVERY_BYTE"
"""Set it, and a byte is flipped at every place, not at some of each page (some minutes)."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_directory() as place:
        yield place


def log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


# -- O4: flipped ------------------------------------------------------------------------------------------------------


def places(size: int, dice: random.Random) -> Iterator[int]:
    """Yield places in a file: all of its header, and of each page its first bytes and some others."""
    if os.environ.get(EVERY_BYTE):
        yield from range(size)
        return
    yield from range(100)
    yield from range(min(PAGE, size) - 270, min(PAGE, size), 3)  # the schema, which SQLite quotes in its errors
    for page in range(0, size, PAGE):
        yield from range(page, page + 16)
        yield from (page + dice.randrange(16, PAGE) for _ in range(24))


@pytest.mark.parametrize("is_closed", [True, False])
def test_O4_a_flipped_byte_in_the_file(path: Path, tmp_path: Path, *, is_closed: bool) -> None:
    """What is read is what was written, or the journal is refused, and then not a byte of it is changed."""
    expected = rich(path, is_closed=is_closed)
    assert said_of(Path(copied(path, tmp_path / "whole")), expected) == "whole"
    dice = random.Random(4)
    seen: Counter[str] = Counter()
    for place in places(path.stat().st_size, dice):
        copy = copied(path, tmp_path / "copy")
        flip(copy, place, dice.randrange(1, 256))
        said = said_of(copy, expected)
        seen[said] += 1
        assert said in ("whole", "corrupt", "refused"), place
        shutil.rmtree(copy.parent)
    assert seen["corrupt"] > 50
    assert seen["whole"]  # what is in no row: free room, pages that the log has anew


def test_O4_a_flipped_byte_in_the_log(path: Path, tmp_path: Path) -> None:
    """
    The same, though SQLite would read an older state without a word.

    In the last transaction a damaged word may be one that a power loss kept from the disk: it is put right.
    """
    expected = rich(path, is_closed=False)
    log = log_of(path).read_bytes()
    used = wal.HEADER + wal.scan(log).frames * wal.FRAME
    last = wal.HEADER + wal.scan(log[: used - 1]).frames * wal.FRAME
    dice = random.Random(5)
    seen = []
    for place in places(used, dice):
        if place >= used:
            continue
        copy = copied(path, tmp_path / "copy")
        flip(log_of(copy), place, dice.randrange(1, 256))
        said = said_of(copy, expected)
        assert said in (("corrupt",) if place < last else ("corrupt", "whole")), place
        seen.append((place < last, said))
        shutil.rmtree(copy.parent)
    assert set(seen) == {(True, "corrupt"), (False, "corrupt"), (False, "whole")}


def test_a_word_that_was_put_right_is_told(path: Path) -> None:
    """It is a note, the log has the word again, and is then as any other."""
    expected = rich(path, is_closed=False)
    log = log_of(path).read_bytes()
    used = wal.HEADER + wal.scan(log).frames * wal.FRAME
    flip(log_of(path), used - 1000)
    journal = opened(path, instance="looking")
    assert log_of(path).read_bytes()[:used] == log[:used]
    assert "which: nothing is missing" in journal.opened.notes[0]
    assert attrs.evolve(journal.restored, instances=expected.instances) == expected
    journal.close()
    with journal_at(path) as again:
        assert again.opened.notes == ()


def test_the_verdict_sees_a_wrong_state(path: Path, tmp_path: Path) -> None:
    """A flipped payload whose check sum fits, as if there were none, is called wrong."""
    expected = rich(path, is_closed=True)
    data = path.read_bytes()
    place = data.index(b"more 7")
    row = next(row for row in _rows(data) if len(row) == 3 and b"more 7" in row[1] and row[1].endswith(b"more 7"))
    other = layout.message_rows(row[0], [row[1].replace(b"more 7", b"more 8")])[0]
    damaged = data[:place] + b"more 8" + data[place + 6 :]
    for size in (4, 6, 8):
        old = row[2].to_bytes(size, "big")
        if old in damaged:
            damaged = damaged.replace(old, other[2].to_bytes(size, "big"))
            break
    path.write_bytes(damaged)
    assert said_of(path, expected) == "wrong"


def _rows(data: bytes) -> list[tuple[int, bytes, int]]:
    return pages.split(pages.rows(data))[1]


# -- O3: torn ---------------------------------------------------------------------------------------------------------


def lengths(size: int, step: int) -> Iterator[int]:
    """Yield lengths to cut a file to: every page, around it, and some in between."""
    for page in range(0, size, step):
        yield from (page + extra for extra in (0, 1, 8, 32, 100, step // 2, step - 1) if page + extra < size)


def test_O3_a_file_cut_off_anywhere(path: Path, tmp_path: Path) -> None:
    """A database without its end is corrupt: what it held was not only the newest."""
    expected = rich(path, is_closed=True)
    seen: Counter[str] = Counter()
    for length in lengths(path.stat().st_size, PAGE):
        copy = copied(path, tmp_path / "copy")
        os.truncate(copy, length)
        said = said_of(copy, expected)
        seen[said] += 1
        assert said == ("corrupt" if length else "noted"), length  # O5: an empty one is a new one
        shutil.rmtree(copy.parent)
    assert seen["corrupt"] > 20


def test_O3_a_log_cut_off_anywhere(path: Path, tmp_path: Path) -> None:
    """What is read is the state after one of the transactions, and the longer the log the later the state."""
    place = tmp_path / "states"
    place.mkdir()
    journal = opened(place / "device.db")
    states: list[Restored] = []
    for number in range(1, 12):
        group = [accepted(number * 10, *["x" * 400] * 10), handled("a", number), Settled(P, "s", number * 10 + 3)]
        journal.write(group if number % 3 else [welcomed(number), *group], durable=True)
        states.append(_state(copied(place / "device.db", tmp_path / f"state{number}")))
    source = copied(place / "device.db", tmp_path / "source")
    journal.close()
    reached = [-1]
    for length in lengths(log_of(source).stat().st_size, wal.FRAME):
        copy = copied(source, tmp_path / "copy")
        os.truncate(log_of(copy), length)
        state = _state(copy)
        reached.append(states.index(state) if state.lanes else -1)
        shutil.rmtree(copy.parent)
    assert reached == sorted(reached)
    assert set(range(10)) <= set(reached)
    assert _state(source) == states[-1]


def _state(path: Path) -> Restored:
    return attrs.evolve(restored_from(path), instances=frozenset())


# -- power loss -------------------------------------------------------------------------------------------------------


def logged(path: Path, *durables: bool) -> bytes:
    """Make a journal with a log of transactions, durable or not, which nobody closed. Return the log."""

    def write(journal: Journal) -> None:
        journal._checkpoint("TRUNCATE")
        for number, durable in enumerate(durables, 1):
            journal.write([accepted(number, "x" * 3000), handled("a", number)], durable=durable)

    abandoned(path, write)
    return log_of(path).read_bytes()


def tear(path: Path, log: bytes, frame: int) -> None:
    """Write a log in which the page of one frame never reached the disk."""
    start = wal.HEADER + frame * wal.FRAME
    log_of(path).write_bytes(log[: start + 24] + bytes(PAGE) + log[start + wal.FRAME :])


def test_what_was_safe_and_is_lost_is_damage(path: Path) -> None:
    """A later transaction knew that it was on the disk, so that no power loss can have taken it."""
    log = logged(path, True, True, True, True)
    tear(path, log, 1)
    before = files_of(path)
    with pytest.raises(JournalCorrupt, match=r"transactions 3 to \d, which were safe: the log is damaged"):
        opened(path)
    assert files_of(path) == before


def test_what_was_not_yet_safe_may_be_lost(path: Path) -> None:
    """After a power loss pages are missing in the middle of what no fsync had covered; a note says that it is so."""
    log = logged(path, True, False, False, False)
    frames = wal.scan(log).frames
    tear(path, log, frames - 3)
    with journal_at(path) as journal:
        assert "written after the last fsync are missing, as after a power loss" in journal.opened.notes[0]
        assert 1 <= len(journal.restored.lanes[0].items) < 4


def test_a_torn_last_transaction_is_the_end(path: Path) -> None:
    """What was not finished when the power went was promised to nobody: no damage and no note."""
    log = logged(path, True, True, True)
    log_of(path).write_bytes(log[: -wal.FRAME // 2])
    with journal_at(path) as journal:
        assert journal.restored.lanes[0].items == ["x" * 3000] * 2
        assert journal.opened.notes == ()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_log_without_its_file_is_corrupt(path: Path, *, is_there: bool) -> None:
    """An empty file, or none, beside a log with something in it is no new journal; what the log has is saved."""
    logged(path, True, True)
    path.unlink()
    if is_there:
        path.touch(0o600)
    with pytest.raises(JournalCorrupt, match="the file is empty" if is_there else "the file is gone"):
        opened(path)
    with journal_at(path, damaged="recover") as journal:
        assert journal.restored.lanes[0].items == ["x" * 3000] * 2
    assert (path.parent / "device.db.damaged-1-wal").exists()


# -- recovering -------------------------------------------------------------------------------------------------------


def recovered(path: Path) -> tuple[Restored, tuple[str, ...]]:
    """Open a damaged journal all the same; it is whole from then on, and what was damaged is kept."""
    before = files_of(path)
    with pytest.raises(JournalCorrupt):
        opened(path)
    with journal_at(path, damaged="recover", instance="recovering") as journal:
        notes, known = journal.opened.notes, journal.restored
    aside = {name.replace(".damaged-1", ""): data for name, data in files_of(path).items() if "damaged" in name}
    assert aside == before
    again = restored_from(path)
    assert attrs.evolve(again, instances=known.instances) == known
    assert again.instances == {*known.instances, "recovering"}
    return known, notes


def test_a_damaged_message_is_a_tombstone(path: Path) -> None:
    """It stands at its place, so that nothing behind it is held up; everything else is kept."""
    expected = rich(path, is_closed=True)
    flip(path, path.read_bytes().index(b"more 7"))
    known, notes = recovered(path)
    assert notes[0].startswith("the journal was damaged; kept: 9")
    assert notes[0].endswith(".damaged-1")
    assert "missing: stream 's' of producer aaaaaaaa: message 71 (1)" in notes
    items = expected.lanes[0].items
    items[71 - expected.lanes[0].first] = Void("lost")
    assert known == expected


def test_a_lane_is_known_by_its_messages(path: Path) -> None:
    """Where the row of a lane is damaged the row before its messages says whose they are."""
    with journal_at(path) as journal:
        journal.write([accepted(1, "one", "two"), accepted(1, "three", producer=Q, stream="t")], durable=True)
        journal.write([Settled(P, "s", 1)], durable=True)
    flip(path, path.read_bytes().index(b'"t",'))
    known, notes = recovered(path)
    assert [(lane.producer, lane.stream) for lane in known.lanes] == [(P, "s"), (Q, "t")]
    assert [lane.items for lane in known.lanes] == [["two"], ["three"]]
    assert "missing: 1 of 2 rows of kind 'lane'" in notes


def test_a_damaged_session_is_none(path: Path) -> None:
    """A token that may be wrong is worth nothing, and the rest is kept."""
    expected = rich(path, is_closed=True)
    flip(path, path.read_bytes().index(b"canary-token"))
    known, notes = recovered(path)
    assert known == attrs.evolve(expected, identity=None)
    assert "missing: 1 of 1 rows of kind 'identity'" in notes
    assert "canary" not in str(notes)


def test_a_damaged_welcome_is_one_of_an_unknown_server(path: Path) -> None:
    """What may have been written under it was written to somebody, since its birth."""
    with journal_at(path) as journal:
        journal.write([welcomed(1), accepted(1, "one", at=990.0, welcome=1)], durable=True)
    data = path.read_bytes()
    flip(path, data.index(b'"store"'))
    known, notes = recovered(path)
    assert known.lanes[0].marks == (Mark(1, 990.0, ""),)
    assert known.welcomes == 1
    assert "missing: 1 of 1 rows of kind 'welcome'" in notes


def test_a_damaged_tree_gives_up_its_leaves(path: Path) -> None:
    """Where SQLite reads nothing any more, because the page above all others is damaged, single pages are read."""
    expected = rich(path, is_closed=True)
    roots = [number for number in range(2, path.stat().st_size // PAGE + 1) if _type_of(path, number) == 5]
    assert roots
    for number in roots:
        flip(path, (number - 1) * PAGE, 0x40)
    known, notes = recovered(path)
    assert known == expected
    assert any("SQLite says" in note for note in notes)


def _type_of(path: Path, number: int) -> int:
    return path.read_bytes()[(number - 1) * PAGE]


def test_a_flipped_bit_in_the_log_loses_nothing(path: Path) -> None:
    """What SQLite would not read any more is recovered: one damaged word is put right where that can be."""
    expected = rich(path, is_closed=False)
    flip(log_of(path), wal.HEADER + 24 + 200)
    known, notes = recovered(path)
    assert known == expected
    assert any("the log has damage in frame 1 (one word)" in note for note in notes)


def test_a_second_damage_is_kept_beside_the_first(path: Path) -> None:
    """Nothing that was kept is ever written over."""
    for number in (1, 2, 3):
        with journal_at(path, damaged="recover") as journal:
            journal.write([accepted(1, f"payload {number}", producer=f"{number}" * 32)], durable=True)
        flip(path, path.read_bytes().rindex(b"payload"))
    with journal_at(path, damaged="recover"):
        pass
    names = sorted(name.name for name in path.parent.iterdir())
    assert names == ["device.db", *(f"device.db.damaged-{n}" for n in (1, 2, 3)), "device.db.lock"]
