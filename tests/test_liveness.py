"""Liveness: when a ping is due, when a peer is lost, and what our own lateness changes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_ws.liveness import LEAST_PROBE, Liveness, RoundTrip


def watch(interval: float = 20.0, timeout: float = 10.0, now: float = 100.0) -> Liveness:
    """Watch a connection that was made at 100."""
    return Liveness(interval=interval, timeout=timeout, now=now)


# -- pings and loss ---------------------------------------------------------------------------------------------------


def test_ping_is_due_after_silence() -> None:
    """A ping is due once ``interval`` seconds have passed without a frame, and not before."""
    liveness = watch()
    assert liveness.next_deadline() == 120.0
    assert [liveness.ping_due(now) for now in (100.0, 119.9, 120.0, 500.0)] == [False, False, True, True]


def test_any_frame_puts_the_ping_off() -> None:
    """An inbound frame is life: the silence counts from it."""
    liveness = watch()
    liveness.heard(115.0)
    assert liveness.next_deadline() == 135.0
    assert [liveness.ping_due(now) for now in (120.0, 134.9, 135.0)] == [False, False, True]


def test_one_ping_at_a_time() -> None:
    """While a ping has no answer no further one is due."""
    liveness = watch()
    liveness.pinged(120.0)
    assert [liveness.ping_due(now) for now in (120.0, 129.9, 1_000.0)] == [False, False, False]


def test_lost_after_an_unanswered_ping() -> None:
    """The connection is lost when nothing was heard for ``timeout`` seconds after the ping."""
    liveness = watch()
    liveness.pinged(120.0)
    assert liveness.next_deadline() == 130.0
    assert [liveness.lost(now) for now in (120.0, 129.9, 130.0, 131.0)] == [False, False, True, True]


def test_any_frame_saves() -> None:
    """Whatever arrives after a ping is an answer, pong or not, and the next ping is a full interval away."""
    liveness = watch()
    liveness.pinged(120.0)
    liveness.heard(129.9)
    assert not liveness.lost(140.0)
    assert liveness.next_deadline() == 149.9


def test_silence_without_a_ping_is_no_loss() -> None:
    """A peer that was asked nothing owes nothing, however long it is silent."""
    assert not watch().lost(1e9)


def test_further_pings_postpone_nothing() -> None:
    """A second ping, sent as a probe, does not give a dead peer more time."""
    liveness = watch()
    liveness.pinged(120.0)
    liveness.pinged(129.0)
    assert liveness.lost(130.0)


def test_early_probe_counts() -> None:
    """A ping that was sent before it was due starts the timeout too."""
    liveness = watch()
    liveness.pinged(101.0)
    assert [liveness.lost(now) for now in (110.9, 111.0)] == [False, True]


def test_older_instant_does_not_turn_time_back() -> None:
    """Frames that two readers note in the other order leave the later instant."""
    liveness = watch()
    liveness.heard(115.0)
    liveness.heard(110.0)
    assert liveness.next_deadline() == 135.0


def test_zero_is_an_instant() -> None:
    """Time may start at 0: no instant is mistaken for a missing one."""
    liveness = Liveness(interval=1.0, timeout=1.0, now=-1.0)
    assert liveness.next_deadline() == 0.0
    assert liveness.ping_due(0.0)
    liveness = Liveness(interval=1.0, timeout=1.0, now=-2.0)
    liveness.pinged(-1.0)
    assert liveness.next_deadline() == 0.0
    assert liveness.lost(0.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_durations_are_above_zero(bad: float) -> None:
    """A duration that would spin is refused with its value."""
    with pytest.raises(ValueError, match=rf"interval={bad!r}"):
        watch(interval=bad)
    with pytest.raises(ValueError, match=rf"timeout={bad!r}"):
        watch(timeout=bad)
    with pytest.raises(ValueError, match=rf"floor={bad!r}"):
        Liveness(interval=1.0, timeout=1.0, floor=bad, now=0.0)


# -- no busy loop -----------------------------------------------------------------------------------------------------


def test_unheeded_ping_does_not_spin() -> None:
    """A caller that was told to ping and could not is asked again later, not at once."""
    liveness = watch(interval=20.0, timeout=10.0)
    assert liveness.ping_due(120.0)
    assert liveness.next_deadline() == 130.0
    assert liveness.ping_due(130.0)
    assert liveness.next_deadline() == 140.0


def test_unheeded_loss_does_not_spin() -> None:
    """A caller that has not shut a lost connection yet is asked again later, not at once."""
    liveness = watch(interval=2.0, timeout=10.0)
    liveness.pinged(102.0)
    assert liveness.lost(112.0)
    assert liveness.next_deadline() == 114.0


def test_missed_deadline_stays_due_until_it_is_decided() -> None:
    """A deadline that nobody has looked at yet is not moved by the passing of time."""
    liveness = watch()
    liveness.heard(100.0)
    assert not liveness.ping_due(119.0)
    assert not liveness.lost(500.0)
    assert liveness.next_deadline() == 120.0


# -- we were away -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "lateness", "told"),
    [
        (20.0, 0.0, 0.0),
        (20.0, -5.0, 0.0),
        (20.0, 5.0, 0.0),
        (20.0, 5.5, 5.5),
        (2.0, 2.0, 0.0),
        (2.0, 2.5, 2.5),
        (20.0, 3_600.0, 3_600.0),
        (0.25, 0.5, 0.0),
        (0.25, 1.0, 0.0),
        (0.25, 1.5, 1.5),
    ],
)
def test_lateness_counts_above_a_second_and_the_shorter_duration(interval: float, lateness: float, told: float) -> None:
    """Only a timer that is late by more than 1 s, and by more than interval or timeout, says that we were away."""
    liveness = watch(interval=interval, timeout=5.0)
    before = liveness.next_deadline()
    assert liveness.late(200.0 + lateness, 200.0) == told
    assert (liveness.next_deadline() != before) == (told > 0)


def test_sleep_does_not_kill() -> None:
    """K4, X4: after a sleep in which a ping ran out, the peer is pinged again at once and has a full timeout."""
    liveness = watch()
    liveness.pinged(120.0)
    assert liveness.late(4_000.0, liveness.next_deadline()) == 3_870.0
    assert not liveness.lost(4_000.0)
    assert liveness.next_deadline() <= 4_000.0
    assert liveness.ping_due(4_000.0)
    liveness.pinged(4_000.0)
    assert liveness.next_deadline() == 4_010.0
    assert [liveness.lost(now) for now in (4_009.9, 4_010.0)] == [False, True]


def test_without_the_judgement_of_lateness_sleep_kills() -> None:
    """The control of the test above: the same schedule without ``late`` loses the connection."""
    liveness = watch()
    liveness.pinged(120.0)
    assert liveness.lost(4_000.0)


def test_short_lateness_does_not_save_a_dead_peer() -> None:
    """A timer that is late as busy machines are late changes nothing."""
    liveness = watch()
    liveness.pinged(120.0)
    assert liveness.late(131.0, 130.0) == 0.0
    assert liveness.lost(131.0)


def test_each_sleep_gets_its_own_probe() -> None:
    """Sleeping again before the probe could be answered is not held against the peer either."""
    liveness = watch()
    for now in (1_000.0, 2_000.0):
        assert liveness.late(now, liveness.next_deadline()) > 0.0
        assert not liveness.lost(now)
        assert liveness.ping_due(now)
        liveness.pinged(now)
    assert [liveness.lost(now) for now in (2_009.9, 2_010.0)] == [False, True]


def test_life_after_a_sleep_ends_the_probe() -> None:
    """A frame that is heard after the wake-up puts the next ping a full interval away."""
    liveness = watch()
    assert liveness.late(1_000.0, 120.0) == 880.0
    liveness.heard(1_000.5)
    assert not liveness.ping_due(1_001.0)
    assert liveness.next_deadline() == 1_020.5


# -- how long an answer takes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "longest"),
    [
        ([], math.inf),
        ([0.1], 0.3),
        ([0.1, 0.1], 0.25),
        ([0.1, 0.3], 0.475),
        ([0.1, 0.3, 0.2], 0.471875),
        ([0.1, -1.0], 0.3),
        ([0.0], 0.0),
    ],
)
def test_round_trip_is_that_of_rfc_6298(samples: list[float], longest: float) -> None:
    """SRTT + 4 RTTVAR, alpha 1/8 and beta 1/4, worked out by hand from section 2; a clock that went back is none."""
    round_trip = RoundTrip()
    for sample in samples:
        round_trip.measured(sample)
    assert round_trip.longest == pytest.approx(longest)


def adaptive(*samples: float, floor: float = 1.0, timeout: float = 20.0, interval: float = 20.0) -> Liveness:
    """Watch a connection that was made at 100, whose answers took so long."""
    liveness = Liveness(interval=interval, timeout=timeout, floor=floor, now=100.0)
    for sample in samples:
        liveness.measured(sample)
    return liveness


@pytest.mark.parametrize(
    ("samples", "deadline"),
    [((), 20.0), ((0.01,), 1.0), ((0.5,), 1.5), ((60.0,), 20.0), ((3.0, *[0.01] * 200), 1.0), ((0.01, 3.0), 3.389)],
)
def test_deadline_follows_the_round_trip(samples: tuple[float, ...], deadline: float) -> None:
    """Between floor and timeout; the whole timeout while nothing is known; forgotten after many better ones."""
    liveness = adaptive(*samples)
    assert liveness.deadline == pytest.approx(deadline, abs=0.001)
    liveness.pinged(120.0)
    assert liveness.next_deadline() == pytest.approx(120.0 + liveness.deadline)


def test_without_a_floor_the_timeout_is_fixed() -> None:
    """The user's own timeout is what he said, whatever was measured."""
    liveness = watch()
    liveness.measured(0.01)
    assert liveness.deadline == 10.0


