"""Backoff and the table of close codes: attempts, delays, what an ending asks for."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.backoff import Backoff
from resilient_ws.config import Retry


class Loaded:
    """A dice that always falls on the same share of the range, and notes the ranges."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share
        self.ranges: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float, /) -> float:
        self.ranges.append((a, b))
        return a + (b - a) * self.share


def after(failures: int, retry: Retry, rng: Loaded | random.Random | None = None) -> Backoff:
    """Make a backoff that has seen so many failures, one per second from 100 on."""
    backoff = Backoff(retry, Loaded() if rng is None else rng)
    for n in range(failures):
        backoff.failed(100.0 + n)
    return backoff


class Plain(tenacity.wait.wait_base):
    """A wait object made of a function of the attempt number."""

    def __init__(self, function: Callable[[int], float]) -> None:
        self.function = function

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        return self.function(retry_state.attempt_number)


# -- delays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (6, 16.0), (7, 30.0), (8, 30.0), (500, 30.0)]
)
def test_ceiling_doubles_to_its_bound(failures: int, ceiling: float) -> None:
    """By default the delay is drawn from 0 to 0.5 s doubling to 30 s."""
    dice = Loaded()
    assert after(failures, Retry(), dice).delay(1_000.0) == ceiling
    assert dice.ranges == [(0.0, ceiling)]


def test_no_failure_no_delay() -> None:
    """Where nothing has failed the next attempt is at once, and no dice are thrown."""
    dice = Loaded()
    assert Backoff(Retry(), dice).delay(0.0) == 0.0
    assert dice.ranges == []


def test_delay_is_drawn_once_per_failure() -> None:
    """Asking again does not throw the dice again; the next failure does."""
    dice = Loaded(0.5)
    backoff = after(1, Retry(), dice)
    assert [backoff.delay(100.0), backoff.delay(101.0)] == [0.25, 0.25]
    backoff.failed(102.0)
    assert backoff.delay(102.0) == 0.5
    assert dice.ranges == [(0.0, 0.5), (0.0, 1.0)]


@given(failures=st.integers(1, 12), seed=st.integers())
def test_full_jitter_stays_in_its_range_and_repeats_with_its_seed(failures: int, seed: int) -> None:
    """A delay is between 0 and the ceiling, and the same seed draws the same one."""
    ceiling = min(0.5 * 2 ** (failures - 1), 30.0)
    first, second = (after(failures, Retry(), random.Random(seed)).delay(200.0) for _ in range(2))
    assert 0.0 <= first <= ceiling
    assert first == second


def test_full_jitter_uses_the_whole_range() -> None:
    """Delays of many clients fill the range from near 0 to near the ceiling, so that they do not come back together."""
    drawn = [after(7, Retry(), random.Random(seed)).delay(200.0) for seed in range(500)]
    assert min(drawn) < 1.0
    assert max(drawn) > 29.0
    assert 13.0 < sum(drawn) / len(drawn) < 17.0


@pytest.mark.parametrize(
    ("wait", "ceilings"),
    [
        (tenacity.wait_fixed(3), [3, 3, 3]),
        (tenacity.wait_none(), [0, 0, 0]),
        (tenacity.wait_incrementing(start=1, increment=2, max=4), [1, 3, 4]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(7)), [1, 7, 7]),
        (tenacity.wait_exponential(multiplier=1, max=60) + tenacity.wait_fixed(1), [2, 3, 5]),
    ],
)
def test_any_plain_tenacity_wait_is_the_ceiling(wait: tenacity.wait.wait_base, ceilings: list[float]) -> None:
    """Wait objects work as they are, combined ones too."""
    assert [after(n, Retry(wait=wait)).delay(200.0) for n in (1, 2, 3)] == ceilings


@pytest.mark.parametrize("exp_base", [2, 2.0, 10])
@pytest.mark.parametrize("bound", [30.0, 1e300])
def test_huge_attempt_numbers_do_not_overflow(exp_base: float, bound: float) -> None:
    """A client that has failed for years still computes its delay at once, and a finite one."""
    backoff = Backoff(Retry(wait=tenacity.wait_exponential(multiplier=0.5, exp_base=exp_base, max=bound)), Loaded())
    backoff.failures = 10**12
    assert backoff.delay(0.0) == min(bound, 7 * 86_400.0)


@pytest.mark.parametrize(
    ("answer", "ceiling"),
    [(math.inf, 7 * 86_400.0), (1e9, 7 * 86_400.0), (-1.0, 0.0), (math.nan, 0.0), (5, 5.0)],
)
def test_odd_answers_of_a_wait_object_are_bounded(answer: float, ceiling: float) -> None:
    """An infinite, negative or undefined ceiling becomes one that a timer can wait for."""
    assert after(1, Retry(wait=Plain(lambda attempt: answer))).delay(100.0) == ceiling


def test_overflow_inside_a_wait_object_is_the_longest_delay() -> None:
    """A user's own exponent that overflows is a long wait, not a crash of the session."""
    assert after(2_000, Retry(wait=Plain(lambda attempt: 10.0**attempt))).delay(0.0) == 7 * 86_400.0


def test_wait_sees_the_number_of_failures() -> None:
    """The attempt number that a wait object sees counts the failures from 1."""
    assert [after(n, Retry(wait=Plain(float))).delay(200.0) for n in (1, 2, 9)] == [1.0, 2.0, 9.0]


