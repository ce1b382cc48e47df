"""The recorder: what is counted, and how long a recovery took."""

from __future__ import annotations

import attrs
import pytest

from server_fixture.chaos import Strike
from server_fixture.history import Deliver, GapReported, Receipt, Reconnected, Resumed, Send, Subscribed
from server_fixture.recorder import Ending, Recorder, Spread, Struck, Tally


@attrs.define
class Clock:
    """Time that is set."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at 0."""
    return Clock()


@pytest.fixture
def recorder(clock: Clock) -> Recorder:
    """A recorder without sessions."""
    return Recorder(clock)


@pytest.fixture
def tally(recorder: Recorder) -> Tally:
    """A session that sends and receives, connected to node ``a``."""
    one = recorder.joins("one", sends=True, receives=True)
    recorder.connected(one, "a")
    return one


def test_recovery_is_from_the_kill_to_resumed_and_to_the_first_message(
    recorder: Recorder, clock: Clock, tally: Tally
) -> None:
    """Both are measured from the SIGKILL; what the inbox still held does not count as the first message."""
    recorder.struck(Strike(1.0, ("a",), 2))
    recorder.cut(tally)
    clock.now = 1.1
    recorder.delivered(tally, "s", "e", 1, "still in the inbox")
    clock.now = 1.2
    recorder.connected(tally, "b")
    recorder.resumed(tally, "b")
    clock.now = 1.5
    recorder.delivered(tally, "s", "e", 2, "new")
    recorder.delivered(tally, "s", "e", 3, "later")
    assert recorder.spread(recorder.recoveries) == Spread(1, 200.0, 200.0, 200.0)
    assert recorder.spread(recorder.to_message) == Spread(1, 500.0, 500.0, 500.0)
    assert (tally.cuts, tally.reconnects, tally.resumed, tally.delivered, tally.node) == (1, 1, 1, 3, "b")


def test_session_elsewhere_is_not_struck(recorder: Recorder, clock: Clock, tally: Tally) -> None:
    """A kill of a node without the session measures nothing of it."""
    recorder.struck(Strike(1.0, ("b",), 2))
    recorder.resumed(tally, "a")
    recorder.delivered(tally, "s", "e", 1, "x")
    assert (recorder.recoveries, recorder.to_message) == ([], [])


def test_recovery_without_a_node_left_is_counted_apart(recorder: Recorder, clock: Clock, tally: Tally) -> None:
    """A session whose node was killed, and then every other one before it resumed, is apart, from the first kill on."""
    recorder.struck(Strike(1.0, ("a",), 1))
    recorder.cut(tally)
    recorder.struck(Strike(2.0, ("b", "c"), 0))
    clock.now = 5.0
    recorder.resumed(tally, "b")
    recorder.delivered(tally, "s", "e", 1, "x")
    assert recorder.spread(recorder.recoveries).count == 0
    assert recorder.spread(recorder.recoveries, was_left=False) == Spread(1, 4000.0, 4000.0, 4000.0)
    assert recorder.spread(recorder.to_message, was_left=False).max == 4000.0


def test_publisher_waits_for_no_message(recorder: Recorder, clock: Clock) -> None:
    """A session that receives nothing has a recovery and no first message."""
    one = recorder.joins("publisher", sends=True, receives=False)
    recorder.connected(one, "a")
    recorder.struck(Strike(1.0, ("a",), 1))
    assert one.struck == Struck(1.0, "kill", True)
    assert one.unheard is None


def test_failed_attempts_are_no_cuts(recorder: Recorder, tally: Tally) -> None:
    """Only a connection that was there can be cut."""
    recorder.cut(tally)
    recorder.cut(tally)
    assert tally.cuts == 1


def test_end_of_an_older_connection_is_no_cut(recorder: Recorder, tally: Tally) -> None:
    """A session that has moved to another node is there, whenever the connection that it left ends."""
    recorder.struck(Strike(1.0, ("a",), 2, "drain"))
    recorder.connected(tally, "b", 2)
    recorder.resumed(tally, "b")
    recorder.cut(tally, 0)
    assert (tally.node, tally.cuts, tally.reconnects) == ("b", 1, 1)
    assert [recovery.kind for recovery in recorder.recoveries] == ["drain"]
    recorder.cut(tally, 2)
    assert (tally.node, tally.cuts) == (None, 2)