def test_a_ping_behind_much_has_the_whole_timeout() -> None:
    """T9: behind a slow upload a round trip says nothing; the control is the same ping with nothing before it."""
    for is_behind, gone in ((True, False), (False, True)):
        liveness = adaptive(0.01)
        liveness.pinged(120.0, is_behind=is_behind)
        assert liveness.lost(121.5) == gone
        assert liveness.lost(140.0)


# -- what was sent and is not answered --------------------------------------------------------------------------------


@pytest.mark.parametrize(("sample", "after"), [(0.01, LEAST_PROBE), (0.2, 0.6), (60.0, 20.0)])
def test_an_unanswered_send_is_asked_about(sample: float, after: float) -> None:
    """As soon as the round trip lets expect an answer, not sooner than 0.25 s, and never later than the interval."""
    liveness = adaptive(sample)
    liveness.sent(100.0)
    assert liveness.next_deadline() == pytest.approx(100.0 + after)
    assert not liveness.ping_due(100.0 + after - 0.01)
    assert liveness.ping_due(100.0 + after)
    liveness.pinged(100.0 + after)
    assert liveness.next_deadline() == pytest.approx(100.0 + after + liveness.deadline)


def test_an_answered_send_asks_nothing() -> None:
    """Any frame after it is an answer; the look that was planned finds nothing to do, and the interval counts."""
    liveness = adaptive(0.01)
    liveness.sent(100.0)
    liveness.heard(100.1)
    assert not liveness.ping_due(100.3)
    assert liveness.next_deadline() == 120.1


