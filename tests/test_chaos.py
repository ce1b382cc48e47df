"""The nemesis: what it kills, when, and that it heals everything; against nodes of pretence and against real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import attrs
import pytest

from server_fixture.chaos import Kill, Nemesis
from server_fixture.cluster import Cluster
from server_fixture.history import Fault, Heal, Op


@attrs.define(eq=False)
class Pretence:
    """A node that is killed and started by setting a flag."""

    name: str
    is_alive: bool = True
    is_serving: bool = True
    fails: bool = False

    def kill(self) -> None:
        assert self.is_alive
        self.is_alive = self.is_serving = False

    def start(self) -> None:
        assert not self.is_alive
        self.is_alive = self.is_serving = True

    def wait_ready(self, timeout: float = 1.0) -> None:
        assert self.is_serving

    def expect_alive(self) -> None:
        if self.fails:
            raise RuntimeError(f"{self.name} ended by itself")


@attrs.define(eq=False)
class Pretences:
    """A cluster of them, and what was recorded."""

    nodes: list[Pretence] = attrs.field(factory=lambda: [Pretence(f"node-{number}") for number in (1, 2, 3)])
    ops: list[Op] = attrs.field(factory=list)
    serving_before: list[int] = attrs.field(factory=list)
    seen: threading.Condition = attrs.field(factory=threading.Condition)

    def record(self, op: Op) -> None:
        with self.seen:
            self.ops.append(op)
            self.seen.notify_all()

    def on_kill(self, kill: Kill) -> None:
        self.serving_before.append(sum(node.is_serving for node in self.nodes))

    def nemesis(self, seed: int, kill_every: float = 0.004) -> Nemesis:
        return Nemesis(self, self.record, seed, kill_every, self.on_kill)

    def run(self, seed: int, kills: int) -> Nemesis:
        """Run until there were so many kills."""
        nemesis = self.nemesis(seed)
        nemesis.start()
        with self.seen:
            assert self.seen.wait_for(lambda: len(nemesis.kills) >= kills or nemesis.error is not None, 20.0)
        nemesis.stop()
        return nemesis


def test_one_node_is_left_but_for_each_tenth_kill() -> None:
    """Every kill but the tenth leaves a node that serves; the tenth takes all that live."""
    pretences = Pretences()
    nemesis = pretences.run(seed=1, kills=25)
    for number, (kill, before) in enumerate(zip(nemesis.kills, pretences.serving_before, strict=True), 1):
        if number % 10 == 0:
            assert kill.left == 0
            assert len(kill.nodes) == before
        else:
            assert len(kill.nodes) == 1
            assert kill.left == before - 1 >= 1


def test_every_fault_is_recorded_and_healed() -> None:
    """At the end each node serves, and has as many heals as faults, in turn."""
    pretences = Pretences()
    nemesis = pretences.run(seed=2, kills=12)
    assert all(node.is_serving for node in pretences.nodes)
    assert sum(len(kill.nodes) for kill in nemesis.kills) == sum(isinstance(op, Fault) for op in pretences.ops)
    for node in pretences.nodes:
        kinds = [type(op) for op in pretences.ops if isinstance(op, (Fault, Heal)) and op.node == node.name]
        assert kinds == [Fault, Heal] * (len(kinds) // 2)


def test_a_seed_gives_one_order_of_victims() -> None:
    """The first victim, and all pauses, follow from the seed; another seed gives others."""
    first = {seed: Pretences().run(seed, kills=1).kills[0].nodes for seed in range(12)}
    again = {seed: Pretences().run(seed, kills=1).kills[0].nodes for seed in range(12)}
    assert first == again
    assert len(set(first.values())) == 3


def test_node_that_does_not_come_back_is_an_error() -> None:
    """A node that ends by itself while it starts ends the run with its error."""
    pretences = Pretences()
    for node in pretences.nodes:
        node.fails = True
    nemesis = pretences.nemesis(seed=1)
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: nemesis.kills, 20.0)
    with pytest.raises(RuntimeError, match="ended by itself"):
        nemesis.stop()


def test_stop_before_the_first_kill() -> None:
    """A nemesis that was stopped early has broken nothing, and stops at once."""
    pretences = Pretences()
    nemesis = pretences.nemesis(seed=1, kill_every=1000.0)
    nemesis.start()
    nemesis.stop()
    assert (nemesis.kills, pretences.ops) == ([], [])


@pytest.mark.parametrize("kill_every", [0.0, -1.0])
def test_impossible_pace_is_refused(kill_every: float) -> None:
    """A pace of no time at all is an error, not a busy loop."""
    with pytest.raises(ValueError, match="kill_every"):
        Pretences().nemesis(1, kill_every)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three real nodes."""
    with Cluster(3) as running:
        yield running


@pytest.mark.cluster
def test_real_nodes_are_killed_and_come_back(cluster: Cluster) -> None:
    """Processes really end and others take their place; after the end all serve at their old URLs."""
    urls, pids = cluster.urls, {node.name: node.pid for node in cluster.nodes}
    pretences = Pretences()  # only its record
    nemesis = Nemesis(cluster, pretences.record, 5, 0.5)
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: len(nemesis.kills) >= 3, 30.0)
    nemesis.stop()
    assert cluster.urls == urls
    assert len(cluster.alive) == 3
    killed = {name for kill in nemesis.kills for name in kill.nodes}
    assert {node.name for node in cluster.nodes if node.pid != pids[node.name]} == killed
