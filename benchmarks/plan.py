"""
What every bench is given: how long, how often, and against whom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from benchmarks.players import PEERS, SUBJECTS
from benchmarks.rows import Row
from benchmarks.turns import Player


@attrs.frozen
class Plan:
    """
    How a bench is run.

    Attributes:
        seconds: About how long one measurement of one player takes.
        rounds: Measurements of each player in each case.
        is_full: For the docs: more cases, and larger ones.
        peers: Against whom.
        counts: How many connections are idle at once.
        repetitions: How often each loses its server.
        herd: How many clients lose their node in simulated time.
        crowd: How many sessions there are in a real storm.
        slowed: Seconds of CPU time that the session wastes on each message: for the test that a slow one shows.
        tell: Called with what was found, case by case.
        say: Called with lines that are no rows.
    """

    seconds: float = 0.03
    rounds: int = 3
    is_full: bool = False
    peers: Sequence[Player] = PEERS
    counts: Sequence[int] = (1, 100, 1000)
    repetitions: int = 20
    herd: int = 100_000
    crowd: int = 500
    slowed: float = 0.0
    tell: Callable[[list[Row]], object] = lambda rows: None
    say: Callable[[str], object] = lambda text: None

    def among(self, *players: Player) -> list[Player]:
        """Return those that take part: ours, and the peers of this run, each slowed where that is asked for."""
        return [
            attrs.evolve(player, options={**player.options, "delay": self.slowed})
            if self.slowed and player.home.endswith(":Session")
            else player
            for player in players
            if player.name in SUBJECTS or player.name in {peer.name for peer in self.peers}
        ]


QUICK = Plan()
FULL = Plan(seconds=0.25, rounds=7, is_full=True, repetitions=200)
TINY = Plan(seconds=0.002, rounds=2, counts=(1, 3), repetitions=1, herd=500, crowd=8)
"""Shows that a bench works, and nothing about speed."""
