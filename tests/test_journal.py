"""The journal: every record is there after a restart, in one file of ours alone, and nothing else is ever opened."""

from __future__ import annotations

import itertools
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import pytest
from journal_tools import (
    TOKEN,
    WHO,
    Clock,
    Model,
    P,
    Q,
    accepted,
    copied,
    differences,
    files_of,
    handled,
    journal_at,
    opened,
    quick_directory,
    restored_from,
    rich,
    welcomed,
)

from resilient_ws.exceptions import JournalError
from resilient_ws.frames import Position
from resilient_ws.journal import Journal, changes, writing
from resilient_ws.records import (
    Forgotten,
    Handled,
    Mark,
    Record,
    Restored,
    SessionOver,
    Settled,
    Void,
    Welcomed,
    Withdrawn,
)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_directory() as place:
        yield place


def after(path: Path, *records: Record, clock: Clock | None = None) -> Restored:
    """Write records, and return what the next opening knows."""
    clock = clock or Clock()
    with journal_at(path, clock) as journal:
        journal.write(list(records), durable=True)
    return restored_from(path, clock)


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_a_new_journal_knows_nothing(path: Path) -> None:
    """It is one file that only we may read, and says that it is new."""
    with journal_at(path) as journal:
        assert journal.restored == Restored()
        assert journal.opened.is_new
        assert journal.opened.notes == ()
    assert sorted(name.name for name in path.parent.iterdir()) == ["device.db", "device.db.lock"]
    assert {stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()} == {0o600}


def test_its_log_is_ours_alone_too(path: Path) -> None:
    """What is beside the file while it is open has its mode, whatever the mask of the process is."""
    before = os.umask(0)
    try:
        with journal_at(path) as journal:
            journal.write([accepted(1, "one")], durable=True)
            assert {stat.S_IMODE(name.stat().st_mode) for name in path.parent.iterdir()} == {0o600}
            assert Path(f"{path}-wal").exists()
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    "records",
    [
        [accepted(1, "text", "", "ä\0\n", b"", b"\xff\0", "x" * 70_000, b"y" * 5000)],
        [accepted(1, "one"), accepted(1, "two", stream="t"), accepted(1, "three", producer=Q)],
        [accepted(1, "one", "two", "three"), Settled(P, "s", 2)],
        [accepted(1, "one", "two"), Settled(P, "s", 2), accepted(3, "three")],
        [accepted(1, "one", "two", "three"), Withdrawn(P, "s", (1, 3), "dropped")],
        [handled("a", 1), handled("b", 2), handled("a", 3)],
        [Handled("a", Position("e", 0), None, None)],
        [handled("a", 1), handled("b", 2), Forgotten("a")],
        [welcomed(1), welcomed(2, incarnation="other")],
        [welcomed(1), SessionOver()],
        [SessionOver(), Forgotten("never"), Settled(P, "never", 3), Withdrawn(P, "never", (1,), "dropped")],
    ],
)
def test_round_trip(path: Path, records: list[Record]) -> None:
    """What was written is known after a restart."""
    model = Model()
    for record in records:
        model.take(record)
    assert differences(model, after(path, *records)) == []


def test_the_model_sees_a_difference(path: Path) -> None:
    """The comparison that the tests rest on finds another payload, time, position and session."""
    records = [welcomed(1), accepted(1, "one"), handled("a", 1)]
    for other in (
        [welcomed(1), accepted(1, "two"), handled("a", 1)],
        [welcomed(1), accepted(1, "one", at=900.0), handled("a", 1)],
        [welcomed(1, at=1002.0), accepted(1, "one"), handled("a", 1)],
        [welcomed(1), accepted(1, "one"), handled("a", 2)],
        [welcomed(1), accepted(1, "one"), handled("a", 1), SessionOver()],
        [welcomed(1), accepted(2, "one"), handled("a", 1)],
    ):
        model = Model()
        for record in other:
            model.take(record)
        assert differences(model, after(path, *records)), other
        path.unlink()


