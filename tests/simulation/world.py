"""
Virtual time: an event queue, the dice of every actor, and the place where a broken invariant ends a schedule.

One seed decides everything. Each actor throws dice of its own, so that what one does less does not change the others:
a schedule can be shrunk, and a recorded seed keeps its meaning longer. Nothing here knows what a session is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

MOST_STEPS = 100_000
"""More than any schedule needs: beyond it something spins."""


class Broken(Exception):
    """An invariant does not hold; the text begins with its name."""


class World:
    """Virtual seconds, dice, and what happens next."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.steps = 0
        self.trace: list[str] = []
        self.through_codec = self.dice("codec").random() < 0.125
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def dice(self, name: str) -> random.Random:
        """Return the dice of an actor."""
        return random.Random(f"{self.seed} {name}")

    def at(self, when: float, what: Callable[..., None], *args: Any) -> None:
        """Plan an event; one in the past happens next."""
        self._count += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._count, what, args))

    def after(self, delay: float, what: Callable[..., None], *args: Any) -> None:
        """Plan an event ``delay`` virtual seconds from now."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, what, args))

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Run events up to an instant, or until ``done`` says so; returns whether it did."""
        heap, pop, steps = self._heap, heapq.heappop, self.steps
        while heap and heap[0][0] <= until:
            self.now, _, what, args = pop(heap)
            steps += 1
            what(*args)
            if steps % 32 == 0:
                if steps > MOST_STEPS:
                    raise Broken(f"L6 livelock: {steps} steps at {self.now:.4f}, the last one {what!r}")
                if done is not None and done():
                    self.steps = steps
                    return True
        self.steps = steps
        self.now = max(self.now, until)
        return done is not None and done()

    def note(self, text: str) -> None:
        """Keep a line of what happened, for a failing seed."""
        self.trace.append(f"{self.now:9.4f} {text}")


def latency(dice: random.Random) -> float:
    """Draw the seconds of one way through network or store: a few milliseconds, now and then up to 400."""
    drawn = dice.random()
    return 0.001 + 0.004 * drawn / (1.01 - drawn * drawn)
