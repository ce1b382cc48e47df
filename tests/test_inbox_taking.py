"""The inbox: subscriptions, what is handed over, and what is acked (rules 9 and 12)."""

from __future__ import annotations

import pytest
from inbox_tools import active, answer, taken, ticker
from session_tools import data, gap

from resilient_ws.config import Inbox
from resilient_ws.exceptions import Gap, Rejected, SessionLost
from resilient_ws.frames import AckedMark, Batch, Position
from resilient_ws.inbox import Arrivals, Run

# -- subscriptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [False, True])
def test_giving_a_stream_up_takes_all_that_waits_of_it(report: bool) -> None:
    """Messages and gaps of it go with their room; other streams and the session's own markers stay."""
    box = active(report=report)
    box.subscribe("other", "now")
    box.answered(answer(1, stream="other", id=2))
    lost = SessionLost("expired", 0)
    box.data(data(11, 2))
    box.gap(gap(13, 20))
    box.mark(lost)
    box.data(data(1, stream="other"))
    box.unsubscribe("ticker")
    assert (box.messages, box.bytes) == (1, len("other-1"))
    assert taken(box) + taken(box) == [lost, 1]
    assert not box.has_items


@pytest.mark.parametrize("report", [False, True])
def test_a_gap_of_an_older_subscription_does_not_move_the_new_one(report: bool) -> None:
    """Subscribing again begins anew, whatever was left of the old subscription."""
    box = active(report=report)
    box.gap(gap(11, 60))
    box.subscribe("ticker", "earliest")
    box.answered(answer(1, id=2))
    assert taken(box) == []
    assert ticker(box).acked == Position("e1", 0)


def test_rule_12_ids_only_rise() -> None:
    """Every subscribe has a fresh id, whatever the stream."""
    box = Arrivals(Inbox())
    ids = [box.subscribe(stream, "now").id for stream in ("a", "b", "a")] + [box.new_id()]
    assert ids == [1, 2, 3, 4]


def test_rule_14_a_refusal_stands_behind_what_arrived_before() -> None:
    """Nothing that was received is lost silently when the right to a stream is taken away."""
    box = active()
    box.data(data(11, 2))
    box.gap(gap(13, 20))
    refusal = Rejected("ticker", 0, "forbidden")
    box.refuse("ticker", refusal)
    assert box.refused == {"ticker": refusal}
    assert taken(box) == [11, 12]
    assert [type(item) for item in taken(box) + taken(box)] == [Gap, Rejected]
    assert (box.messages, box.bytes) == (0, 0)
    assert list(box.acks()) == []


def test_subscribing_again_forgets_a_refusal_and_what_it_left() -> None:
    """What waited of the refused subscription is not taken for the new one's."""
    box = active()
    box.data(data(11, 2))
    box.refuse("ticker", Rejected("ticker", 0, "forbidden"))
    box.subscribe("ticker", "now")
    assert box.refused == {}
    assert [type(item) for item in taken(box)] == [Rejected]
    assert box.messages == 0


# -- taking --------------------------------------------------------------------------------------------------


def test_limits_cut_runs() -> None:
    """Exactly as many as asked for, in order, and the room comes back with each."""
    box = active()
    box.data(data(11, 5))
    box.data(data(16, 2))
    assert [taken(box, limit) for limit in (2, 2, 2, 0, 9)] == [[11, 12], [13, 14], [15, 16], [], [17]]
    assert (box.messages, box.bytes, box.delivered) == (0, 0, 7)


def test_a_marker_stands_alone() -> None:
    """What was asked for ends before it, and the next call returns it alone."""
    box = active()
    box.data(data(11))
    box.mark(SessionLost("expired", 1))
    box.data(data(12))
    assert taken(box) == [11]
    assert isinstance(taken(box)[0], SessionLost)
    assert taken(box) == [12]