def test_lanes_come_in_the_order_of_their_creation(path: Path) -> None:
    """The oldest producer is first, whatever it is called."""
    for number, producer in enumerate((Q, P, "0" * 32)):
        with journal_at(path) as journal:
            journal.write([accepted(1, "x", producer=producer, stream=f"z{9 - number}")], durable=True)
            journal.write([accepted(1, "y", producer=producer, stream="a")], durable=True)
    lanes = restored_from(path).lanes
    assert [lane.producer for lane in lanes] == [Q, Q, P, P, "0" * 32, "0" * 32]
    assert [lane.stream for lane in lanes] == ["z9", "a", "z8", "a", "z7", "a"]


def test_an_empty_lane_of_an_earlier_opening_goes(path: Path) -> None:
    """Nobody needs it, and a journal must not grow by a row with every restart; that of this opening stays."""
    with journal_at(path) as journal:
        journal.write([accepted(1, "one"), accepted(1, "two", stream="t"), Settled(P, "t", 1)], durable=True)
        assert (P, "t") in journal._contents.lanes
    with journal_at(path) as journal:
        assert set(journal._contents.lanes) == {(P, "s")}
        journal.write([Settled(P, "s", 1)], durable=True)
        assert not journal._contents.lanes
    assert restored_from(path).lanes == ()


def test_the_same_records_may_come_twice(path: Path) -> None:
    """An interrupt between the commit and its note makes the session write them again, with what came since."""
    records: list[Record] = [accepted(1, "one", "two"), Settled(P, "s", 1), handled("a", 1), welcomed(1)]
    model = Model()
    with journal_at(path) as journal:
        for group in (records, records, [*records, accepted(3, "three")]):
            journal.write(group, durable=True)
    for record in [*records, accepted(3, "three")]:
        model.take(record)
    assert differences(model, restored_from(path)) == []


def test_numbers_that_were_taken_back_are_used_again(path: Path) -> None:
    """A group that was written, and refused at its second attempt, leaves nothing behind what came in its place."""
    with journal_at(path) as journal:
        journal.write([accepted(1, "one", "two", "three")], durable=True)
        journal.write([accepted(1, "other")], durable=True)
    assert restored_from(path).lanes[0].items == ["other"]


def test_a_hole_in_the_numbers_is_an_error(path: Path) -> None:
    """It is not written, and the journal goes on."""
    with journal_at(path) as journal:
        journal.write([accepted(1, "one")], durable=True)
        with pytest.raises(ValueError, match="message 3 was accepted, the one before it was 1"):
            journal.write([handled("a", 1), accepted(3, "three")], durable=True)
        journal.write([accepted(2, "two")], durable=True)
    known = restored_from(path)
    assert known.lanes[0].items == ["one", "two"]
    assert known.positions == {}


def test_an_ack_of_more_than_is_known(path: Path) -> None:
    """After an old copy was put back a server may know more: the numbers go on behind that."""
    known = after(path, accepted(1, "one"), Settled(P, "s", 9), accepted(10, "ten"))
    assert (known.lanes[0].first, known.lanes[0].items) == (10, ["ten"])


def test_of_instances_the_newest_are_kept(path: Path) -> None:
    """The ids of earlier openings are known, the newest 64 of them."""
    for number in range(changes.MOST_INSTANCES + 3):
        with journal_at(path, instance=f"i{number}") as journal:
            assert f"i{number}" not in journal.restored.instances
    assert restored_from(path).instances == {f"i{number}" for number in range(3, changes.MOST_INSTANCES + 3)}


def test_an_instance_is_known_before_anything_else_is_written(path: Path) -> None:
    """A program that is killed right after the opening has opened it."""
    journal = opened(path, instance="killed")
    copy = copied(path, path.parent / "copy")
    journal.close()
    assert restored_from(copy).instances == {"killed"}


# -- times ------------------------------------------------------------------------------------------------------------


def test_times_are_those_of_the_next_process_s_clock(path: Path) -> None:
    """Ages are kept by the wall clock, because the other one begins anew."""
    after(path, accepted(1, "one", at=990.0), welcomed(1, at=995.0))
    lane = restored_from(path, Clock(now=5.0, wall=Clock().wall + 100.0)).lanes[0]
    assert lane.births == ((1, 5.0 - 110.0),)
    assert lane.marks == (Mark(1, 5.0 - 105.0, "store"),)


def test_no_age_is_negative(path: Path) -> None:
    """Where the wall clock was put back everything is new."""
    after(path, accepted(1, "one"), welcomed(1))
    lane = restored_from(path, Clock(now=5.0, wall=Clock().wall - 86400)).lanes[0]
    assert lane.births == ((1, 5.0),)
    assert lane.marks[0].at == 5.0


