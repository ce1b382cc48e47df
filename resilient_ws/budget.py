"""
A token bucket: how often something may be done in a time, whatever happens. Pure: the present comes in.
"""

from __future__ import annotations

import math

import attrs


@attrs.define
class Bucket:
    """
    Allow ``burst`` at once, and one more every ``refill`` seconds.

    It is kept as the instant at which the bucket would be full again (the generic cell rate algorithm), so that nothing
    runs while nothing is done, and a clock that stands still gives nothing away.
    """

    burst: int
    refill: float
    _full_at: float = -math.inf

    def spend(self, now: float) -> None:
        """Take one, whether it is there or not."""
        self._full_at = max(self._full_at, now) + self.refill

    def ready_at(self) -> float:
        """Return from when on there is one."""
        return self._full_at - (self.burst - 1) * self.refill