def test_S10_room_is_a_pair() -> None:
    """The inbox is full by messages or by bytes, and says what is free of both."""
    box = active(max_messages=2, max_bytes=20)
    assert (box.free, box.is_full) == ((2, 20), False)
    box.data(Batch("ticker", 11, ["x" * 20]))
    assert (box.free, box.is_full) == ((1, 0), True)
    taken(box)
    box.data(data(12, 2))
    assert (box.free[0], box.is_full) == (0, True)


def test_a_run_part_of_which_was_taken_gives_the_rest_back() -> None:
    """Giving up a stream frees only what is still there."""
    box = active()
    box.data(Batch("ticker", 11, ["aa", "bb", "cc"]))
    taken(box, 1)
    assert (box.messages, box.bytes) == (2, 4)
    box.unsubscribe("ticker")
    assert (box.messages, box.bytes) == (0, 0)


def test_a_run_says_what_it_is_without_its_payloads() -> None:
    """Payloads may be secrets."""
    assert repr(Run("ticker", "e1", 11, ["secret"], 6)) == "Run('ticker', first=11, count=1)"


# -- acks ----------------------------------------------------------------------------------------------------


def test_automatic_acks_wait_for_the_next_take_of_the_same_receiver() -> None:
    """What another receiver has in hand is not acked by ours."""
    box = active()
    box.data(data(11, 3))
    assert [taken(box, 1, receiver) for receiver in (1, 2, 1)] == [[11], [12], [13]]
    assert ticker(box).acked == Position("e1", 11)
    box.release(1)
    assert ticker(box).acked == Position("e1", 11)
    box.release(2)
    assert ticker(box).acked == Position("e1", 13)


def test_manual_acks_cover_what_their_receiver_took_before() -> None:
    """Acking a message acks the earlier ones of the same receiver, and nothing of another."""
    box = active(ack="manual")
    box.data(data(11, 6))
    assert [taken(box, n, receiver) for n, receiver in ((3, 1), (1, 2), (2, 1))] == [[11, 12, 13], [14], [15, 16]]
    box.ack("ticker", "e1", 12, 1)
    assert ticker(box).acked.offset == 12
    box.ack("ticker", "e1", 15, 1)
    assert ticker(box).acked.offset == 13
    box.ack("ticker", "e1", 14, 2)
    assert ticker(box).acked.offset == 15
    box.ack("ticker", "e1", 16, 1)
    assert ticker(box).acked.offset == 16


@pytest.mark.parametrize(
    ("stream", "epoch", "offset", "receiver"),
    [("other", "e1", 11, 1), ("ticker", "e9", 11, 1), ("ticker", "e1", 13, 1), ("ticker", "e1", 11, 2)],
)
def test_S14_an_ack_of_what_one_does_not_have_is_void(stream: str, epoch: str, offset: int, receiver: int) -> None:
    """Another stream, epoch, offset or receiver changes nothing: nobody acks beyond what he has."""
    box = active(ack="manual")
    box.data(data(11, 3))
    taken(box, 2, 1)
    box.ack(stream, epoch, offset, receiver)
    assert ticker(box).acked == Position("e1", 10)


def test_H21_a_gap_acks_nothing_that_is_out_before_it() -> None:
    """A rewritten gap ends at the offset of a message that is still in a user's hand."""
    box = active(ack="manual")
    box.data(data(11))
    assert taken(box, 9, 1) == [11]
    box.gap(gap(1, 11, reason="rewritten"))
    assert isinstance(taken(box, 9, 2)[0], Gap)
    assert ticker(box).acked == Position("e1", 10)
    box.ack("ticker", "e1", 11, 1)
    assert ticker(box).acked == Position("e1", 11)


def test_an_ack_behind_a_new_epoch_is_not_told() -> None:
    """While a message of the old epoch is out there is no acked position of the new one (rule 7)."""
    box = active(ack="manual")
    box.data(data(11))
    taken(box, 9, 1)
    box.gap(gap(12, None, epoch="e2", next=5, reason="epoch"))
    taken(box, 9, 1)
    assert list(box.acks()) == []
    box.ack("ticker", "e1", 11, 1)
    assert list(box.acks()) == [AckedMark("ticker", "e2", 4)]
