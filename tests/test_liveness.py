"""Liveness: when a ping is due, when a peer is lost, and what our own lateness changes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient_ws.liveness import Liveness


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
    """An interval or timeout that would spin is refused with its value, at the start and later."""
    with pytest.raises(ValueError, match=rf"interval={bad!r}"):
        watch(interval=bad)
    with pytest.raises(ValueError, match=rf"timeout={bad!r}"):
        watch(timeout=bad)
    liveness = watch()
    with pytest.raises(ValueError, match="timeout"):
        liveness.retune(interval=1.0, timeout=bad, now=100.0)
    assert liveness.next_deadline() == 120.0
    liveness.heard(101.0)
    assert liveness.next_deadline() == 121.0


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
        (20.0, 20.0, 0.0),
        (20.0, 20.5, 20.5),
        (20.0, 3_600.0, 3_600.0),
        (0.25, 0.5, 0.0),
        (0.25, 1.0, 0.0),
        (0.25, 1.5, 1.5),
    ],
)
def test_lateness_counts_above_a_second_and_the_interval(interval: float, lateness: float, told: float) -> None:
    """Only a timer that is late by more than 1 s and more than the interval says that we were away."""
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


# -- other durations --------------------------------------------------------------------------------------------------


def test_retune_takes_the_silence_so_far_into_account() -> None:
    """A shorter interval counts from the last frame, so that the ping may be due at once."""
    liveness = watch()
    liveness.heard(105.0)
    liveness.retune(interval=1.0, timeout=3.0, now=105.5)
    assert liveness.next_deadline() == 106.0
    liveness.pinged(106.0)
    assert liveness.next_deadline() == 109.0


def test_retune_gives_a_ping_under_way_the_new_timeout() -> None:
    """A shorter timeout does not make a connection lost in hindsight."""
    liveness = watch()
    liveness.pinged(120.0)
    liveness.retune(interval=1.0, timeout=2.0, now=125.0)
    assert [liveness.lost(now) for now in (125.0, 126.9, 127.0)] == [False, False, True]


def test_retune_changes_what_counts_as_late() -> None:
    """Lateness is measured against the present interval."""
    liveness = watch(interval=20.0)
    assert liveness.late(210.0, 200.0) == 0.0
    liveness.retune(interval=2.0, timeout=2.0, now=210.0)
    assert liveness.late(220.0, 210.0) == 10.0


# -- anything at all --------------------------------------------------------------------------------------------------

DURATIONS = st.floats(0.1, 60.0)


class AnyConnection(RuleBasedStateMachine):
    """A caller that keeps the contract, under any order of frames, waiting, sleeping and retuning."""

    @initialize(interval=DURATIONS, timeout=DURATIONS)
    def make(self, interval: float, timeout: float) -> None:
        self.now = 1_000.0
        self.interval, self.timeout = interval, timeout
        self.liveness = Liveness(interval=interval, timeout=timeout, now=self.now)
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
            assert self.now - self.pinged_at >= self.timeout * 0.999
        if self.liveness.ping_due(self.now):
            self.liveness.pinged(self.now)
            self.pinged_at = self.now

    @rule(interval=DURATIONS, timeout=DURATIONS)
    def welcome(self, interval: float, timeout: float) -> None:
        self.interval, self.timeout = interval, timeout
        self.liveness.heard(self.now)
        self.liveness.retune(interval=interval, timeout=timeout, now=self.now)
        self.pinged_at = None

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
