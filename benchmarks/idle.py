"""
Clients that are connected and do nothing: memory for each, and threads of the process, at 1, 100 and 1000.

``python -m benchmarks idle``. Linux only, where a process can ask what memory it uses. Each count has a new process.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import attrs

from benchmarks.plan import Plan
from benchmarks.players import AIOHTTP, PICOWS, PLAIN, SESSION, SIMPLE, WEBSOCKETS
from benchmarks.rows import Row, compared
from benchmarks.serving import server
from benchmarks.turns import Player, Stage

MEMORY, THREADS = "KiB each", "threads"
_HOME = "benchmarks.players_idle:"
HOMES = {
    SESSION.name: f"{_HOME}Sessions",
    PLAIN.name: f"{_HOME}Apps",
    WEBSOCKETS.name: f"{_HOME}Websockets",
    SIMPLE.name: f"{_HOME}SimpleWebsockets",
    AIOHTTP.name: f"{_HOME}Aiohttps",
    PICOWS.name: f"{_HOME}Picowses",
}
"""What each player's process runs (``players_idle.py``)."""


def weighed(players: Sequence[Player], count: int) -> dict[str, tuple[float, float]]:
    """
    Open so many with each, in new processes, and return KiB for each and threads.

    The server is a new one too: one that still takes leave of thousands keeps those waiting who come.
    """
    with server() as place, closing(Stage()) as stage:
        idlers = [attrs.evolve(player, home=HOMES[player.name], options={"count": count}) for player in players]
        opened = stage.open(idlers, lambda player: place.url(player.feed))
        return {process.player.name: process.ask("weigh").found for process in opened}


def run_case(plan: Plan, count: int) -> list[Row]:
    """Run one count; the rounds before the last are only for the docs, as memory hardly varies."""
    everyone = (SESSION, PLAIN, WEBSOCKETS, SIMPLE, AIOHTTP, PICOWS)
    players = plan.among(*(everyone if plan.is_full or count == plan.counts[1] else everyone[:2]))
    rounds = [weighed(players, count) for _ in range(min(plan.rounds, 3) if plan.is_full else 1)]
    rows: list[Row] = []
    for index, unit in enumerate((MEMORY, THREADS)):
        found = {name: [one[name][index] for one in rounds] for name in rounds[0]}
        case = f"{count:,} connected, {'memory' if unit == MEMORY else 'threads'}"
        rows += compared("idle", case, unit, found, ("session",))
    return rows


def run(plan: Plan) -> list[Row]:
    """Run every count; in the quick form only the second one with everybody."""
    rows: list[Row] = []
    for count in plan.counts:
        found = run_case(plan, count)
        plan.tell(found)
        rows += found
    return rows
