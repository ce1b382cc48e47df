"""The outbox: numbers, order, bounds, policies, acks, rejects and receipts (rules 2 and 11)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_tools import EARLIER, PRODUCER

from resilient_ws.config import Outbox
from resilient_ws.exceptions import Rejected, RemoteProtocolError, Undelivered
from resilient_ws.frames import HelloOutbound
from resilient_ws.lane import Lane
from resilient_ws.outbox import Unacked
from resilient_ws.records import Mark, RestoredLane, Void


def unacked(**settings: Any) -> Unacked:
    """Make an empty outbox."""
    return Unacked(Outbox(**settings), PRODUCER)


def filled(*payloads: str | bytes, stream: str = "s", written: int | None = None, **settings: Any) -> Unacked:
    """Make an outbox with these messages, all of them written unless told otherwise."""
    box = unacked(**settings)
    for payload in payloads:
        box.accept(stream, payload, len(payload), 0.0)
    lane = box.lane(PRODUCER, stream)
    assert lane is not None
    lane.wrote(len(payloads) if written is None else written, 0.0, "i1")
    return box


def lane_of(box: Unacked, stream: str = "s", producer: str = PRODUCER) -> Lane:
    """Return a lane that must exist."""
    lane = box.lane(producer, stream)
    assert lane is not None
    return lane


def test_seqs_begin_at_one_in_every_stream() -> None:
    """Messages are numbered 1, 2, ... per (producer, stream)."""
    box = unacked()
    assert [box.accept("a", "x", 1, 0.0), box.accept("b", "x", 1, 0.0), box.accept("a", b"y", 1, 0.0)] == [1, 1, 2]
    assert box.lane(PRODUCER, "c") is None
    assert (len(box), box.bytes) == (3, 3)


def test_a_stream_without_anything_unacked_costs_a_step_nothing() -> None:
    """However many streams were sent to, a step looks only at those with something unacked."""
    box = unacked()
    for i in range(1000):
        box.accept(f"s{i}", "x", 1, 0.0)
        lane_of(box, f"s{i}").wrote(1, 0.0, "i1")
    for i in range(1, 1000):
        box.committed(PRODUCER, f"s{i}", 1)
    looked: list[str] = []
    by_stream = box._by_stream

    class Noting(dict[str, list[Lane]]):
        def __getitem__(self, stream: str) -> list[Lane]:
            looked.append(stream)
            return by_stream[stream]

    box._by_stream = Noting()
    assert [lane.stream for lane in box.writable()] == looked == ["s0"]


def test_so_many_streams_and_no_more_have_something_unacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A further stream has to wait for an ack, one that has something unacked has not: a hello names them all."""
    monkeypatch.setattr("resilient_ws.outbox.MOST_LANES", 3)
    box = unacked()
    for stream in "abc":
        assert not box.is_crowded(stream)
        box.accept(stream, "x", 1, 0.0)
        lane_of(box, stream).wrote(1, 0.0, "i1")
    assert (box.is_crowded("d"), box.is_crowded("a")) == (True, False)
    assert "on 3 streams" in str(box.full_error(0.0, is_crowded=True))
    box.committed(PRODUCER, "b", 1)
    assert (box.is_crowded("d"), box.is_crowded("b")) == (False, False)
    box.accept("d", "x", 1, 0.0)
    assert (box.is_crowded("a"), box.is_crowded("b")) == (False, True)


def test_an_ack_is_cumulative_and_never_goes_back() -> None:
    """Everything up to the acked seq leaves; an older ack changes nothing (S15)."""
    box = filled("a", "bb", "ccc")
    assert box.committed(PRODUCER, "s", 2)
    assert not box.committed(PRODUCER, "s", 1)
    assert not box.committed(PRODUCER, "s", 0)
    assert (len(box), box.bytes, lane_of(box).first) == (1, 3, 3)
    assert [box.outcome(PRODUCER, "s", seq) for seq in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize(("stream", "seq"), [("s", 3), ("other", 1), ("s", 2**53)])
def test_S14_an_ack_of_what_was_not_sent_is_a_protocol_error(stream: str, seq: int) -> None:
    """Nothing is trimmed by an ack for the future, and the server is told."""
    box = filled("a", "b", "c", written=2)
    with pytest.raises(RemoteProtocolError, match="acked seq") as raised:
        box.committed(PRODUCER, stream, seq)
    assert raised.value.code == 4400
    assert len(box) == 3


@pytest.mark.parametrize(("stream", "seq"), [("s", 3), ("s", 0), ("other", 1)])
def test_a_reject_of_what_was_not_sent_is_a_protocol_error(stream: str, seq: int) -> None:
    """A server can refuse only what it was given."""
    box = filled("a", "b", "c", written=2)
    with pytest.raises(RemoteProtocolError, match="rejected seq"):
        box.reject(PRODUCER, stream, seq, "forbidden", "")


def test_H3_a_rejected_message_is_never_acked_as_delivered() -> None:
    """A reject is remembered beyond the ack that covers it, and told once."""
    box = filled("a", "b")
    assert box.reject(PRODUCER, "s", 1, "forbidden", "not yours")
    assert not box.reject(PRODUCER, "s", 1, "other", "")
    assert box.committed(PRODUCER, "s", 2)
    outcome = box.outcome(PRODUCER, "s", 1)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.seq) == ("forbidden", 1)
    assert box.outcome(PRODUCER, "s", 2) is True
    assert (len(box), box.bytes) == (0, 0)


