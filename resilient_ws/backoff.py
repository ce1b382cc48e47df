"""
How often and how soon to try again: attempts in a row and the delays between them.

Pure: tenacity's objects are evaluated on a state that is built by hand from our ``now``; nothing here sleeps, reads a
clock or dials. Which endpoint comes next is :mod:`resilient_ws.endpoints`' business, what an ending means
:mod:`resilient_ws.treatments`'.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import attrs
import tenacity

from resilient_ws.config import Retry

# Exponential waits compute base ** attempt: beyond this number the ceiling does not change any more, only the cost.
_LAST_GROWTH = 1_000
# A wait object may answer infinity; selectors take at most 2**31 milliseconds.
_LONGEST_DELAY = 7 * 86_400.0


class Rng(Protocol):
    """What :class:`Backoff` needs of a ``random.Random``."""

    def uniform(self, a: float, b: float, /) -> float: ...


@attrs.define
class Backoff:
    """
    Count failures in a row and say how long to wait after them.

    ``retry.wait`` gives the *ceiling* of a delay, which is then drawn uniformly from 0 to it (full jitter). A plain
    wait object (``wait_exponential``, ``wait_fixed``, ``wait_chain`` ...) is the right one there: tenacity's random
    ones draw from the process's global generator, so the ceiling jitters on top and a seeded run is no longer
    repeatable. Objects that look at ``outcome`` (``wait_exception``) do not work: there is none.

    With several endpoints the ceiling grows with each round over them, not with each failure: two dead nodes of three
    say nothing about the third one.

    Attributes:
        failures: Failures in a row since the last stable time.
        started_at: When the present series of attempts began; None while there is none.
    """

    _retry: Retry
    _rng: Rng
    _endpoints: int = 1
    failures: int = attrs.field(default=0, init=False)
    started_at: float | None = attrs.field(default=None, init=False)
    _drawn: float | None = attrs.field(default=None, init=False)

    @property
    def rounds(self) -> int:
        """Rounds over all endpoints that failures were counted in: what makes the delay grow."""
        return -(-self.failures // self._endpoints)

    def resized(self, endpoints: int) -> None:
        """There are so many endpoints now; what was counted stays."""
        self._endpoints = max(1, endpoints)

    def started(self, now: float) -> None:
        """Note that a series of attempts begins (first connect, loss of a stable connection); one under way goes on."""
        if self.started_at is None:
            self.started_at = now

    def failed(self, now: float) -> None:
        """Count an attempt that failed, or a connection that was lost before it was stable."""
        self.started(now)
        self.failures += 1
        self._drawn = None

    def stable(self, now: float) -> None:
        """Start anew: a connection has proved itself. ``now`` is not kept: the next series begins when it begins."""
        self.failures = 0
        self.started_at = None
        self._drawn = None

    def delay(self, now: float) -> float:
        """
        Say how many seconds to wait before the next attempt.

        Drawn once per failure: asking again gives the same answer.

        Returns:
            Seconds; 0 where nothing has failed.
        """
        if self.failures == 0:
            return 0.0
        if self._drawn is None:
            self._drawn = self._rng.uniform(0.0, self._ceiling(now))
        return self._drawn

    def stopped(self, now: float) -> bool:
        """Say whether ``retry.stop`` gives up, given the failures, the seconds of the series and the next delay."""
        if self._retry.stop is None or self.failures == 0:
            return False
        state = self._state(now, self.failures)
        state.upcoming_sleep = self.delay(now)
        return bool(self._retry.stop(state))

    def connect_timeout(self) -> float:
        """
        Say how many seconds the next attempt may take.

        Doubles per round of failures: a timeout shorter than the queue of a server under a herd would never connect
        anybody.
        ``max_connect_timeout`` bounds the growth, never ``connect_timeout`` itself.
        """
        first = self._retry.connect_timeout
        try:
            grown = math.ldexp(first, self.failures // self._endpoints)
        except OverflowError:
            grown = math.inf
        return max(first, min(grown, self._retry.max_connect_timeout))

    def _ceiling(self, now: float) -> float:
        try:
            ceiling = float(self._retry.wait(self._state(now, min(self.rounds, _LAST_GROWTH))))
        except OverflowError:
            return _LONGEST_DELAY
        return min(ceiling, _LONGEST_DELAY) if ceiling > 0 else 0.0

    def _state(self, now: float, attempt: int) -> tenacity.RetryCallState:
        state = tenacity.RetryCallState(cast(Any, None), None, (), {})
        # Its constructor read the clock: both instants are ours.
        state.start_time = now if self.started_at is None else min(self.started_at, now)
        state.outcome_timestamp = now
        state.attempt_number = attempt
        return state