def test_a_busy_connection_plans_one_look_at_a_time() -> None:
    """A later send does not move the look; where it was answered in between, the look moves behind the new one."""
    liveness = adaptive(0.01)
    liveness.sent(100.0)
    liveness.heard(100.1)
    liveness.sent(100.2)
    liveness.sent(100.22)
    assert liveness.next_deadline() == 100.25
    assert not liveness.ping_due(100.25)
    assert liveness.next_deadline() == pytest.approx(100.45)
    assert liveness.ping_due(100.46)


def test_a_ping_that_is_out_asks_for_all() -> None:
    """While a ping has no answer a send plans nothing, and once it is answered the next one does."""
    liveness = adaptive(0.01)
    liveness.pinged(100.0)
    liveness.sent(100.1)
    assert liveness.next_deadline() == 101.0
    liveness.heard(100.5)
    liveness.sent(100.6)
    assert liveness.next_deadline() == pytest.approx(100.85)


# -- anything at all --------------------------------------------------------------------------------------------------

DURATIONS = st.floats(0.1, 60.0)


class AnyConnection(RuleBasedStateMachine):
    """A caller that keeps the contract, under any order of frames, samples, sends, waiting and sleeping."""

    @initialize(interval=DURATIONS, timeout=DURATIONS, floor=st.none() | DURATIONS)
    def make(self, interval: float, timeout: float, floor: float | None) -> None:
        self.now = 1_000.0
        self.interval, self.timeout = interval, timeout
        self.least = timeout if floor is None else min(floor, timeout)
        self.liveness = Liveness(interval=interval, timeout=timeout, floor=floor, now=self.now)
        self.pinged_at: float | None = None

    @rule(share=st.floats(0.0, 0.99))
    def frame(self, share: float) -> None:
        self.now = max(self.now, self.now + (self.liveness.next_deadline() - self.now) * share)
        self.liveness.heard(self.now)
        self.pinged_at = None

    @rule()
    def timer(self) -> None:
        self.fire(self.liveness.next_deadline(), 0.0)

    @rule(seconds=st.floats(61.0, 1e6))
    def sleep(self, seconds: float) -> None:
        self.fire(self.liveness.next_deadline(), seconds)

    def fire(self, planned: float, lateness: float) -> None:
        self.now = planned + lateness
        if self.liveness.late(self.now, planned) > 0.0:
            self.pinged_at = None
        if self.liveness.lost(self.now):
            assert self.pinged_at is not None
            assert self.now - self.pinged_at >= self.least * 0.999
        if self.liveness.ping_due(self.now):
            self.liveness.pinged(self.now)
            self.pinged_at = self.now

    @rule(seconds=st.floats(0.0, 10.0))
    def measure(self, seconds: float) -> None:
        self.liveness.measured(seconds)

    @rule()
    def send(self) -> None:
        self.liveness.sent(self.now)

    @invariant()
    def the_next_decision_is_in_the_future_and_not_far(self) -> None:
        assert self.now < self.liveness.next_deadline() <= self.now + max(self.interval, self.timeout)


