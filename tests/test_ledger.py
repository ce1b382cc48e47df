"""What a session wants written down: groups, what replaces what, and what becomes of a group."""

from __future__ import annotations

import pytest

from resilient_ws.frames import Position
from resilient_ws.ledger import RETRY_DELAY, SYNC_DELAY, Ledger
from resilient_ws.records import (
    Accepted,
    Forgotten,
    Handled,
    Identity,
    Record,
    SessionOver,
    Settled,
    Welcomed,
    Withdrawn,
)

KEY = ("p" * 32, "s")
WELCOMED = Welcomed(1, 0.0, "i1", Identity("00s1", "t.1", 1))


def handled(offset: int) -> Handled:
    return Handled("s", Position("e1", offset), None)


def ledger(*records: Record) -> Ledger:
    found = Ledger(4)
    for record in records:
        found.add(record)
    return found


def test_neighbours_of_a_lane_share_a_record() -> None:
    """Messages of one group cost one record for each lane; their time is that of the first."""
    found = ledger()
    found.accepted(KEY, 1, "a", 5.0, is_online=False)
    found.accepted(KEY, 2, b"b", 6.0, is_online=True)
    found.accepted(("q" * 32, "s"), 1, "c", 7.0, is_online=True)
    assert found.take() == [
        Accepted(*KEY, 1, ["a", b"b"], 5.0, 5),
        Accepted("q" * 32, "s", 1, ["c"], 7.0, 4),
    ]


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        ([handled(1), handled(2)], [handled(2)]),
        ([handled(1), Forgotten("s")], [Forgotten("s")]),
        ([Forgotten("s"), handled(1)], [handled(1)]),
        ([Settled(*KEY, 1), handled(1), Settled(*KEY, 2)], [handled(1), Settled(*KEY, 2)]),
        ([Withdrawn(*KEY, (1,), "x"), Withdrawn(*KEY, (2,), "x")], [
            Withdrawn(*KEY, (1,), "x"), Withdrawn(*KEY, (2,), "x"),
        ]),
        ([SessionOver(), SessionOver()], [SessionOver()]),
    ],
)  # fmt: skip
def test_only_the_last_of_what_follows_each_other_is_kept(records: list[Record], kept: list[Record]) -> None:
    """A position, an ack or a token replaces the one before it, behind everything that was noted since."""
    assert ledger(*records).take() == kept


def test_what_was_taken_and_not_answered_comes_again() -> None:
    """An interrupt may come between taking and writing: nothing is lost by it."""
    found = ledger(handled(1))
    group = found.filling
    assert found.take() == [handled(1)]
    found.add(SessionOver())
    assert found.take() == [handled(1), SessionOver()]
    news = list(found.written(durable=True))
    assert news[0] is group
    assert len(news) == 2
    assert found.is_idle


def test_a_durable_write_makes_what_was_written_before_durable() -> None:
    """The groups that only survive the process come first, then those of this write."""
    found = ledger(handled(1))
    first = found.filling
    found.take()
    assert list(found.written(durable=False)) == [first]
    assert (first.is_written, first.is_durable, found.is_idle) == (True, False, False)
    found.add(handled(2))
    second = found.filling
    found.take()
    assert list(found.written(durable=True)) == [first, second]
    assert first.is_durable
    assert second.is_durable


def test_it_is_due_a_while_after_the_first_record() -> None:
    """Nothing waits for longer than SYNC_DELAY; where there is nothing, nothing is due."""
    found = ledger()
    found.plan(1.0)
    assert found.due_at is None
    found.add(handled(1))
    found.plan(1.0)
    found.plan(1.5)
    assert found.due_at == 1.0 + SYNC_DELAY
    found.check(1.0)
    assert not found.is_due
    found.check(1.0 + SYNC_DELAY)
    assert found.is_due
    found.plan(9.0)
    assert found.due_at is None
    found.take()
    list(found.written(durable=True))
    assert not found.is_due


def test_a_token_is_due_at_once() -> None:
    """``ready`` waits for it (rule 16)."""
    assert ledger(WELCOMED).is_due
    assert not ledger(handled(1)).is_due


def test_what_found_no_room_is_refused_or_tried_again() -> None:
    """Messages are given back, the newest first; positions and acks stay, behind nothing that is older."""
    found = ledger(handled(1), Settled(*KEY, 1))
    found.accepted(KEY, 2, "a", 0.0, is_online=False)
    first = found.filling
    found.take()
    found.accepted(KEY, 3, "b", 0.0, is_online=False)
    found.add(handled(2))
    second = found.filling
    assert [record.first for record in found.failed(10.0)] == [3, 2]
    assert first.is_refused
    assert second.is_refused
    assert (found.is_due, found.due_at) == (False, 10.0 + RETRY_DELAY)
    assert not found.filling.is_refused
    assert found.take() == [Settled(*KEY, 1), handled(2)]


def test_a_position_from_before_a_stream_was_asked_for_anew_becomes_safe_for_nobody() -> None:
    """Whether it is being written or only not safe yet; that the stream was given up is told all the same."""
    found = ledger(handled(1))
    written = found.filling
    found.take()
    list(found.written(durable=False))
    found.add(handled(2))
    taken = found.filling
    found.take()
    found.add(Forgotten("s"))
    assert (written.records, taken.records) == ({}, {})
    assert found.take() == [Forgotten("s")]
    found.add(Forgotten("s"))
    assert found.take() == [Forgotten("s"), Forgotten("s")]