def test_stable_starts_anew() -> None:
    """After a stable time the first failure waits as little as the very first did (C11: not before)."""
    backoff = after(9, Retry())
    assert backoff.delay(200.0) == 30.0
    backoff.stable(200.0)
    assert (backoff.failures, backoff.started_at, backoff.delay(200.0)) == (0, None, 0.0)
    backoff.failed(300.0)
    assert (backoff.failures, backoff.started_at, backoff.delay(300.0)) == (1, 300.0, 0.5)


# -- giving up --------------------------------------------------------------------------------------------------------


def test_without_stop_it_goes_on_for_ever() -> None:
    """The default never gives up."""
    assert not after(10_000, Retry()).stopped(1e9)


def test_stop_after_attempts_counts_failures() -> None:
    """``stop_after_attempt(3)`` gives up with the third failure in a row."""
    retry = Retry(stop=tenacity.stop_after_attempt(3))
    assert [after(n, retry).stopped(200.0) for n in range(5)] == [False, False, False, True, True]


def test_stop_counts_beyond_where_the_wait_stops_growing() -> None:
    """The attempt number that ``stop`` sees is not bounded."""
    backoff = after(1, Retry(stop=tenacity.stop_after_attempt(5_000)))
    backoff.failures = 4_999
    assert not backoff.stopped(200.0)
    backoff.failures = 5_000
    assert backoff.stopped(200.0)


def test_stop_after_delay_counts_from_the_first_failure() -> None:
    """``stop_after_delay`` measures our ``now`` from the first failure after the last stable time."""
    retry = Retry(stop=tenacity.stop_after_delay(60))
    backoff = after(2, retry)
    assert [backoff.stopped(now) for now in (101.0, 159.9, 160.0)] == [False, False, True]
    backoff.stable(160.0)
    backoff.failed(10_000.0)
    assert [backoff.stopped(now) for now in (10_000.0, 10_059.9, 10_060.0)] == [False, False, True]


def test_stop_after_delay_counts_from_where_the_series_was_started() -> None:
    """A series that was declared begun, at the first connect or a loss, counts from there, and once."""
    backoff = Backoff(Retry(stop=tenacity.stop_after_delay(60)), Loaded())
    backoff.started(50.0)
    backoff.started(90.0)
    backoff.failed(100.0)
    assert backoff.started_at == 50.0
    assert [backoff.stopped(now) for now in (109.0, 110.0)] == [False, True]


def test_stop_needs_a_failure() -> None:
    """However long a series lasts: before anything failed there is nothing to give up."""
    backoff = Backoff(Retry(stop=tenacity.stop_after_delay(1)), Loaded())
    backoff.started(0.0)
    assert not backoff.stopped(100.0)


def test_stop_before_delay_sees_the_delay_that_was_drawn() -> None:
    """``stop_before_delay`` gives up where the next attempt would come too late, and the delay stays the one it saw."""
    dice = Loaded()
    backoff = Backoff(Retry(wait=tenacity.wait_fixed(10), stop=tenacity.stop_before_delay(60)), dice)
    backoff.failed(0.0)
    assert [backoff.stopped(now) for now in (49.9, 50.0)] == [False, True]
    assert backoff.delay(50.0) == 10.0
    assert len(dice.ranges) == 1


def test_combined_stops_work() -> None:
    """Stops joined by ``|`` and ``&`` are evaluated as tenacity does."""
    either = tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(10)
    both = tenacity.stop_after_attempt(5) & tenacity.stop_after_delay(10)
    assert [after(5, Retry(stop=stop)).stopped(104.0) for stop in (either, both)] == [True, False]
    assert [after(5, Retry(stop=stop)).stopped(110.0) for stop in (either, both)] == [True, True]


def test_an_older_now_is_no_negative_time() -> None:
    """Two threads that read the clock in the other order make no series of negative length."""
    seen: list[float | None] = []

    class Spy(tenacity.stop.stop_base):
        def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
            seen.append(retry_state.seconds_since_start)
            return False

    backoff = after(1, Retry(stop=Spy()))
    assert not backoff.stopped(99.0)
    assert not backoff.stopped(103.0)
    assert seen == [0.0, 3.0]


# -- connect timeout --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "first", "most", "timeout"),
    [
        (0, 10.0, 60.0, 10.0),
        (1, 10.0, 60.0, 20.0),
        (2, 10.0, 60.0, 40.0),
        (3, 10.0, 60.0, 60.0),
        (10**9, 10.0, 60.0, 60.0),
        (10**30, 10.0, 60.0, 60.0),
        (5, 90.0, 60.0, 90.0),
        (1, 1, 60.0, 2.0),
    ],
)
def test_connect_timeout_grows(failures: int, first: float, most: float, timeout: float) -> None:
    """Each failure doubles the time that an attempt gets, to its bound, and never below the first (fault Z4)."""
    backoff = Backoff(Retry(connect_timeout=first, max_connect_timeout=most), Loaded())
    backoff.failures = failures
    assert backoff.connect_timeout() == timeout


def test_the_ceiling_grows_with_each_round_over_the_endpoints() -> None:
    """Three endpoints are tried under one ceiling before it doubles, and so is the time that an attempt may take."""
    backoff = Backoff(Retry(connect_timeout=1.0), Loaded(), 3)
    delays, timeouts = [], []
    for _ in range(7):
        backoff.failed(0.0)
        delays.append(backoff.delay(0.0))
        timeouts.append(backoff.connect_timeout())
    assert delays == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 2.0]
    assert timeouts == [1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0]
