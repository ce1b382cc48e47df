"""One schedule: built from a script, run with faults, healed, brought to rest, judged."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from resilient_ws.exceptions import Gap
from resilient_ws.frames import PRIVATE
from resilient_ws.session import SessionState
from server_fixture.backplane import Entry, Publish
from tests.simulation.devices import Device
from tests.simulation.faults import KINDS
from tests.simulation.journal import Journal
from tests.simulation.judge import judge
from tests.simulation.nodes import Node
from tests.simulation.script import Planned, Script
from tests.simulation.store import Store
from tests.simulation.wires import Network
from tests.simulation.world import Broken, World

PATIENCE = 90.0
"""Virtual seconds after the heal in which everything has to come to rest."""
REST = 4.0
"""Seconds for which it then has to stay there."""


@attrs.frozen
class Result:
    """What a schedule came to."""

    seed: int
    steps: int
    faults: int
    sessions: int
    nodes: int
    resumes: int
    violations: list[str]
    trace: list[str]


class Schedule:
    """The cast of one script, and how far it is."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.world = World(script.seed)
        self.network = Network(self.world)
        self.store = Store(self.world, script.retention)
        self.store.is_handled = self._is_handled
        self.nodes = [Node(self.world, self.store, f"n{i}") for i in range(script.nodes)]
        self.streams = ["a", "b"]
        self.is_healed = False
        self.has_new_epochs = False
        self.has_lost_tails = False
        self.may_lose_sessions = False
        self.was_taken_over = self.had_copies = False
        self.copies: dict[str, Journal] = {}
        self.forgotten: set[str] = set()
        self.revoked: set[str] = set()
        self.dead: list[Device] = []
        self.restarts: list[tuple[Device, Device]] = []
        self.resumes_at_heal: dict[str, int] = {}
        self._lives: dict[str, int] = {}
        self._published = 0
        self.devices = [
            Device(self.network, self.nodes, f"d{number}", plan) for number, plan in script.devices
        ]

    def _is_handled(self, epoch: str, offset: int) -> bool:
        """Has anybody handled this private message, or passed a gap over it?"""
        for device in [*self.devices, *self.dead]:
            if (PRIVATE, epoch, offset) in device.application.handled:
                return True
            for item in device.application.log.get(PRIVATE, ()):
                if isinstance(item, Gap) and item.epoch == epoch and offset < item.next:
                    return True
        return False

    # -- faults that need the cast ------------------------------------------------------------------------------------

    def _again(
        self, device: Device, *, before: Device | None = None, is_double: bool = False, copy: Journal | None = None
    ) -> Device:
        """Start another process like this one."""
        root = device.name.split(".")[0]
        self._lives[root] = self._lives.get(root, 1) + 1
        identity = device.session._core.identity if is_double else None
        plan = attrs.evolve(device.plan, journal="") if is_double else device.plan
        name = f"{root}.{self._lives[root]}"
        return Device(self.network, self.nodes, name, plan, identity=identity, before=before, copy=copy)

    def crash(self, index: int, copy: Journal | None = None) -> None:
        device = self.devices[index]
        if device.session.state is SessionState.ENDED:
            return
        device.crash()
        self.dead.append(device)
        self.devices[index] = self._again(device, before=device, copy=copy)
        self.restarts.append((device, self.devices[index]))

    def save_copy(self, index: int) -> None:
        """Somebody copies the file of a journal."""
        device = self.devices[index]
        if device.storage is not None:
            self.copies[device.name.split(".")[0]] = device.storage.journal.copy()

    def restore_copy(self, index: int) -> None:
        """A process dies, and somebody puts the copy of its journal back; its token may be outranked by now."""
        copy = self.copies.get(self.devices[index].name.split(".")[0])
        if copy is not None:
            self.had_copies = self.may_lose_sessions = self.was_taken_over = True
            self.crash(index, copy.copy())

    def take_over(self, index: int) -> None:
        device = self.devices[index]
        if not self.was_taken_over and device.session.session_id is not None:
            self.was_taken_over = self.may_lose_sessions = True
            self.devices.append(self._again(device, is_double=True))

    def finish(self, index: int, how: str) -> None:
        """A process ends as its user wants, and another one of its kind starts, without its journal."""
        device = self.devices[index]
        if device.is_asleep or device.session.state in (SessionState.ENDED, SessionState.DRAINING):
            return
        device.application.is_sending = False
        if how in ("close", "bye"):
            device.close(end=how == "bye")
        elif how == "drain anew":  # one that nobody has welcomed yet
            device = self._again(device)
            self.devices.append(device)
            device.application.is_sending = False
            if len(self.devices) % 2:
                device.close(end=False)
            device.application.send_some(3)
            device.finish()
        else:
            device.application.send_some(3)
            device.finish()
            if how == "drain twice":
                device.finish()
            elif how == "drain and close":
                device.close(end=False)
        self.devices.append(self._again(device))

    def publish(self, stream: str, count: int) -> None:
        """The server's own API writes to a shared stream."""
        for _ in range(count):
            self._published += 1
            self.store.step(Publish(stream=stream, entries=(Entry(f"own {self._published:06d}".encode(), True),)))

    def publish_private(self) -> None:
        for device in self.devices:
            session = device.session.session_id
            if session is not None and self.store.is_up and PRIVATE in device.plan.subscribes:
                self._published += 1
                payload = f"private {self._published:06d}".encode()
                self.store.step(Publish(stream="~" + session, entries=(Entry(payload, True),)))

    # -- the run ------------------------------------------------------------------------------------------------------

    def _fault(self, planned: Planned) -> None:
        self.world.note(f"fault {planned.kind}")
        KINDS[planned.kind](self, random.Random(planned.dice))

    def run(self) -> Result:
        """Load with faults, then heal, wait until nothing moves, and judge."""
        for planned in self.script.faults:
            self.world.at(planned.at, self._fault, planned)
        violations: list[str] = []
        try:
            self.world.run(self.script.load)
            self._heal()
            is_quiet = self.world.run(self.world.now + PATIENCE, self.is_quiet)
            if is_quiet:  # what is noticed late, a dead connection or a replaced tail, is noticed now
                self.world.run(self.world.now + REST)
                is_quiet = self.world.run(self.world.now + PATIENCE, self.is_quiet)
            violations += judge(self) or ([] if is_quiet else ["L0 nothing is wrong and it does not come to rest"])
        except Broken as broken:
            violations.append(f"{broken} (at {self.world.now:.4f})")
        except Exception as error:  # a crash of the core is a violation like any other
            violations.append(f"X0 {type(error).__name__}: {error} (at {self.world.now:.4f})")
        everybody = [*self.devices, *self.dead]
        return Result(
            self.world.seed, self.world.steps, len(self.script.faults), len(everybody), len(self.nodes),
            sum(device.resumes for device in everybody), violations, self.world.trace,
        )  # fmt: skip

    def _heal(self) -> None:
        self.is_healed = True
        self.store.come_back()
        self.store.cut_off.clear()
        self.store.lost_answers = 0
        for node in self.nodes:
            node.start()
            node.dial_delay = 0.0
            node.revoked.clear()
            if node.is_paused:
                node.resume()
        for wire in list(self.network.wires):
            wire.up.swallow = wire.down.swallow = 0
            wire.up.heal()
            wire.down.heal()
        for device in self.devices:
            if device.storage is not None:
                device.storage.journal.is_full = device.storage.journal.is_slow = False
            device.application.is_sending = False
            self.resumes_at_heal[device.name] = device.resumes

    def is_quiet(self) -> bool:
        """Everything is acked, delivered, and nothing is on its way."""
        for device in self.devices:
            session = device.session
            if session.state is SessionState.ENDED:
                continue
            if device.application.unsure:
                return False
            if device.is_asleep or not session.connected or session.has_items or not session.is_flushed:
                return False
            if not all(self._is_level(device, stream) for stream in device.plan.subscribes):
                return False
        return True

    def _is_level(self, device: Device, stream: str) -> bool:
        """Has this device everything that there is of a stream, and acked it?"""
        if stream == PRIVATE:
            return not self.store.memory.contents(f"~{device.session.session_id}")
        if isinstance(device.session.subscription(stream), Exception):
            return True
        slot = self.store.find(stream)
        subscription = device.session._core.inbox.subscriptions.get(stream)
        if subscription is None or not subscription.is_active:
            return False
        return slot is None or (slot.epoch == subscription.epoch and not slot.log[slot.index(subscription.offset) :])


def run_seed(seed: int, mix: str = "usual") -> Result:
    """Run the schedule of a seed."""
    return Schedule(Script.drawn(seed, mix)).run()


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector away while a few schedules run: nearly all that it would look at is still needed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        gc.collect()