def test_neighbours_share_a_birth(path: Path) -> None:
    """Within a second it is that of the first of them."""
    records = [accepted(n, "x", at=1000.0 + n * 0.4) for n in range(1, 7)]
    births = after(path, *records, clock=Clock(now=1010.0)).lanes[0].births
    assert [seq for seq, _ in births] == [2, 4, 6]
    assert [at for _, at in births] == pytest.approx([1000.4, 1001.2, 1002.0], abs=0.002)


def test_a_mark_says_what_a_server_can_have(path: Path) -> None:
    """That is what was accepted under a welcome, or waited for one that came; under the first one, since it came."""
    known = after(
        path,
        welcomed(1, at=900.0, incarnation="one"),
        accepted(1, "under the first", at=910.0, welcome=1),
        accepted(2, "for the second", at=920.0, welcome=2),
        welcomed(2, at=930.0, incarnation="two"),
        accepted(3, "under the second", at=940.0, welcome=2),
        accepted(4, "for a third", at=950.0, welcome=3),
    )
    assert known.lanes[0].marks == (Mark(1, 910.0, "one"), Mark(2, 930.0, "two"), Mark(3, 940.0, "two"))
    assert known.welcomes == 2


def test_welcomes_that_no_message_needs_are_forgotten(path: Path) -> None:
    """The last one stays, and those under which something without an ack can have got out."""
    with journal_at(path) as journal:
        for number in range(1, 30):
            journal.write([welcomed(number), accepted(number, "x", welcome=number)], durable=True)
        journal.write([Settled(P, "s", 27), welcomed(30)], durable=True)
        assert set(journal._contents.welcomed) == {28, 29, 30}
        journal.write([Settled(P, "s", 29), welcomed(31)], durable=True)
        assert set(journal._contents.welcomed) == {31}
    assert restored_from(path).welcomes == 31


def test_a_welcome_that_was_not_written_down_counts_as_the_next(path: Path) -> None:
    """Two that follow each other quickly are one record: what waited for the first went out under the second."""
    known = after(path, accepted(1, "one", at=900.0, welcome=1), welcomed(2, at=950.0, incarnation="two"))
    assert known.lanes[0].marks == (Mark(1, 950.0, "two"),)


# -- an interrupt -----------------------------------------------------------------------------------------------------


class Interrupt:
    """Raises KeyboardInterrupt before the n-th line that is run in the journal's own code, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            return self if "resilient_ws" in frame.f_code.co_filename else None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def interrupted(journal: Journal, group: list[Record], at: int) -> bool:
    """Write a group, and interrupt that; returns whether the interrupt came before the end."""
    before = sys.gettrace()
    sys.settrace(Interrupt(at))
    try:
        journal.write(group, durable=True)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("again", [True, False])
def test_an_interrupt_anywhere_loses_nothing_and_doubles_nothing(tmp_path: Path, *, again: bool) -> None:
    """What was interrupted is written again, as the session does; without that it is there whole or not at all."""
    first: list[Record] = [accepted(1, "one", b"two"), handled("a", 1), welcomed(1)]
    group: list[Record] = [accepted(3, "three"), Settled(P, "s", 1), handled("b", 2), Forgotten("a"), welcomed(2)]
    last = accepted(1, "y", stream="t")
    allowed = [after(tmp_path / "all.db", *first, *group, last)]
    if not again:
        allowed.append(after(tmp_path / "none.db", *first, last))
    seen = []
    for at in itertools.count(1, 1 if again else 3):
        path = tmp_path / f"{at}.db"
        with journal_at(path) as journal:
            journal.write(first, durable=True)
            if not interrupted(journal, group, at):
                break
            if again:
                journal.write(group, durable=True)
            journal.write([last], durable=False)
        known = restored_from(path)
        assert known in allowed, at
        seen.append(allowed.index(known))
    assert at > 100
    assert again or (seen[0], seen[-1]) == (1, 0)


def test_an_interrupt_that_is_not_made_good_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal only rolled back, and went on by what it had in mind, the test above would fail."""

    def take_back(journal: Journal) -> None:
        if journal._connection.in_transaction:
            journal._connection.execute("ROLLBACK")
        journal._is_unsure = False

    monkeypatch.setattr(Journal, "_take_back", take_back)
    with pytest.raises((AssertionError, JournalError)):
        test_an_interrupt_anywhere_loses_nothing_and_doubles_nothing(tmp_path, again=True)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_log_goes_into_the_file_now_and_then(path: Path) -> None:
    """It does not grow with what is written, and the file does not with what is acked."""
    with journal_at(path) as journal:
        for number in range(1, 2000):
            journal.write([accepted(number, "x" * 5000), Settled(P, "s", number - 1)], durable=False)
        assert Path(f"{path}-wal").stat().st_size < 3 * writing.CHECKPOINT_PAGES * 4096
        assert path.stat().st_size < 200_000


