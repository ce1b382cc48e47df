"""The benchmark of rolling restarts: it runs, and a silence shows."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing

import attrs
import pytest

from benchmarks import rolling
from benchmarks.mortal import Helper, publish
from benchmarks.plan import TINY
from benchmarks.recovery import OURS
from benchmarks.turns import Stage
from server_fixture.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


def test_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are measured, every node is restarted, and the feed is never silent for as long as a node is away."""
    monkeypatch.setattr(rolling, "WINDOW", 12.0)
    told: list[object] = []
    rows = rolling.run(attrs.evolve(TINY, rounds=1, tell=told.append))
    assert [(row.bench, row.subject, row.peer, row.unit) for row in rows] == [
        ("rolling", OURS.name, rolling.CONTROL, "ms")
    ]
    assert told == [rows]
    assert 5.0 <= rows[0].ours < 5_000.0
    assert 5.0 <= rows[0].theirs < 5_000.0


def test_a_silence_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a feed that stops for a second is a second of silence; restarts not watched are an error."""
    monkeypatch.setattr(rolling, "WINDOW", 2.5)
    with Cluster(1) as cluster, closing(Stage()) as stage:
        assert cluster.engine is not None
        with closing(Helper(publish, cluster.engine.url)) as feed:
            feed.wait_ready()
            [process] = stage.open([OURS], lambda player: " ".join(cluster.urls))
            process.ask("join")

            def interrupt() -> None:
                os.kill(feed.pid, signal.SIGSTOP)
                threading.Event().wait(1.0)
                os.kill(feed.pid, signal.SIGCONT)

            assert 1_000.0 <= rolling.silence(process, interrupt) < 2_500.0
            monkeypatch.setattr(rolling, "WINDOW", 0.2)
            with pytest.raises(RuntimeError, match=r"longest silence was looked for in 0\.2 s only"):
                rolling.silence(process, lambda: threading.Event().wait(0.3))
