"""The journal's own reading of SQLite's files: as SQLite reads them, and one damaged word is told from a torn end."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_tools import P, accepted, handled, opened, quick_directory, rich, welcomed

from resilient_ws.journal import layout, pages, reading, wal
from resilient_ws.journal.layout import PAGE
from resilient_ws.records import Settled

FRAME, HEADER = wal.FRAME, wal.HEADER


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_directory() as place:
        yield place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with a log of several transactions, some of more than one frame."""
    path = tmp_path / "device.db"
    rich(path, is_closed=False)
    return path


def log_of(path: Path) -> bytes:
    """Return the log up to its last commit; behind that are frames of an older one."""
    log = Path(f"{path}-wal").read_bytes()
    return log[: HEADER + wal.scan(log).frames * FRAME]


def by_sqlite(path: Path, log: bytes, place: Path) -> dict[str, list[Any]]:
    """Return the rows that SQLite finds in a file with a log."""
    place.mkdir(exist_ok=True)
    copy = place / "copy.db"
    shutil.copy(path, copy)
    Path(f"{copy}-wal").write_bytes(log)
    connection = sqlite3.connect(copy)
    try:
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in layout.SCHEMA}
    finally:
        connection.close()


def by_us(path: Path, log: bytes) -> dict[str, list[Any]]:
    """Return the rows that our own image holds."""
    image = reading.put_together(path.read_bytes(), log)
    with reading._opened(image.data) as connection:
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in layout.SCHEMA}


def frames(log: bytes) -> Iterator[int]:
    yield from range(HEADER, len(log) - FRAME + 1, FRAME)


def test_the_log_has_what_the_tests_need(path: Path) -> None:
    """More than one transaction, and one of more than one frame."""
    log = log_of(path)
    commits = [any(log[start + 4 : start + 8]) for start in frames(log)]
    assert commits.count(True) >= 2
    assert False in commits


def test_the_image_is_what_sqlite_reads(path: Path, tmp_path: Path) -> None:
    """With the log whole, cut off at every frame and in the middle of each, and with a torn page."""
    log = log_of(path)
    cuts = [log[: start + extra] for start in frames(log) for extra in (0, 10, 24, 1000)]
    torn = [log[: start + 2000] + bytes(2120) + log[start + FRAME :] for start in frames(log)]
    results = set()
    for number, cut in enumerate([b"", log, *cuts, *torn]):
        ours = by_us(path, cut)
        assert ours == by_sqlite(path, cut, tmp_path / "copy"), number
        results.add(str(ours))
    assert len(results) >= 3


def test_an_image_without_the_log_is_another(path: Path) -> None:
    """The comparison above would find a log that is not read."""
    assert by_us(path, b"") != by_us(path, log_of(path))


def test_a_log_that_began_again_is_read_to_its_end(tmp_path: Path) -> None:
    """Behind the end are frames of an older log: they are no damage, and tell nothing new."""
    path = tmp_path / "device.db"
    journal = opened(path)
    for number in range(1, 30):
        journal.write([accepted(number, "x" * 3000)], durable=True)
    journal._checkpoint("PASSIVE")
    journal.write([handled("a", 1)], durable=True)
    file, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    found = wal.scan(log)
    assert len(found.behind) > 10
    assert (found.damage, found.has_commit_behind) == ([], False)
    copy = tmp_path / "copy.db"
    copy.write_bytes(file)
    Path(f"{copy}-wal").write_bytes(log)
    read = reading.read(str(copy))
    assert (read.missing, read.notes) == ([], [])
    journal.close()


# -- damage within a word ---------------------------------------------------------------------------------------------


def every_place(log: bytes) -> Iterator[int]:
    """Yield places in a log: all of the header and of frames' heads, and some in each page."""
    yield from range(HEADER)
    for start in frames(log):
        yield from range(start, start + 24)
        yield from range(start + 24, start + FRAME, 97)


def test_one_damaged_byte_is_found(path: Path) -> None:
    """Anywhere in the log, also in its last frame, where SQLite sees a torn end and drops what was safe."""
    log = log_of(path)
    whole = wal.scan(log)
    assert whole.damage == []
    dice = random.Random(1)
    is_right = []
    for place in every_place(log):
        damaged = bytearray(log)
        damaged[place] ^= dice.randrange(1, 256)
        found = wal.scan(bytes(damaged))
        assert found.damage, place
        assert found.frames == whole.frames, place
        assert found.data in (log, damaged), place  # put right, or left as it is
        is_right.append(found.data == log)
    assert is_right.count(True) > len(is_right) / 2


