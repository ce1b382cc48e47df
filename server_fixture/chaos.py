"""
The nemesis: kills nodes and brings them back, on a schedule that one seed gives.

Here lives when a fault comes and when it is undone. How a node is killed is in ``cluster.py``; whether the clients
survived is for the checker to say. Every fault and heal is recorded.
"""

from __future__ import annotations

import random
import threading
import time
import typing
from collections.abc import Callable, Sequence

import attrs

from server_fixture import history

ALL_DOWN_EVERY = 10
"""Each kill of this number takes every node."""
_LOOK = 0.02
"""Seconds between two looks at nodes that are starting."""

Record = Callable[[history.Op], None]


class Victim(typing.Protocol):
    """What the nemesis needs of a node."""

    @property
    def name(self) -> str: ...

    @property
    def is_alive(self) -> bool: ...

    @property
    def is_serving(self) -> bool: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def wait_ready(self, timeout: float = ...) -> None: ...

    def expect_alive(self) -> None: ...


class Victims(typing.Protocol):
    """What the nemesis needs of a cluster."""

    @property
    def nodes(self) -> Sequence[Victim]: ...


@attrs.frozen
class Kill:
    """One kill: when, whom, and how many nodes served after it."""

    time: float
    nodes: tuple[str, ...]
    left: int


@attrs.define(eq=False)
class Nemesis:
    """
    Kills random nodes and restarts them, in a thread of its own.

    It leaves one node alive, except with each tenth kill, which takes all. A kill whose time has come while only one
    node serves waits until another one does.

    Args:
        cluster: Whose nodes.
        record: Takes every fault and heal, in this thread.
        seed: Gives the order of the victims and all the pauses.
        kill_every: Seconds between two kills, on average.
        on_kill: Called with every kill just before its signals go out, so that who was there then can be noted.
    """

    cluster: Victims
    record: Record
    seed: int
    kill_every: float = 1.0
    on_kill: Callable[[Kill], None] = lambda kill: None
    clock: Callable[[], float] = time.monotonic
    kills: list[Kill] = attrs.field(factory=list)
    error: BaseException | None = None
    _rng: random.Random = attrs.field(init=False)
    _stopping: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None
    _restarts: dict[str, float] = attrs.field(factory=dict)
    _starting: dict[str, Victim] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if not self.kill_every > 0:
            raise ValueError(f"kill_every={self.kill_every!r}: must be above 0")
        self._rng = random.Random(self.seed)

    def start(self) -> None:
        """Begin; the first kill comes within one pause."""
        self._thread = threading.Thread(target=self._run, name="nemesis", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        Kill no more, and bring every node back.

        Raises:
            ChildFailed: A node did not come back; the text has its exit code and the end of its log.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error
        for node in self.cluster.nodes:
            if node.name in self._restarts:
                self._restart(node)
        for node in list(self._starting.values()):
            node.wait_ready()
        self._see_started()

    # -- the schedule -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            kill_at = self.clock() + self._pause()
            while not self._stopping.wait(self._until(kill_at)):
                self._restart_due()
                self._see_started()
                if self.clock() >= kill_at and self._kill():
                    kill_at = max(kill_at, self.clock() - self.kill_every) + self._pause()
        except BaseException as error:
            self.error = error

    def _pause(self) -> float:
        return self._rng.uniform(0.5, 1.5) * self.kill_every

    def _until(self, kill_at: float) -> float:
        """Return for how long nothing is due."""
        if self._starting:
            return _LOOK
        at = min([kill_at, *self._restarts.values()])
        return max(_LOOK if self.clock() >= kill_at else 0.0, at - self.clock())

    def _kill(self) -> bool:
        """Kill, if that leaves what it has to leave; say whether it did."""
        self._see_started()
        number = len(self.kills) + 1
        serving = [node for node in self.cluster.nodes if node.is_serving]
        takes_all = number % ALL_DOWN_EVERY == 0
        if len(serving) < (1 if takes_all else 2):
            return False
        victims = [node for node in self.cluster.nodes if node.is_alive] if takes_all else [self._rng.choice(serving)]
        left = 0 if takes_all else len(serving) - 1
        kill = Kill(self.clock(), tuple(node.name for node in victims), left)
        self.kills.append(kill)
        self.on_kill(kill)
        for node in victims:
            self.record(history.Fault("kill", node.name, kill.time))
            node.kill()
            self._starting.pop(node.name, None)
            self._restarts[node.name] = self.clock() + self._rng.uniform(0.05, 0.5) * self.kill_every
        return True

    def _restart_due(self) -> None:
        for node in self.cluster.nodes:
            if self._restarts.get(node.name, float("inf")) <= self.clock():
                self._restart(node)

    def _restart(self, node: Victim) -> None:
        del self._restarts[node.name]
        node.start()
        self._starting[node.name] = node

    def _see_started(self) -> None:
        """Note the nodes that serve again; one that ended by itself is an error."""
        for node in list(self._starting.values()):
            node.expect_alive()
            if node.is_serving:
                del self._starting[node.name]
                self.record(history.Heal("kill", node.name, self.clock()))
