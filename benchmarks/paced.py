"""
Receiving 2,500 messages a second: CPU time for each where there is nothing to read at once, and nothing to batch.

``python -m benchmarks paced``.
"""

from __future__ import annotations

from contextlib import closing

from benchmarks.inbound import FEW, UNIT, per_message
from benchmarks.plan import Plan
from benchmarks.players import SESSION, SUBJECTS, TRANSPORT
from benchmarks.rows import Row, compared
from benchmarks.serving import PACE, server
from benchmarks.turns import Process, Stage, in_turn

LONGER = 12
"""So many times as long as where the client is the bound: most of the time it waits."""


def run(plan: Plan) -> list[Row]:
    """Run the one case."""
    count = max(20, int(PACE * LONGER * plan.seconds))

    def pace(process: Process) -> float:
        return per_message(process.ask("pace", count), count)

    with server() as place, closing(Stage()) as stage:
        opened = stage.open(plan.among(SESSION, TRANSPORT, *FEW), lambda player: place.url(player.feed))
        for process in opened:
            process.ask("pace", count // 4)
        found = in_turn(opened, plan.rounds, pace)
    rows = compared("paced", f"100 B text, {PACE:,} a second", UNIT, found, SUBJECTS)
    plan.tell(rows)
    return rows
