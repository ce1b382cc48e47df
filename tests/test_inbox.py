"""The inbox: positions, duplicates, holes, gaps, what is out to the user, and room (rules 7, 9 and 12)."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from inbox_tools import active, answer, taken, ticker, told
from session_tools import data, gap

from resilient_ws.config import Inbox
from resilient_ws.exceptions import RemoteProtocolError
from resilient_ws.frames import AckedMark, Batch, Held, Position, StreamAnswer
from resilient_ws.inbox import Arrival, Arrivals

# -- data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "arrival", "offsets", "held"),
    [
        (data(11), Arrival.TAKEN, [11], 11),
        (data(11, 3), Arrival.TAKEN, [11, 12, 13], 13),
        (data(12), Arrival.HOLE, [], 10),
        (data(15, prev=10), Arrival.TAKEN, [15], 15),
        (data(15, prev=9), Arrival.TAKEN, [15], 15),
        (data(15, prev=11), Arrival.HOLE, [], 10),
        (data(11, stream="other"), Arrival.DROPPED, [], 10),
        (Batch("ticker", None, ["x"]), Arrival.DROPPED, [], 10),
    ],
)
def test_rule_7_what_data_is(batch: Batch, arrival: Arrival, offsets: list[int], held: int) -> None:
    """The next thing is taken, a number that does not follow is a hole, and data of nobody is dropped."""
    box = active()
    assert box.data(batch) is arrival
    assert taken(box) == offsets
    assert ticker(box).offset == held


@pytest.mark.parametrize(
    ("live", "batch", "arrival", "offsets"),
    [
        (10, data(9), Arrival.DROPPED, []),
        (10, data(8, 3), Arrival.DROPPED, []),
        (10, data(9, 4), Arrival.TAKEN, [11, 12]),
        (10, data(10, prev=3), Arrival.DROPPED, []),
        (5, data(10), Arrival.DROPPED, []),
    ],
)
def test_S1_duplicates_up_to_the_held_position_are_dropped(
    live: int, batch: Batch, arrival: Arrival, offsets: list[int]
) -> None:
    """H17: what an older connection delivered may come again up to max(live, held), and what is new of it is taken."""
    box = active()
    box.answered(answer(8, live))
    assert box.data(batch) is arrival
    assert taken(box) == offsets
    assert box.duplicates > 0


def test_a_duplicate_up_to_live_is_legal_and_beyond_it_an_error() -> None:
    """Rule 7: the replay may overlap with itself, live data may not come twice."""
    box = active()
    box.answered(answer(11, 12))
    assert [box.data(data(n)) for n in (11, 12, 11, 12)] == [Arrival.TAKEN] * 2 + [Arrival.DROPPED] * 2
    assert box.data(data(13)) is Arrival.TAKEN
    with pytest.raises(RemoteProtocolError, match="message 13 came twice") as raised:
        box.data(data(13))
    assert raised.value.code == 4400


def test_a_first_answer_permits_no_duplicates() -> None:
    """Nothing can have been delivered before a subscription was answered."""
    box = active()
    box.data(data(11))
    with pytest.raises(RemoteProtocolError):
        box.data(data(11, 2))


def test_data_before_the_answer_is_dropped() -> None:
    """Rule 12: what comes before ``subscribed`` belongs to an older subscription."""
    box = Arrivals(Inbox())
    box.subscribe("ticker", "now")
    assert box.data(data(1)) is Arrival.DROPPED


def test_rule_10_offset_zero_is_a_position() -> None:
    """A subscription that holds nothing yet resumes before the first message."""
    box = active(0)
    assert ticker(box).is_active
    assert ticker(box).held == Held("e1", 0, None)
    assert list(box.acks()) == [AckedMark("ticker", "e1", 0)]
    box.answered(answer(1, 0))
    assert box.data(data(1)) is Arrival.TAKEN


@pytest.mark.parametrize("payload", ["grün", b"\x00\xff", "", b""])
def test_held_says_the_crc_of_the_last_payload(payload: str | bytes) -> None:
    """CRC-32 of the payload's bytes, an empty one included; a gap's end has none."""
    box = active()
    box.data(Batch("ticker", 11, [payload]))
    raw = payload.encode() if isinstance(payload, str) else payload
    assert ticker(box).held == ticker(box).held == Held("e1", 11, zlib.crc32(raw))
    box.gap(gap(12, 20))
    assert ticker(box).held == Held("e1", 20, None)


def test_an_answer_tells_the_crc_before_it() -> None:
    """Rule 12: a position from ``now`` can be checked later."""
    box = Arrivals(Inbox())
    box.subscribe("ticker", "now")
    box.answered(answer(11, crc=0))
    assert ticker(box).held == Held("e1", 10, 0)


# -- gaps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "news", "position"),
    [
        (gap(11, 20), (11, 20, "trimmed", "e1", 21), ("e1", 20)),
        (gap(11, 11, reason="too_large"), (11, 11, "too_large", "e1", 12), ("e1", 11)),
        (gap(8, 20), (11, 20, "trimmed", "e1", 21), ("e1", 20)),
        (gap(11, None, epoch="e2", next=5, reason="epoch"), (11, None, "epoch", "e2", 5), ("e2", 4)),
        (gap(9, None, epoch="e2", next=5, reason="epoch"), (11, None, "epoch", "e2", 5), ("e2", 4)),
        (gap(11, None, epoch="e2", next=1, reason="session"), (11, None, "session", "e2", 1), ("e2", 0)),
        (gap(1, 10, reason="rewritten"), (1, 10, "rewritten", "e1", 11), ("e1", 10)),
        (gap(1, 5, reason="rewritten"), (1, 10, "rewritten", "e1", 11), ("e1", 10)),
        (gap(1, None, next=11, reason="rewritten"), (1, None, "rewritten", "e1", 11), ("e1", 10)),
        (gap(11, 15, reason="of_its_own"), (11, 15, "of_its_own", "e1", 16), ("e1", 15)),
    ],
)
def test_a_gap_on_a_live_connection(frame: Any, news: tuple[Any, ...], position: tuple[str, int]) -> None:
    """Every reason moves the position as docs/protocol.md says, and tells only what is not in the user's hands."""
    box = active()
    arrival, found = box.gap(frame)
    assert (arrival, told(found)) == (Arrival.TAKEN, news)
    assert (ticker(box).epoch, ticker(box).offset) == position
    assert taken(box) == [found]
    assert list(box.acks()) == [AckedMark("ticker", *position)]


