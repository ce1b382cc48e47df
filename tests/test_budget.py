"""The token bucket: what it allows in any window, and that it never allows more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.budget import Bucket


def times(bucket: Bucket, count: int, now: float = 100.0) -> list[float]:
    """Spend as soon as possible, so many times; return when."""
    found = []
    for _ in range(count):
        now = max(now, bucket.ready_at())
        bucket.spend(now)
        found.append(now)
    return found


def test_a_burst_then_one_each_refill() -> None:
    """So many at once, then one at a time: ten in the first ten seconds with 5 and 2 s."""
    assert times(Bucket(5, 2.0), 11) == [100.0] * 5 + [102.0, 104.0, 106.0, 108.0, 110.0, 112.0]


def test_it_fills_again_and_no_further() -> None:
    """A long rest gives a whole burst, not more."""
    bucket = Bucket(3, 1.0)
    times(bucket, 3)
    assert times(bucket, 4, 1_000.0) == [1_000.0] * 3 + [1_001.0]


def test_overdrawn_is_waited_for() -> None:
    """What was taken without being there is missing later."""
    bucket = Bucket(1, 2.0)
    for _ in range(3):
        bucket.spend(10.0)
    assert bucket.ready_at() == pytest.approx(16.0)


@given(
    burst=st.integers(1, 20),
    refill=st.floats(0.01, 60.0),
    pauses=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60),
)
def test_no_window_has_more(burst: int, refill: float, pauses: list[float]) -> None:
    """S12: in any t seconds at most ``burst + t / refill``, for whoever asks before he spends."""
    bucket, now, spent = Bucket(burst, refill), 0.0, []
    for pause in pauses:
        now = max(now + pause, bucket.ready_at())
        bucket.spend(now)
        spent.append(now)
    for start, first in enumerate(spent):
        for end, last in enumerate(spent[start:], 1):
            assert end <= burst + (last - first) / refill + 1e-6