def test_what_cannot_be_located_is_left_as_it_is(path: Path) -> None:
    """The highest bit of every third word changes the sums in the same way: found it is, and nothing is changed."""
    log = log_of(path)
    for word in range(6):
        damaged = bytearray(log)
        damaged[HEADER + 24 + 4 * (100 + word) + (3 if log[3] % 2 == 0 else 0)] ^= 0x80
        found = wal.scan(bytes(damaged))
        assert found.damage == ["frame 1 (one word)"]
        assert found.data == damaged
        assert found.frames == wal.scan(log).frames


def test_sqlite_says_nothing_of_a_damaged_log(path: Path, tmp_path: Path) -> None:
    """This is why we look: one bit in the first frame, and it reads an older state without a word."""
    log = bytearray(log_of(path))
    log[HEADER + 100] ^= 1
    found = by_sqlite(path, bytes(log), tmp_path / "copy")
    assert found == by_sqlite(path, b"", tmp_path / "copy")
    assert found != by_sqlite(path, log_of(path), tmp_path / "copy")


def test_a_log_of_the_other_byte_order_is_read_too(path: Path) -> None:
    """Check sums are made in the order of the machine that made the file, which may have been another one."""
    log = bytearray(log_of(path))
    magic = struct.unpack_from(">I", log)[0] ^ 1
    struct.pack_into(">I", log, 0, magic)
    order = "big" if magic & 1 else "little"
    sums = wal._sum(log[:24], order, (0, 0))
    struct.pack_into(">2I", log, 24, *sums)
    for start in frames(log):
        sums = wal._sum(log[start + 24 : start + FRAME], order, wal._sum(log[start : start + 8], order, sums))
        struct.pack_into(">2I", log, start + 16, *sums)
    found = wal.scan(bytes(log))
    assert (found.damage, found.frames) == ([], wal.scan(log_of(path)).frames)
    log[HEADER + 50] ^= 4
    assert wal.scan(bytes(log)).damage


def test_a_torn_page_is_not_taken_for_a_damaged_word(path: Path) -> None:
    """Whatever of a page is old, zero or noise: it is the end of the log, and nothing is put right."""
    log = log_of(path)
    last = list(frames(log))[-1]
    dice = random.Random(2)
    for cut in range(24, FRAME - 16, 8):
        for rest in (bytes(FRAME - cut), dice.randbytes(FRAME - cut)):
            torn = log[: last + cut] + rest
            if sum(a != b for a, b in zip(torn[last:], log[last:], strict=True)) <= 4:
                continue  # so little was torn that it is a damaged word
            found = wal.scan(torn)
            assert found.damage == [], cut
            assert found.frames < wal.scan(log).frames


@pytest.mark.parametrize("log", [b"", b"x" * 10, b"\0" * 32, b"\0" * 9000, b"\x37\x7f\x06\x82" + b"\0" * 9000])
def test_what_is_no_log_holds_nothing(log: bytes) -> None:
    """An empty, short or foreign one."""
    found = wal.scan(log)
    assert (found.frames, found.pages, found.damage) == (0, {}, [])


# -- rows out of pages ------------------------------------------------------------------------------------------------


def test_rows_of_pages_are_those_of_sqlite(path: Path) -> None:
    """Long ones too, which go on in other pages."""
    image = reading.put_together(path.read_bytes(), log_of(path))
    facts, messages = pages.split(pages.rows(image.data))
    ours = by_us(path, log_of(path))
    assert sorted(facts) == ours["facts"]
    assert sorted(messages) == ours["messages"]
    assert max(len(row[1]) for row in messages) > 2 * PAGE


def test_free_pages_hold_no_rows(tmp_path: Path) -> None:
    """What was acked does not come back out of a page that is free."""
    path = tmp_path / "device.db"
    journal = opened(path)
    journal.write([welcomed(1), *(accepted(n, f"{n}" * 1000) for n in range(1, 200))], durable=True)
    journal.write([Settled(P, "s", 190)], durable=True)
    journal.close()
    data = path.read_bytes()
    assert struct.unpack_from(">I", data, 36)[0] > 20  # free pages
    _, messages = pages.split(pages.rows(data))
    assert sorted(row[0] & layout.SEQ_MASK for row in messages if layout.read_message(row)) == [0, *range(191, 200)]
    unlisted = data[:32] + bytes(8) + data[40:]
    _, messages = pages.split(pages.rows(unlisted))
    assert len(messages) > 20  # so that the list is what keeps them away


def test_noise_is_no_row(path: Path) -> None:
    """Whatever a page is made of, reading it ends, and what comes out is judged by its check sum."""
    dice = random.Random(3)
    data = path.read_bytes()
    for _ in range(300):
        page = bytearray(dice.randbytes(PAGE))
        page[0] = 13
        page[3:5] = dice.randrange(1, 300).to_bytes(2, "big")
        for row in pages.leaf_rows(page, data):
            assert layout.read_fact(row) is None if len(row) == 5 else layout.read_message(row) is None