@pytest.mark.parametrize(
    ("frame", "arrival"),
    [
        (gap(12, 20), Arrival.HOLE),
        (gap(12, None, epoch="e2", next=5, reason="epoch"), Arrival.HOLE),
        (gap(2, 10), Arrival.DROPPED),
        (gap(2, 8), Arrival.DROPPED),
        (gap(11, 20, id=9), Arrival.DROPPED),
        (gap(11, 20, stream="other"), Arrival.DROPPED),
    ],
)
def test_H9_a_gap_that_is_not_believed(frame: Any, arrival: Arrival) -> None:
    """A gap above a hole hides what was swallowed, also where the epoch changes; old news and old ids are void."""
    box = active()
    assert box.gap(frame) == (arrival, None)
    assert (ticker(box).epoch, ticker(box).offset) == ("e1", 10)
    assert not box.has_items


def test_a_gap_before_the_answer_is_void() -> None:
    """Rule 12: nothing of a subscription counts before its answer."""
    box = Arrivals(Inbox())
    box.subscribe("ticker", "now")
    assert box.gap(gap(11, 20)) == (Arrival.DROPPED, None)


def test_H18_adjacent_gaps_merge() -> None:
    """They need no credit, so they must not pile up: one marker stands for both, the events tell each by itself."""
    box = active()
    news = [box.gap(frame)[1] for frame in (gap(11, 12), gap(13, 20), gap(21, 21, reason="too_large"))]
    assert [(g.first, g.last) for g in news if g is not None] == [(11, 12), (13, 20), (21, 21)]
    assert [told(g) for g in taken(box) + taken(box)] == [
        (11, 20, "trimmed", "e1", 21),
        (21, 21, "too_large", "e1", 22),
    ]
    assert taken(box) == []


def test_gaps_with_a_message_between_them_do_not_merge() -> None:
    """The order of what the user gets is the order of the log."""
    box = active()
    box.gap(gap(11, 12))
    box.data(data(13))
    box.gap(gap(14, 20))
    assert [g if isinstance(g, int) else (g.first, g.last) for _ in range(3) for g in taken(box)] == [
        (11, 12),
        13,
        (14, 20),
    ]


def test_gaps_of_an_unknown_end_do_not_merge() -> None:
    """Nothing is adjacent to an end that nobody knows."""
    box = active()
    box.gap(gap(11, None, epoch="e2", next=5, reason="epoch"))
    box.gap(gap(5, None, epoch="e2", next=9, reason="epoch"))
    assert len(taken(box) + taken(box)) == 2


