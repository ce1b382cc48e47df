"""
The nemesis: breaks nodes and heals them, on a schedule that one seed gives.

Here lives when a fault comes, whom it takes and when it is undone. What a fault does is in ``faults.py``; whether the
clients survived is for the checker to say. Every fault and heal is recorded.
"""

from __future__ import annotations

import random
import threading
import time
import typing
from collections.abc import Callable, Sequence

import attrs

from server_fixture import history
from server_fixture.faults import Fault, Kill, Victim

ALL_DOWN_EVERY = 10
"""Each fault of this number takes every node."""
HEAL_TIMEOUT = 60.0
"""Seconds that a fault gets at the end of a run until it can be undone: a drain has to end first."""
_LOOK = 0.02
"""Seconds between two looks at nodes that are starting, or cannot be healed yet."""

Record = Callable[[history.Op], None]


class Victims(typing.Protocol):
    """What the nemesis needs of a cluster."""

    @property
    def nodes(self) -> Sequence[Victim]: ...


@attrs.frozen
class Strike:
    """One fault: when, whom it took, how many nodes served newcomers after it, and which kind it was."""

    time: float
    nodes: tuple[str, ...]
    left: int
    kind: str = Kill.kind


@attrs.define(eq=False)
class Nemesis:
    """
    Breaks random nodes and heals them, in a thread of its own.

    It leaves one node alone, except with each tenth fault, which takes all. A fault whose time has come while only one
    node serves waits until another one does.

    Args:
        cluster: Whose nodes.
        record: Takes every fault and heal, in this thread.
        seed: Gives the order of the faults and victims and all the pauses.
        fault_every: Seconds between two faults, on average.
        on_strike: Called with every fault just before it is done, so that who was there then can be noted.
        faults: What is done, each once a round and in a new order each time.
        is_peopled: Says of a node whether a fault would concern anybody there; where one does, that is who it takes.
            None: it does not matter.
        on_passed: Called with the kind of a fault that a session may sit out, and the node, when that is over.
    """

    cluster: Victims
    record: Record
    seed: int
    fault_every: float = 1.0
    on_strike: Callable[[Strike], None] = lambda strike: None
    faults: Sequence[Fault] = (Kill(),)
    on_passed: Callable[[str, str], None] = lambda kind, node: None
    is_peopled: Callable[[str], bool] | None = None
    clock: Callable[[], float] = time.monotonic
    strikes: list[Strike] = attrs.field(factory=list)
    error: BaseException | None = None
    _rng: random.Random = attrs.field(init=False)
    _stopping: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None
    _round: list[Fault] = attrs.field(factory=list)
    _in_force: dict[str, Fault] = attrs.field(factory=dict)
    _heals: dict[str, float] = attrs.field(factory=dict)
    _healing: dict[str, Victim] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if not self.fault_every > 0:
            raise ValueError(f"fault_every={self.fault_every!r}: must be above 0")
        if not self.faults:
            raise ValueError("faults: at least one kind")
        self._rng = random.Random(self.seed)

    def count(self, kind: str) -> int:
        """Return how many faults of a kind there were."""
        return sum(strike.kind == kind for strike in list(self.strikes))

    @property
    def in_force(self) -> dict[str, str]:
        """The kind of the fault that each node has now, by its name."""
        return {name: fault.kind for name, fault in dict(self._in_force).items()}

    def start(self) -> None:
        """Begin; the first fault comes within one pause."""
        self._thread = threading.Thread(target=self._run, name="nemesis", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        Break nothing more, and heal every node.

        Raises:
            ChildFailed: A node did not come back; the text has its exit code and the end of its log.
            TimeoutError: A fault could not be undone, or was and the node does not serve.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error
        self._heal_all()
        for node in list(self._healing.values()):
            node.wait_ready()
        self._see_healed()
        if self._healing:
            raise TimeoutError(f"does not serve although all was undone: {', '.join(self._healing)}")

    def _heal_all(self) -> None:
        pause, deadline = threading.Event(), time.monotonic() + HEAL_TIMEOUT
        while True:
            for node in self.cluster.nodes:
                if node.name in self._heals:
                    self._heal(node)
            if not self._heals:
                return
            if time.monotonic() > deadline:
                stuck = ", ".join(f"the {self._in_force[name].kind} of {name}" for name in self._heals)
                raise TimeoutError(f"after {HEAL_TIMEOUT:g} s this could not be undone: {stuck}")
            pause.wait(_LOOK)

    # -- the schedule -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            strike_at = self.clock() + self._pause()
            while not self._stopping.wait(self._until(strike_at)):
                self._heal_due()
                self._see_healed()
                if self.clock() >= strike_at and self._strike():
                    strike_at = max(strike_at, self.clock() - self.fault_every) + self._pause()
        except BaseException as error:
            self.error = error

    def _pause(self) -> float:
        return self._rng.uniform(0.5, 1.5) * self.fault_every

    def _until(self, strike_at: float) -> float:
        """Return for how long nothing is due."""
        if self._healing:
            return _LOOK
        at = min([strike_at, *self._heals.values()])
        return max(_LOOK if self.clock() >= strike_at else 0.0, at - self.clock())

    def _strike(self) -> bool:
        """Break something, if that leaves what it has to leave; say whether it did."""
        self._see_healed()
        if not self._round:
            self._round = list(self.faults)
            self._rng.shuffle(self._round)
        fault, takes_all = self._round[0], (len(self.strikes) + 1) % ALL_DOWN_EVERY == 0
        victims, left = self._victims(fault, takes_all)
        if not victims:
            return False
        del self._round[0]
        strike = Strike(self.clock(), tuple(node.name for node in victims), left, fault.kind)
        self.strikes.append(strike)
        self.on_strike(strike)
        for node in victims:
            self.record(history.Fault(fault.kind, node.name, strike.time))
            self._in_force[node.name] = fault
            self._healing.pop(node.name, None)
            fault.apply(node)
            self._heals[node.name] = self.clock() + fault.lasts(self._rng, self.fault_every)
        return True

    def _victims(self, fault: Fault, takes_all: bool) -> tuple[list[Victim], int]:
        """Choose whom a fault takes, nobody where it has to wait; with how many nodes serve newcomers after it."""
        nodes = self.cluster.nodes
        serving = [node for node in nodes if node.is_serving and node.name not in self._heals]
        if takes_all:
            # A node that is stopped, cut off or on its way out has its fault already: then it would not be all of them.
            is_early = not serving or any(node.is_alive and node.name in self._heals for node in nodes)
            victims = [] if is_early else [node for node in nodes if fault.takes(node)]
            return victims, len(serving) if fault.spares else 0
        if len(serving) < (1 if fault.spares else 2):
            return [], len(serving)
        peopled = [node for node in serving if self.is_peopled is not None and self.is_peopled(node.name)]
        return [self._rng.choice(peopled or serving)], len(serving) - (0 if fault.spares else 1)

    def _heal_due(self) -> None:
        for node in self.cluster.nodes:
            if self._heals.get(node.name, float("inf")) <= self.clock():
                self._heal(node)

    def _heal(self, node: Victim) -> None:
        if not self._in_force[node.name].heal(node):
            self._heals[node.name] = self.clock() + _LOOK
            return
        del self._heals[node.name]
        self._healing[node.name] = node

    def _see_healed(self) -> None:
        """Note the nodes that serve again; one that ended by itself is an error."""
        for node in list(self._healing.values()):
            node.expect_alive()
            if not node.is_serving:
                continue
            del self._healing[node.name]
            fault = self._in_force.pop(node.name)
            self.record(history.Heal(fault.kind, node.name, self.clock()))
            if fault.passes:
                self.on_passed(fault.kind, node.name)
