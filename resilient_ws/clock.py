"""
The one clock: seconds that only go forward, and that go on while the machine is suspended.

``time.monotonic`` stands still then on Linux and macOS, so a laptop that slept for an hour would take an hour-old
connection for one that was heard a moment ago, and wait a whole interval before it asks.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable


def _chosen() -> Callable[[], float]:
    # On macOS this one goes on in sleep, and time.monotonic does not; Linux has it the other way round.
    name = "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME"
    number = getattr(time, name, None)
    if number is None:
        return time.monotonic
    try:
        time.clock_gettime(number)
    except OSError:  # a kernel, or a sandbox, without it
        return time.monotonic
    return functools.partial(time.clock_gettime, number)


monotonic = _chosen()
"""Return the present in seconds since some instant; never goes back, and counts the time that the machine slept."""
