"""
How long a consumer hears nothing while a deploy restarts every node under it.

``python -m benchmarks rolling``. A session takes the feed of three nodes over Redis, each of which is drained, ended
and started again (``Cluster.rolling_restart()``). Beside it the same session while a node of another cluster is
restarted as often: a process starts, which costs this machine as much, and nothing drains.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from benchmarks.mortal import Helper, publish
from benchmarks.plan import Plan
from benchmarks.players import SUBJECTS
from benchmarks.recovery import OURS, UNIT
from benchmarks.rows import Row, compared
from benchmarks.turns import Process, Stage
from server_fixture.cluster import Cluster

WINDOW = 10.0
"""Seconds of the feed in which the longest silence is looked for; the restarts take a part of them."""
CONTROL = "a process starts three times, nothing drains"


def silence(process: Process, restart: Callable[[], object]) -> float:
    """
    Return the longest silence between two messages while nodes are restarted, in milliseconds.

    Raises:
        RuntimeError: The restarts took longer than was looked.
    """
    process.begin("quiet", WINDOW)
    started = time.monotonic()
    restart()
    took = time.monotonic() - started
    found = 1e3 * float(process.end("quiet").found)
    if took >= WINDOW:
        raise RuntimeError(f"the restarts took {took:.0f} s, the longest silence was looked for in {WINDOW:g} s only")
    return found


def run(plan: Plan) -> list[Row]:
    """Run the one case."""
    found: dict[str, list[float]] = {OURS.name: [], CONTROL: []}
    with Cluster(3) as cluster, Cluster(1, backplane="memory") as other, closing(Stage()) as stage:
        assert cluster.engine is not None
        with closing(Helper(publish, cluster.engine.url)) as feed:
            feed.wait_ready()
            [process] = stage.open([OURS], lambda player: " ".join(cluster.urls))
            process.ask("join")
            for _ in range(plan.rounds):
                found[OURS.name].append(silence(process, cluster.rolling_restart))
                found[CONTROL].append(silence(process, lambda: [other.rolling_restart() for _ in cluster.nodes]))
    rows = compared("rolling", f"longest silence of a feed in {WINDOW:g} s, 3 nodes restarted", UNIT, found, SUBJECTS)
    plan.tell(rows)
    return rows