def test_a_reject_of_a_committed_message_changes_nothing() -> None:
    """What was acked as delivered stays delivered."""
    box = filled("a", "b")
    box.committed(PRODUCER, "s", 1)
    assert not box.reject(PRODUCER, "s", 1, "late", "")
    assert box.outcome(PRODUCER, "s", 1) is True


@pytest.mark.parametrize(
    ("settings", "sizes", "size", "full"),
    [
        ({"max_messages": 2}, [1], 1, False),
        ({"max_messages": 2}, [1, 1], 0, True),
        ({"max_bytes": 10}, [4, 4], 2, False),
        ({"max_bytes": 10}, [4, 4], 3, True),
        ({"max_bytes": 10}, [], 11, False),
        ({"max_bytes": 10}, [11], 0, True),
    ],
)
def test_S22_the_bounds_are_a_pair(settings: dict[str, int], sizes: list[int], size: int, full: bool) -> None:
    """Messages and bytes are bounded; one that is larger than the bound fits an empty outbox only."""
    box = unacked(**settings)
    for one in sizes:
        box.accept("s", "x" * one, one, 0.0)
    assert box.is_full(size) is full
    assert box.full_error(0.0).size == (len(sizes), sum(sizes))


def test_drop_oldest_spares_what_was_written() -> None:
    """Only what no connection was given is withdrawn, oldest first, and as much as is needed."""
    box = filled("a", "b", "c", "d", written=2, max_messages=4)
    assert box.drop_oldest(1, is_open=True) == [("s", 3)]
    assert not box.is_full(1)
    assert box.accept("s", "e", 1, 0.0) == 5
    assert box.drop_oldest(1, is_open=True) == [("s", 4)]
    assert box.drop_oldest(1, is_open=True) == []
    assert lane_of(box).item(3) == Void("dropped")
    assert [type(box.outcome(PRODUCER, "s", seq)) for seq in (2, 3, 4)] == [bool, Rejected, Rejected]
    assert (len(box), box.bytes) == (3, 3)


def test_drop_oldest_passes_what_was_dropped_before() -> None:
    """A withdrawn message is not dropped twice, and lanes of other streams have their turn."""
    box = unacked(max_messages=3)
    for stream in "aab":
        box.accept(stream, "x", 1, 0.0)
    assert box.drop_oldest(1, is_open=True) == [("a", 1)]
    box.accept("b", "x", 1, 0.0)
    assert box.drop_oldest(1, is_open=True) == [("a", 2)]
    box.accept("b", "x", 1, 0.0)
    assert box.drop_oldest(1, is_open=True) == [("b", 1)]


def test_drop_oldest_passes_what_was_withdrawn_for_another_reason() -> None:
    """A message that is too large already has its fate."""
    box = unacked(max_messages=2, max_bytes=50)
    box.accept("s", "x" * 9, 9, 0.0)
    assert box.withdraw_larger(5) == [("s", 1)]
    box.accept("s", "b", 1, 0.0)
    box.accept("s", "c", 1, 0.0)
    assert box.drop_oldest(1, is_open=True) == [("s", 2)]
    assert isinstance(box.outcome(PRODUCER, "s", 1), Rejected)


def test_a_withdrawn_message_is_a_tombstone_that_consumes_its_seq() -> None:
    """Tombstones are batches of their own with their code, and an ack settles them without counting them twice."""
    box = filled("a", "big", "c")
    assert box.withdraw_larger(2) == [("s", 2)]
    assert box.withdraw_larger(2) == []
    batches = [lane_of(box).batch(seq, 0) for seq in (1, 2, 3)]
    assert [(batch.payloads, batch.void) for batch in batches] == [(["a"], None), ([b""], "too_large"), (["c"], None)]
    assert (len(box), box.bytes) == (2, 2)
    assert box.committed(PRODUCER, "s", 3)
    assert (len(box), box.bytes) == (0, 0)
    assert isinstance(box.outcome(PRODUCER, "s", 2), Rejected)


