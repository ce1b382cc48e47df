"""The bell: who entered before a ring is woken by it, and nothing is left behind."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from resilient_ws.bell import Bell

SOON = 5.0


def test_a_ring_wakes_everybody_who_entered() -> None:
    """Everybody who waits at the ring goes on; who enters afterwards waits for the next one."""
    bell, lock = Bell(), threading.Lock()
    with ThreadPoolExecutor(10) as pool, lock:
        waits = [pool.submit(bell.wait, bell.enter(), SOON) for _ in range(9)]
        bell.ring()
        for wait in waits:
            wait.result(SOON)
        late = pool.submit(bell.wait, bell.enter(), None)
        assert not late.done()
        bell.ring()
        late.result(SOON)
    assert not bell._waiting


def test_a_ring_between_entering_and_waiting_counts() -> None:
    """No wake-up is lost to a thread that has let go of the lock and does not wait yet."""
    bell = Bell()
    place = bell.enter()
    bell.ring()
    bell.wait(place, None)
    assert not bell._waiting


def test_a_wait_that_is_over_leaves_nothing() -> None:
    """Neither the end of the time, past or to come, nor an interrupted ring leaves a place that piles up or breaks."""
    bell = Bell()
    for timeout in (-1.0, 0.0, 0.001):
        bell.wait(bell.enter(), timeout)
    assert not bell._waiting
    place = bell.enter()
    place.release()  # as far as a ring came before its interrupt
    bell.ring()
    bell.wait(place, SOON)
    assert not bell._waiting
