"""The benchmark of recovery measures what it says, beside its floors, and a planted delay shows in its figure."""

from __future__ import annotations

import json
import os
import signal
import statistics
from pathlib import Path

import attrs
import pytest

from benchmarks import __main__ as dispatcher
from benchmarks import recovery
from benchmarks.mortal import Pool
from benchmarks.plan import TINY
from benchmarks.players import PEERS, those_there
from benchmarks.recovery import BOUND, NODES, OURS, QUIET, SERVERS
from benchmarks.rows import TAIL, Row, compared, table
from benchmarks.turns import Process

#: Everybody is a process, so this runs on one Python; starting them all takes long on a busy machine.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

DELAY = 2.0
"""Seconds that no recovery takes here, unless they are planted."""


def test_every_case_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case has a median and a tail of every repetition, beside a floor, a bound, or a feed left alone."""
    monkeypatch.setattr(dispatcher, "those_there", lambda peers: ([], ["another"]))
    file = tmp_path / "rows.json"
    dispatcher.main(["recovery", "--repetitions", "1", "--json", str(file)])
    rows = json.loads(file.read_text("utf-8"))["rows"]
    cases = {(row["case"].partition(",")[0], row["peer"]) for row in rows}
    assert cases == {
        *(("SIGKILL", floor.name) for floor in (NODES, SERVERS)),
        ("SIGKILL with Failover(standby=True)", NODES.name),
        ("a second SIGKILL at once", NODES.name),
        ("SIGSTOP", BOUND),
        ("drain", QUIET),
    }
    for row in rows:
        assert (row["bench"], row["subject"], row["unit"], len(row["runs"])) == ("recovery", OURS.name, "ms", 1)
        assert min(map(min, row["runs"])) > 0
        ours = [run[0] for run in row["runs"]]
        assert row["ours"] == (max(ours) if row["case"].endswith("p99") else statistics.median(ours))
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
        assert row["ours"] < 1000 * DELAY or row["case"].startswith("SIGSTOP")


def test_a_planted_delay_shows() -> None:
    """What the session wastes once it is resumed is in its own figure, whole, and not in the floor's."""
    with recovery.scene(attrs.evolve(TINY, peers=(), slowed=DELAY)) as scene:
        slow, bare = scene.lose_node(signal.SIGKILL), scene.lose_bare()
        stopped = scene.lose_node(signal.SIGSTOP)
        quiet = scene.session.ask("quiet", 0.2).found
    assert bare.told < bare.ended < bare.again < bare.ended + DELAY
    assert slow.told < slow.ended < slow.again - DELAY
    assert slow.silence >= slow.again - slow.ended
    assert quiet < recovery.KEEPALIVE <= stopped.silence


def test_every_peer_comes_back() -> None:
    """Each client that is installed is greeted by another server than the one that died, and waits as it says."""
    there, _ = those_there(PEERS)
    needs = {peer.needs for peer in there}
    for player in (player for player in recovery.AT_ONCE + recovery.WAITING[1:] if player.needs in needs):
        pool, process = Pool(player.feed), Process(player)
        try:
            pool.wait_ready()
            process.ask("open", player.home, player.options, pool.url, None)
            first = process.ask("join").found
            loss = process.ask("lose", int(first), signal.SIGKILL).found
            assert loss.told < loss.ended < loss.again
            pool.replace(int(first))
            second = process.ask("join").found
            assert second != first
            os.kill(int(second), 0)
            assert loss.again - loss.ended >= (1.0 if "reconnect=1" in player.name else 0.0)
        finally:
            process.close()
            pool.close()


def test_a_tail_is_told_as_such() -> None:
    """A row of the 99th percentile has the figure that 99 of 100 are at most as high as, and its table says so."""
    found = {"session": [float(n) for n in range(1, 101)], "peer": [200.0] * 100}
    (median,) = compared("b", "c, p50", "ms", found, ("session",))
    (tail,) = compared("b", "c, p99", "ms", found, ("session",), TAIL)
    assert (median.ours, tail.ours, tail.ratio) == (50.5, 100.0, 2.0)
    assert "median of 100" in table([median])
    assert "p99 of 100" in table([tail])
    assert Row("b", "c", "session", "p", "ms", [(1.0, 1.0), (2.0, 1.0)], TAIL).ours == 2.0


def test_recovery_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds and milliseconds are told in the docs; the picture of the others stays as it is."""
    picture = tmp_path / "benchmarks.svg"
    monkeypatch.setattr(dispatcher, "PICTURE", picture)
    rows = compared("recovery", "a case", "ms", {"session": [2.0], "peer": [3.0]}, ("session",))
    monkeypatch.setattr(dispatcher, "run", lambda names, plan, keep: rows)
    dispatcher.main(["recovery", "--full"])
    assert not picture.exists()