def test_tombstones_of_one_code_share_a_batch() -> None:
    """A client that dropped many while it was offline does not write a frame for each."""
    box = unacked(max_messages=80, policy="drop_oldest")
    for _ in range(200):
        box.drop_oldest(1, is_open=True)
        box.accept("s", "x", 1, 0.0)
    lane = lane_of(box)
    sizes = [(len(batch.payloads), batch.void) for batch in (lane.batch(seq, 0) for seq in (1, 65, 120, 121))]
    assert sizes == [(64, "dropped"), (56, "dropped"), (1, "dropped"), (64, None)]
    box.give_up(lane, 121, "of a test")
    assert len(lane.batch(65, 0).payloads) == 56


def test_giving_up_fails_receipts_as_indefinite() -> None:
    """What may or may not be stored fails with Undelivered; a tombstone in between keeps its own reason."""
    box = filled("a", "big", "c", "d")
    box.withdraw_larger(2)
    box.give_up(lane_of(box), 3, "of a test")
    kinds = [type(box.outcome(PRODUCER, "s", seq)) for seq in (1, 2, 3, 4)]
    assert kinds == [Undelivered, Rejected, Undelivered, bool]
    assert len(box) == 1


def test_withdrawing_twice_frees_nothing_more() -> None:
    """A tombstone that is withdrawn again held no bytes."""
    lane = Lane(PRODUCER, "s")
    lane.append("abc")
    assert (lane.void(1, "x"), lane.void(1, "y")) == (3, 0)


def test_an_abandoned_message_is_undelivered() -> None:
    """After the end of the session what has no ack says so; what had one keeps it."""
    box = filled("a", "b")
    box.committed(PRODUCER, "s", 1)
    box.abandon()
    assert box.outcome(PRODUCER, "s", 1) is True
    undelivered = box.outcome(PRODUCER, "s", 2)
    assert isinstance(undelivered, Undelivered)
    assert undelivered.pending == {"s": (2, 2)}


@pytest.mark.parametrize(("stream", "seq"), [("s", 0), ("never", 1)])
def test_what_was_dropped_before_it_had_a_number_is_rejected(stream: str, seq: int) -> None:
    """A receipt of drop_newest has seq 0."""
    assert isinstance(filled("a").outcome(PRODUCER, stream, seq), Rejected)


def test_rule_11_messages_of_an_earlier_producer_go_first() -> None:
    """A later producer's lane of the same stream waits until the earlier one is acked; other streams do not wait."""
    box = unacked()
    box.restore(RestoredLane(EARLIER, "s", 7, ["old 7", "old 8"]))
    box.accept("s", "new 1", 5, 0.0)
    box.accept("t", "new 1", 5, 0.0)
    assert [lane.key for lane in box.writable()] == [(EARLIER, "s"), (PRODUCER, "t")]
    assert box.producers() == (PRODUCER, EARLIER)
    assert box.hello(box.producers()) == (
        HelloOutbound(producer=1, stream="s", first=7, next=9),
        HelloOutbound(producer=0, stream="s", first=1, next=2),
        HelloOutbound(producer=0, stream="t", first=1, next=2),
    )
    assert box.committed(EARLIER, "s", 8)
    assert [lane.key for lane in box.writable()] == [(PRODUCER, "s"), (PRODUCER, "t")]
    assert box.producers() == (PRODUCER,)
    assert box.pending() == {"s": (1, 1), "t": (1, 1)}


def test_pending_joins_the_producers_of_a_stream() -> None:
    """What is unacked is told per stream; rejected and withdrawn messages are left out."""
    box = unacked()
    box.restore(RestoredLane(EARLIER, "s", 7, ["a", "b"]))
    for _ in range(3):
        box.accept("s", "x", 1, 0.0)
    lane_of(box).wrote(3, 0.0, "i1")
    box.reject(PRODUCER, "s", 1, "forbidden", "")
    assert box.pending() == {"s": (2, 8)}


def test_the_first_write_of_a_message_is_remembered_roughly() -> None:
    """The oldest unacked message knows when, and under which incarnation, it was first written."""
    lane = Lane(PRODUCER, "s")
    for _ in range(6):
        lane.append("x")
    assert lane.oldest_write() is None
    lane.wrote(2, 10.0, "i1")
    lane.wrote(2, 99.0, "i9")
    lane.wrote(3, 20.0, "i1")
    lane.wrote(4, 30.0, "i2")
    lane.wrote(5, 200.0, "i2")
    assert lane.oldest_write() == Mark(3, 10.0, "i1")
    lane.settle(3)
    assert lane.oldest_write() == Mark(4, 30.0, "i2")
    lane.settle(4)
    assert lane.oldest_write() == Mark(5, 200.0, "i2")
    lane.settle(5)
    assert lane.oldest_write() is None
    assert lane.settle(4) == (0, 0)


