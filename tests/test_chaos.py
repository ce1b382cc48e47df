"""The nemesis: what it kills, when, and that it heals everything; against nodes of pretence and against real ones."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence

import attrs
import pytest

from server_fixture.chaos import Nemesis, Strike
from server_fixture.cluster import Cluster
from server_fixture.faults import CHOICES, Cut, Drain, Fault, Kill, Pause, Reset, Stall
from server_fixture.history import Fault as Fault_
from server_fixture.history import Heal, Op


@attrs.define(eq=False)
class Pretence:
    """A node to which everything is done by setting a flag; it is its own link."""

    name: str
    is_alive: bool = True
    is_serving: bool = True
    fails: bool = False
    wakes: bool = True
    is_stalled: bool = False
    leaves: bool = True
    done: list[str] = attrs.field(factory=list)

    def kill(self) -> None:
        assert self.is_alive
        self.is_alive = self.is_serving = False
        self.done.append("kill")

    def start(self) -> None:
        assert not self.is_alive
        self.is_alive = self.is_serving = True

    def wait_ready(self, timeout: float = 1.0) -> None:
        assert self.is_alive

    @property
    def door(self) -> Pretence:
        return self

    def pause(self) -> None:
        assert self.is_serving
        self.is_serving = False
        self.done.append("pause")

    def resume(self) -> None:
        assert self.is_alive
        assert not self.is_serving
        self.is_serving = self.wakes

    def drain(self, *, wait: bool = True) -> None:
        assert not wait
        assert self.is_serving
        self.is_serving, self.is_alive = False, not self.leaves
        self.done.append("drain")

    def expect_drained(self) -> None:
        assert not self.is_alive

    def stall_all(self) -> None:
        assert not self.is_stalled
        self.is_stalled = True
        self.done.append("stall")

    def heal_all(self) -> None:
        assert self.is_stalled
        self.is_stalled = False

    def cut_all(self) -> None:
        self.done.append("cut")

    def reset_all(self) -> None:
        self.done.append("reset")

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

    def on_strike(self, strike: Strike) -> None:
        self.serving_before.append(sum(node.is_serving and not node.is_stalled for node in self.nodes))

    def nemesis(self, seed: int, fault_every: float = 0.004, faults: Sequence[Fault] = (Kill(),)) -> Nemesis:
        return Nemesis(self, self.record, seed, fault_every, self.on_strike, faults)

    def run(self, seed: int, strikes: int, faults: Sequence[Fault] = (Kill(),)) -> Nemesis:
        """Run until there were so many faults."""
        nemesis = self.nemesis(seed, faults=faults)
        nemesis.start()
        with self.seen:
            assert self.seen.wait_for(lambda: len(nemesis.strikes) >= strikes or nemesis.error is not None, 20.0)
        nemesis.stop()
        return nemesis


def test_one_node_is_left_but_for_each_tenth_kill() -> None:
    """Every kill but the tenth leaves a node that serves; the tenth takes all that live."""
    pretences = Pretences()
    nemesis = pretences.run(seed=1, strikes=25)
    for number, (kill, before) in enumerate(zip(nemesis.strikes, pretences.serving_before, strict=True), 1):
        if number % 10 == 0:
            assert kill.left == 0
            assert len(kill.nodes) == before
        else:
            assert len(kill.nodes) == 1
            assert kill.left == before - 1 >= 1


def test_every_fault_is_recorded_and_healed() -> None:
    """At the end each node serves, and has as many heals as faults, in turn."""
    pretences = Pretences()
    nemesis = pretences.run(seed=2, strikes=12)
    assert all(node.is_serving for node in pretences.nodes)
    assert sum(len(kill.nodes) for kill in nemesis.strikes) == sum(isinstance(op, Fault_) for op in pretences.ops)
    for node in pretences.nodes:
        kinds = [type(op) for op in pretences.ops if isinstance(op, (Fault_, Heal)) and op.node == node.name]
        assert kinds == [Fault_, Heal] * (len(kinds) // 2)


def test_a_seed_gives_one_order_of_victims() -> None:
    """The first victim, and all pauses, follow from the seed; another seed gives others."""
    first = {seed: Pretences().run(seed, strikes=1).strikes[0].nodes for seed in range(12)}
    again = {seed: Pretences().run(seed, strikes=1).strikes[0].nodes for seed in range(12)}
    assert first == again
    assert len(set(first.values())) == 3


GOLDEN = [
    (0.952, "3"), (2.234, "2"), (3.321, "1"), (4.297, "3"), (4.891, "2"), (5.93, "3"), (7.025, "2"), (8.179, "3"),
    (9.302, "3"), (9.838, "1", "2", "3"), (10.664, "3"), (11.683, "3"),
]  # fmt: skip


@attrs.define(eq=False)
class Hours:
    """Time that passes only while somebody waits: the clock of a nemesis, and the event that stops it."""

    until: float
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float) -> bool:
        self.now += timeout
        return self.now >= self.until


def test_kills_of_a_seed_are_those_that_they_always_were() -> None:
    """Times and victims of a seed stay what they are when kinds are added: somebody may have noted it down."""
    pretences, hours = Pretences(), Hours(12.0)
    nemesis = pretences.nemesis(seed=11, fault_every=1.0)
    nemesis.clock, nemesis._stopping = hours, hours  # type: ignore[assignment]
    nemesis._run()
    assert [(round(strike.time, 3), *(name[5:] for name in strike.nodes)) for strike in nemesis.strikes] == GOLDEN


def test_node_that_does_not_come_back_is_an_error() -> None:
    """A node that ends by itself while it starts ends the run with its error."""
    pretences = Pretences()
    for node in pretences.nodes:
        node.fails = True
    nemesis = pretences.nemesis(seed=1)
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: nemesis.strikes, 20.0)
    with pytest.raises(RuntimeError, match="ended by itself"):
        nemesis.stop()


def test_stop_before_the_first_kill() -> None:
    """A nemesis that was stopped early has broken nothing, and stops at once."""
    pretences = Pretences()
    nemesis = pretences.nemesis(seed=1, fault_every=1000.0)
    nemesis.start()
    nemesis.stop()
    assert (nemesis.strikes, pretences.ops) == ([], [])


@pytest.mark.parametrize("fault_every", [0.0, -1.0])
def test_impossible_pace_is_refused(fault_every: float) -> None:
    """A pace of no time at all is an error, not a busy loop."""
    with pytest.raises(ValueError, match="fault_every"):
        Pretences().nemesis(1, fault_every)


QUICK = (Kill(), Drain(), Pause(silence=0.002), Cut(), Reset(), Stall(silence=0.002))
"""Every kind, with silences of some milliseconds."""


def test_quick_kinds_are_all_kinds() -> None:
    """No kind of the table is left out of the tests below."""
    assert {type(fault) for fault in QUICK} == {type(fault) for choice in CHOICES.values() for fault in choice.faults}


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.kind)
def test_each_kind_leaves_a_node_and_is_healed(fault: Fault) -> None:
    """Whatever is done, another node serves all the while but for each tenth time, and in the end all serve."""
    pretences = Pretences()
    nemesis = pretences.run(seed=3, strikes=25, faults=(fault,))
    for number, (strike, before) in enumerate(zip(nemesis.strikes, pretences.serving_before, strict=True), 1):
        assert strike.kind == fault.kind
        if number % 10:
            assert len(strike.nodes) == 1
            assert strike.left == (before if fault.spares else before - 1) >= 1
        else:
            assert strike.left == (before if fault.spares else 0)
            assert len(strike.nodes) == before
    assert all(node.is_serving and not node.is_stalled for node in pretences.nodes)
    assert {name for node in pretences.nodes for name in node.done} == {fault.kind}
    assert nemesis.in_force == {}
    assert {op.kind for op in pretences.ops if isinstance(op, (Fault_, Heal))} == {fault.kind}


def test_a_round_has_every_kind() -> None:
    """Of all kinds each comes once a round, in an order that the seed gives; what is recorded says which."""
    orders = set()
    for seed in range(4):
        pretences = Pretences()
        nemesis = pretences.run(seed, strikes=24, faults=QUICK)
        kinds = [strike.kind for strike in nemesis.strikes]
        for start in range(0, 24, 6):
            assert sorted(kinds[start : start + 6]) == sorted(fault.kind for fault in QUICK)
        for node in pretences.nodes:
            ops = [op for op in pretences.ops if isinstance(op, (Fault_, Heal)) and op.node == node.name]
            assert [type(op) for op in ops] == [Fault_, Heal] * (len(ops) // 2)
            assert all(fault.kind == heal.kind for fault, heal in zip(ops[::2], ops[1::2], strict=True))
        orders.add(tuple(kinds[:6]))
    assert len(orders) > 1


def test_nodes_with_somebody_are_taken_first() -> None:
    """A fault takes a node that it concerns somebody at, where one serves, and else any."""
    pretences = Pretences()
    nemesis = pretences.nemesis(seed=1, faults=(Cut(),))
    nemesis.is_peopled = lambda name: name == "node-2"
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: len(nemesis.strikes) >= 9, 20.0)
    nemesis.stop()
    assert {strike.nodes for strike in nemesis.strikes[:9]} == {("node-2",)}
    assert len({strike.nodes for strike in Pretences().run(1, strikes=9, faults=(Cut(),)).strikes[:9]}) > 1


def test_end_of_a_silence_is_told() -> None:
    """Faults that a session may sit out are told when they are over, and only those."""
    pretences, told = Pretences(), []
    nemesis = pretences.nemesis(seed=1, faults=QUICK)
    nemesis.on_passed = lambda kind, node: told.append(kind)
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: len(nemesis.strikes) >= 12, 20.0)
    nemesis.stop()
    assert set(told) == {"pause", "stall"}
    assert len(told) == sum(isinstance(op, Heal) and op.kind in ("pause", "stall") for op in pretences.ops)


def test_node_that_never_wakes_is_an_error() -> None:
    """The negative control of healing: a node that stays as it was after its fault was undone is named."""
    pretences = Pretences()
    for node in pretences.nodes:
        node.wakes = False
    nemesis = pretences.nemesis(seed=1, faults=(Pause(silence=0.002),))
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: nemesis.strikes, 20.0)
    with pytest.raises(TimeoutError, match="does not serve although all was undone: node-"):
        nemesis.stop()


def test_drain_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that cannot be undone in its time is named with its node."""
    monkeypatch.setattr("server_fixture.chaos.HEAL_TIMEOUT", 0.05)
    pretences = Pretences()
    for node in pretences.nodes:
        node.leaves = False
    nemesis = pretences.nemesis(seed=1, faults=(Drain(),))
    nemesis.start()
    with pretences.seen:
        assert pretences.seen.wait_for(lambda: nemesis.strikes, 20.0)
    with pytest.raises(TimeoutError, match="could not be undone: the drain of node-"):
        nemesis.stop()


def test_no_kind_at_all_is_refused() -> None:
    """A nemesis without anything to do is an error, not a busy loop."""
    with pytest.raises(ValueError, match="at least one kind"):
        Pretences().nemesis(1, faults=())


def test_silences_last_around_what_a_client_bears() -> None:
    """Some are over before a client gives a node up, and many are not."""
    rng = random.Random(1)
    lasts = [Pause(silence=2.0).lasts(rng, 1.0) for _ in range(500)]
    assert 1.0 <= min(lasts) < 2.0 < 6.0 < max(lasts) <= 8.0
    assert sum(seconds > 2.0 for seconds in lasts) > 350


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
        assert pretences.seen.wait_for(lambda: len(nemesis.strikes) >= 3, 30.0)
    nemesis.stop()
    assert cluster.urls == urls
    assert len(cluster.alive) == 3
    killed = {name for kill in nemesis.strikes for name in kill.nodes}
    assert {node.name for node in cluster.nodes if node.pid != pids[node.name]} == killed