def test_the_file_shrinks_when_much_is_free(path: Path) -> None:
    """A backlog that was sent gives its room back."""
    with journal_at(path) as journal:
        for number in range(100):
            journal.write([accepted(number * 10 + 1, *["x" * 5000] * 10)], durable=False)
    assert path.stat().st_size > 5_000_000
    with journal_at(path) as journal:
        journal.write([Settled(P, "s", 1000)], durable=True)
    assert path.stat().st_size < 100_000


def test_closing_twice_is_nothing(path: Path) -> None:
    """Nothing is written after it, and that is said."""
    journal = opened(path)
    journal.close()
    before = files_of(path)
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.write([accepted(1, "one")], durable=True)
    assert files_of(path) == before


def test_an_opening_says_what_there_is(path: Path) -> None:
    """In numbers, without what was withdrawn."""
    after(path, accepted(1, "12345", b"678", "x"), Withdrawn(P, "s", (3,), "dropped"), handled("a", 1), handled("b", 1))
    with journal_at(path) as journal:
        said = journal.opened
    assert (said.path, said.is_new, said.messages, said.bytes, said.streams) == (str(path), False, 2, 8, 2)


def test_an_old_copy_put_back_says_what_it_knows(path: Path) -> None:
    """O10: it opens; that it is behind only the server can tell."""
    after(path, accepted(1, "one", "two"), handled("a", 5))
    old = path.read_bytes()
    with journal_at(path) as journal:
        journal.write([Settled(P, "s", 2), accepted(1, "new", producer=Q), handled("a", 9)], durable=True)
    path.write_bytes(old)
    known = restored_from(path)
    assert known.lanes[0].items == ["one", "two"]
    assert known.positions["a"].position.offset == 5


def test_O5_an_empty_file_is_a_new_journal(path: Path) -> None:
    """With a note, because it may have held something."""
    path.touch(0o600)
    with journal_at(path) as journal:
        assert journal.opened.is_new
        assert "the file was empty" in journal.opened.notes[0]
        journal.write([accepted(1, "one")], durable=True)
    assert restored_from(path).lanes[0].items == ["one"]


def test_text_that_is_no_unicode_stops_nothing(path: Path) -> None:
    """A lone surrogate is refused, and nothing of its group is written."""
    with journal_at(path) as journal:
        with pytest.raises(UnicodeEncodeError):
            journal.write([accepted(1, "one"), accepted(1, "\ud800", stream="t")], durable=True)
        journal.write([accepted(1, "two")], durable=True)
    assert [lane.items for lane in restored_from(path).lanes] == [["two"]]


def test_the_token_is_in_no_text(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in what a journal says of itself, nor in its errors; in its file it must be."""
    caplog.set_level(logging.DEBUG)
    rich(path, is_closed=False)
    with journal_at(path) as journal:
        journal.write([Welcomed(3, 1000.0, "store", WHO)], durable=True)
        texts = [repr(thing) for thing in (journal, journal.restored, journal.opened, journal._contents)]
        said = attrs.asdict(journal.opened)
    assert TOKEN not in caplog.text + str(said) + "".join(texts)
    assert TOKEN.encode() in path.read_bytes()
    assert restored_from(path).identity == WHO


def test_a_withdrawn_payload_is_gone(path: Path) -> None:
    """What stands in its place is the code, under the same number."""
    known = after(path, accepted(1, "one", "two"), Withdrawn(P, "s", (1,), "expired"))
    assert known.lanes[0].items == [Void("expired"), "two"]