TestAnyConnection = AnyConnection.TestCase
TestAnyConnection.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(interval=DURATIONS, timeout=DURATIONS, frames=st.lists(st.floats(0.0, 0.99), max_size=10))
def test_dead_peer_is_lost_in_time(interval: float, timeout: float, frames: list[float]) -> None:
    """From its last frame on a peer that died is lost after interval and timeout, with two timers and one ping."""
    liveness = Liveness(interval=interval, timeout=timeout, now=0.0)
    now = 0.0
    for share in frames:
        now += interval * share
        liveness.heard(now)
    pings, died, timers = 0, now, 0
    while not liveness.lost(now):
        if liveness.ping_due(now):
            liveness.pinged(now)
            pings += 1
        now = liveness.next_deadline()
        timers += 1
    assert (pings, timers) == (1, 2)
    assert now - died == pytest.approx(interval + timeout)


def test_pings_of_a_peer_that_may_not_hear_us_count_for_a_while() -> None:
    """A peer that only pings is pinged after interval + timeout, and lost where it answers nothing; an answer helps."""
    live = Liveness(interval=1.0, timeout=3.0, now=0.0)
    for now in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5):
        live.spoken(now)
        assert not live.ping_due(now)
    for now in (4.0, 4.5):
        live.spoken(now)
    assert live.ping_due(4.5)
    live.pinged(4.5)
    live.spoken(7.0)
    assert not live.lost(7.4)
    assert live.lost(7.5)
    live.heard(7.4)
    assert not live.lost(7.5)
    live.spoken(8.0)
    assert live.next_deadline() == 9.0