def test_reported_gaps_are_no_markers() -> None:
    """With ``on_gap="report"`` the user gets the messages on both sides in one go, and the position passes it."""
    box = active(report=True)
    box.data(data(11))
    assert told(box.gap(gap(12, 20))[1]) == (12, 20, "trimmed", "e1", 21)
    box.data(data(21))
    assert taken(box) == [11, 21]
    box.release(0)
    assert ticker(box).acked == Position("e1", 21)


def test_a_reported_gap_alone_gives_nothing() -> None:
    """There is nothing to hand over, and it is acked."""
    box = active(report=True)
    box.gap(gap(11, 20))
    assert box.has_items
    assert taken(box) == []
    assert list(box.acks()) == [AckedMark("ticker", "e1", 20)]


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        answer(12),
        answer(5, epoch="e2"),
        answer(30, gap=gap(11, 20)),
        answer(21, gap=gap(12, 20)),
        answer(5, epoch="e3", gap=gap(11, None, epoch="e2", next=5, reason="epoch")),
    ],
    ids=["above", "epoch", "behind its gap", "hole before its gap", "epoch of its gap"],
)
def test_S8_an_answer_that_contradicts_what_is_held(said: StreamAnswer) -> None:
    """INV-S8: it continues right after what we hold, or a gap explains it; else the server is broken."""
    with pytest.raises(RemoteProtocolError, match="the answer starts at") as raised:
        active().answered(said)
    assert raised.value.code == 4400


@pytest.mark.parametrize(
    ("said", "news", "offset"),
    [
        (answer(11), None, 10),
        (answer(5), None, 10),
        (answer(21, gap=gap(11, 20)), (11, 20, "trimmed", "e1", 21), 20),
        (answer(11, gap=gap(1, 10, reason="rewritten")), (1, 10, "rewritten", "e1", 11), 10),
        (
            answer(5, epoch="e2", gap=gap(11, None, epoch="e2", next=5, reason="epoch")),
            (11, None, "epoch", "e2", 5),
            4,
        ),
    ],
)
def test_an_answer_at_resume(said: StreamAnswer, news: tuple[Any, ...] | None, offset: int) -> None:
    """The position goes on, or moves over what the answer's gap says."""
    box = active()
    arrival, found = box.answered(said)
    assert (arrival, told(found)) == (Arrival.TAKEN, news)
    assert ticker(box).offset == offset


def test_a_first_answer_may_have_a_gap() -> None:
    """A start at a position that retention has passed."""
    box = Arrivals(Inbox())
    box.subscribe("ticker", Position("e1", 4))
    _, found = box.answered(answer(21, gap=gap(5, 20)))
    assert told(found) == (5, 20, "trimmed", "e1", 21)
    assert taken(box) == [found]
    assert box.data(data(21)) is Arrival.TAKEN


# -- what an older connection had (rule 7) ---------------------------------------------------------------------------


def moved() -> Arrivals:
    """Make an inbox that got 11 and 12 over an older connection, while the new one goes on from 10."""
    box = active()
    box.data(Batch("ticker", 11, ["11", "12"]))
    box.answered(answer(11, 12))
    return box


@pytest.mark.parametrize(
    ("batch", "arrival", "offsets"),
    [
        (Batch("ticker", 11, ["other"]), Arrival.DROPPED, [11, 12]),
        (Batch("ticker", 11, ["other", "12"]), Arrival.DROPPED, [11, 12]),
        (Batch("ticker", 12, ["12", "13"]), Arrival.TAKEN, [11, 12, 13]),
        (Batch("ticker", 12, [b"12", b"13"]), Arrival.TAKEN, [11, 12, 13]),
        (Batch("ticker", 12, ["other"]), Arrival.HOLE, [11, 12]),
        (Batch("ticker", 11, ["11", "other", "13"]), Arrival.HOLE, [11, 12]),
        (Batch("ticker", 13, ["13"], prev=11), Arrival.HOLE, [11, 12]),
        (Batch("ticker", 14, ["14"], prev=12), Arrival.TAKEN, [11, 12, 14]),
    ],
)
def test_H22_what_replaced_the_message_at_the_position_is_a_hole(
    batch: Batch, arrival: Arrival, offsets: list[int]
) -> None:
    """The log may have lost its tail and grown again meanwhile: other messages look like duplicates, or are passed."""
    box = moved()
    assert box.data(batch) is arrival
    assert taken(box) == offsets


def test_where_nothing_is_known_of_the_position_nothing_is_compared() -> None:
    """After a gap there is no message that a duplicate could differ from."""
    box = moved()
    ticker(box).move("e1", 12, None)
    assert box.data(Batch("ticker", 12, ["other"])) is Arrival.DROPPED
    assert box.data(Batch("ticker", 13, ["13"], prev=11)) is Arrival.TAKEN
