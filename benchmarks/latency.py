"""
An echo's round trip: its median and its 99th percentile, one at a time.

``python -m benchmarks latency``. The clock runs from before the send until the answer is in the user's hands; a
session's message is committed and acked on its way.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing

from benchmarks.plan import Plan
from benchmarks.players import PEERS, SESSION, SUBJECTS, TRANSPORT
from benchmarks.rows import Row, compared
from benchmarks.serving import Place, server
from benchmarks.turns import Process, Stage, in_turn

UNIT = "us"
SIZE = 100
WITHOUT_ECHO = "websocket-client with json.loads of an envelope and acks"


def percentiles(times: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile of seconds, in microseconds."""
    ordered = sorted(times)
    return 1e6 * statistics.median(ordered), 1e6 * ordered[int(0.99 * len(ordered))]


def found(plan: Plan, place: Place, stage: Stage) -> Iterator[list[Row]]:
    """Measure every round trip, and yield the rows of both percentiles."""
    players = [p for p in plan.among(SESSION, TRANSPORT, *PEERS) if p.name != WITHOUT_ECHO]
    opened = stage.open(players, lambda player: place.url(player.feed, size=SIZE, is_echo=True))
    count = max(20, int(10_000 * plan.seconds))
    tails: dict[str, list[float]] = {player.name: [] for player in players}

    def echo(process: Process) -> float:
        p50, p99 = percentiles(process.ask("echo", "x" * SIZE, count).found)
        tails[process.player.name].append(p99)
        return p50

    for process in opened:
        process.ask("echo", "x" * SIZE, count // 4)
    medians = in_turn(opened, plan.rounds, echo)
    yield compared("latency", "echo of 100 B, p50", UNIT, medians, SUBJECTS)
    yield compared("latency", "echo of 100 B, p99", UNIT, tails, SUBJECTS)


def run(plan: Plan) -> list[Row]:
    """Run both cases."""
    rows: list[Row] = []
    with server() as place, closing(Stage()) as stage:
        for some in found(plan, place, stage):
            plan.tell(some)
            rows += some
    return rows