@pytest.mark.parametrize(
    ("payloads", "sizes"),
    [
        (["x"] * 65, [64, 1]),
        (["x" * 40_000] * 3, [1, 1, 1]),
        (["x" * 100_000, "y"], [1, 1]),
        (["a", b"b", "c"], [3]),
    ],
)
def test_batches_are_bounded(payloads: list[str | bytes], sizes: list[int]) -> None:
    """At most 64 messages and about 64 KiB, but at least one message."""
    lane = Lane(PRODUCER, "s")
    for payload in payloads:
        lane.safe = lane.append(payload)
    found, seq = [], 1
    while seq < lane.next:
        batch = lane.batch(seq, 0)
        found.append(len(batch.payloads))
        seq += len(batch.payloads)
    assert found == sizes


STEPS = st.tuples(st.sampled_from(["send", "write", "ack", "reject", "void"]), st.integers(0, 40))


@given(st.lists(STEPS, max_size=80))
def test_the_counts_are_true_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """After any course of events the sizes equal what the lane holds, and every receipt has one lasting outcome."""
    box = unacked(max_messages=1_000_000)
    sent: dict[int, str] = {}
    known: dict[int, Any] = {}
    for what, n in steps:
        lane = box.lane(PRODUCER, "s")
        if what == "send":
            payload = "x" * n
            sent[box.accept("s", payload, n, 0.0)] = payload
        elif lane is None:
            continue
        elif what == "write":
            lane.wrote(min(lane.next - 1, lane.written + n), 0.0, "i1")
        elif what == "ack":
            box.committed(PRODUCER, "s", min(n, lane.written))
        elif what == "reject" and 1 <= n <= lane.written:
            box.reject(PRODUCER, "s", n, "no", "")
        elif what == "void":
            box.withdraw_larger(n)
        for seq in sent:
            found = box.outcome(PRODUCER, "s", seq)
            outcome = repr(found) if isinstance(found, Exception) else found
            assert outcome is not False or seq not in known
            assert known.setdefault(seq, outcome) == outcome or outcome is False
            if outcome is False:
                del known[seq]
    lane = box.lane(PRODUCER, "s")
    held = [] if lane is None else [lane.item(seq) for seq in range(lane.first, lane.next)]
    alive = [item for item in held if not isinstance(item, Void)]
    assert (len(box), box.bytes) == (len(alive), sum(map(len, alive)))


def test_S10_what_is_dropped_offline_does_not_stay_in_memory() -> None:
    """A device that drops for weeks keeps neither places nor reasons of what it dropped; each receipt still tells."""
    box = unacked(max_messages=10)
    for i in range(5_000):
        if box.is_full(1):
            assert box.drop_oldest(1, is_open=False) == [("s", i - 9)]
        box.accept("s", str(i % 10), 1, 0.0)
    lane = lane_of(box)
    assert (lane.first, lane.next, len(box), box.bytes) == (4_991, 5_001, 10, 10)
    assert len(lane._items) <= 2 * 1024
    assert lane.failures.runs == 1
    assert isinstance(box.outcome(PRODUCER, "s", 4_990), Rejected)
    assert box.outcome(PRODUCER, "s", 4_991) is False


def test_what_was_dropped_offline_behind_written_messages_keeps_its_place() -> None:
    """What a connection may have delivered stays in front, so tombstones take the places behind it."""
    box = unacked(max_messages=3)
    for payload in "abc":
        box.accept("s", payload, 1, 0.0)
    lane = lane_of(box)
    lane.wrote(1, 0.0, "i1")
    assert box.drop_oldest(1, is_open=False) == [("s", 2)]
    assert lane.first == 1
    assert lane.item(2) == Void("dropped")


def test_S10_what_was_acked_does_not_stay_in_memory() -> None:
    """The payloads of acked messages go at once, their places after a while, and numbers go on."""
    box = unacked(max_messages=10_000)
    for i in range(5_000):
        box.accept("s", str(i), 1, 0.0)
    lane = lane_of(box)
    lane.wrote(5_000, 0.0, "i1")
    for upto in range(100, 5_000, 100):
        box.committed(PRODUCER, "s", upto)
        assert lane.item(upto + 1) == str(upto)
        assert sum(1 for item in lane._items if item) == len(lane)
        assert len(lane._items) <= 2 * max(len(lane), 1024)
    box.committed(PRODUCER, "s", 5_000)
    assert (len(box), len(lane), lane._items) == (0, 0, [])
    assert box.accept("s", "x", 1, 0.0) == 5_001


def test_a_journal_that_kept_nothing_restores_nothing() -> None:
    """An empty lane of an earlier producer holds nobody up and is in no hello."""
    box = unacked()
    box.restore(RestoredLane("e" * 32, "s", 5, []))
    assert list(box.writable()) == []
    assert box.producers() == (PRODUCER,)