def test_fault_that_was_sat_out_needs_no_recovery(recorder: Recorder, clock: Clock, tally: Tally) -> None:
    """Who is still on the node when a pause ends is not struck; a later loss of that connection is another matter."""
    recorder.struck(Strike(1.0, ("a",), 2, "pause"))
    recorder.passed("pause", "b")
    assert tally.struck == Struck(1.0, "pause", True)
    recorder.passed("pause", "a")
    assert [tally.struck, tally.unheard] == [None, None]
    clock.now = 9.0
    recorder.cut(tally)
    recorder.connected(tally, "b")
    recorder.resumed(tally, "b")
    assert recorder.recoveries == []


def test_who_left_before_the_fault_was_over_recovered_from_it(recorder: Recorder, clock: Clock, tally: Tally) -> None:
    """Recoveries are counted by kind, and one that is under way is not ended by the end of its fault."""
    recorder.struck(Strike(1.0, ("a",), 2, "stall"))
    recorder.cut(tally)
    recorder.passed("stall", "a")
    clock.now = 3.0
    recorder.connected(tally, "b")
    recorder.resumed(tally, "b")
    assert recorder.spread(recorder.recovered("stall")) == Spread(1, 2000.0, 2000.0, 2000.0)
    assert recorder.recovered("pause") == []


def test_ends_are_kept_with_their_reasons(recorder: Recorder, clock: Clock, tally: Tally) -> None:
    """Of each connection that a session had it is known where and when it ended, and why; of mere attempts nothing."""
    clock.now = 4.0
    recorder.cut(tally, 0, 1006, "keepalive timeout")
    recorder.cut(tally, 1, 0, "refused")
    assert recorder.endings == [Ending("one", "a", 4.0, 1006, "keepalive timeout")]


def test_where_somebody_is(recorder: Recorder, tally: Tally) -> None:
    """A node is peopled while a session is connected to it."""
    assert (recorder.is_peopled("a"), recorder.is_peopled("b")) == (True, False)
    recorder.cut(tally)
    assert not recorder.is_peopled("a")


def test_ops_are_recorded_in_order(recorder: Recorder, clock: Clock, tally: Tally) -> None:
    """Everything that the checker needs is in the history, and the counts agree with it."""
    recorder.subscribed(tally, "s", "e", 4)
    recorder.sent(tally, "p", "out", 1, b"\x01")
    assert tally.unresolved == 1
    recorder.resolved(tally, "p", "out", 1, "ok", None)
    recorder.sent(tally, "p", "out", 2, "two")
    recorder.resolved(tally, "p", "out", 2, "fail", "too_large")
    recorder.delivered(tally, "s", "e", 5, "five")
    recorder.gap(tally, GapReported("one", 0.0, "s", "e2", 6, None, 3, "epoch"))
    assert (tally.sent, tally.committed, tally.unresolved, tally.gaps) == (2, 1, 0, 1)
    assert tally.seen == {"s": ("e2", 2)}
    recorder.cut(tally)
    recorder.connected(tally, "b")
    recorder.resumed(tally, "b")
    assert list(recorder.history) == [
        Subscribed("one", 0.0, "s", "e", 5),
        Send("one", 0.0, "p", "out", 1, "binary:01"),
        Receipt("one", 0.0, "p", "out", 1, "ok"),
        Send("one", 0.0, "p", "out", 2, "text:two"),
        Receipt("one", 0.0, "p", "out", 2, "fail", "too_large"),
        Deliver("one", 0.0, "s", "e", 5, "text:five"),
        GapReported("one", 0.0, "s", "e2", 6, None, 3, "epoch"),
        Reconnected("one", 0.0, "b"),
        Resumed("one", 0.0, "b"),
    ]
    assert recorder.total("sent") == 2


def test_waiting_ends_with_what_is_waited_for(recorder: Recorder, tally: Tally) -> None:
    """A condition that holds ends the wait, one that does not gives False when the time is over."""
    assert recorder.wait(lambda: tally.node == "a", 0.0)
    assert not recorder.wait(lambda: tally.node == "b", 0.01)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([], Spread(0, None, None, None)),
        ([0.0015], Spread(1, 1.5, 1.5, 1.5)),
        ([0.001 * number for number in range(1, 101)], Spread(100, 50.0, 99.0, 100.0)),
    ],
)
def test_durations_are_summed_up(seconds: list[float], expected: Spread) -> None:
    """Percentiles are durations that occurred; without any there is none."""
    assert Spread.of(reversed(seconds)) == expected
