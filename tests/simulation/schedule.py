"""One schedule: built from a seed, run with faults, healed, brought to rest, judged."""

from __future__ import annotations

import attrs

from resilient_ws.frames import PRIVATE
from resilient_ws.session import Role, SessionState
from server_fixture.backplane import Entry, Publish
from tests.simulation.devices import Device, Plan
from tests.simulation.faults import KINDS, MIXES
from tests.simulation.judge import judge
from tests.simulation.nodes import FORBIDDEN_STREAM, Node, Store
from tests.simulation.world import World

LOAD = 30.0
PATIENCE = 90.0
ROLES = frozenset({Role.SUCCESSOR, Role.CANDIDATE, Role.STANDBY})


@attrs.frozen
class Result:
    """What a schedule came to."""

    seed: int
    steps: int
    faults: int
    resumes: int
    violations: list[str]
    trace: list[str]


class Schedule:
    """The cast of one seed."""

    def __init__(self, seed: int, mix: str) -> None:
        self.world = World(seed)
        self.rng = self.world.rng
        self.mix = mix
        self.store = Store(self.world, retention=self.rng.choice((10_000, 10_000, 30)))
        self.nodes = [Node(self.world, self.store, f"n{i}") for i in range(self.rng.choice((2, 3)))]
        self.streams = ["a", "b"]
        self.is_healed = False
        self.has_new_epochs = False
        self.may_lose_sessions = False
        self.was_taken_over = False
        self.dead: list[Device] = []
        self.resumes_at_heal: dict[str, int] = {}
        self._names = 0
        self._privates = 0
        self.devices = [self._start(plan) for plan in self._plans()]

    def _plans(self) -> list[Plan]:
        rng = self.rng
        roles = rng.choice((frozenset(), frozenset(), ROLES, frozenset({Role.SUCCESSOR})))
        plans = [
            Plan(publishes=("a", "b"), subscribes=("a",), roles=roles, start=rng.choice(("now", "earliest"))),
            Plan(subscribes=("a", "b", PRIVATE), receivers=rng.choice((1, 2)), ack=rng.choice(("auto", "manual"))),
        ]
        if rng.random() < 0.5:
            plans.append(Plan(publishes=("echo",), subscribes=("b", "echo"), is_echo=True, is_slow=rng.random() < 0.3))
        if rng.random() < 0.3:
            plans.append(Plan(publishes=("b", FORBIDDEN_STREAM), subscribes=(), roles=roles))
        return plans

    def _start(self, plan: Plan, like: Device | None = None) -> Device:
        self._names += 1
        identity = None if like is None else like.session._core.identity
        return Device(self.world, self.nodes, f"d{self._names}", plan, identity)

    # -- faults that need the cast ------------------------------------------------------------------------------------

    def crash(self, index: int) -> None:
        device = self.devices[index]
        device.crash()
        self.dead.append(device)
        self.devices[index] = self._start(device.plan)

    def take_over(self, index: int) -> None:
        if self.was_taken_over or self.devices[index].session.session_id is None:
            return
        self.was_taken_over = self.may_lose_sessions = True
        self.devices.append(self._start(self.devices[index].plan, self.devices[index]))

    def publish_private(self) -> None:
        for device in self.devices:
            session = device.session.session_id
            if session is not None and self.store.is_up and PRIVATE in device.plan.subscribes:
                self._privates += 1
                payload = f"private {self._privates:06d}".encode()
                self.store.step(Publish(stream="~" + session, entries=(Entry(payload, True),)))

    def resubscribe(self, index: int) -> None:
        device = self.devices[index]
        for stream in device.plan.subscribes[:1]:
            position = device.session.position(stream)
            if position is not None and device.session.state is not SessionState.ENDED and device.plan.receivers == 1:
                inbox = device.session._core.inbox
                passed = inbox.subscriptions[stream].passed
                device.session.unsubscribe(stream, self.world.now)
                device.session.subscribe(stream, passed, self.world.now)
                device._taken = {r: [x for x in runs if x.stream != stream] for r, runs in device._taken.items()}
                device._drive()

    # -- the run ------------------------------------------------------------------------------------------------------

    def _fault(self, at: float) -> None:
        kind = self.rng.choice(MIXES[self.mix])
        self.world.faults += 1
        self.world.note(f"fault {kind}")
        KINDS[kind](self)

    def run(self) -> Result:
        """Load with faults, then heal, wait until nothing moves, and judge."""
        violations: list[str] = []
        for _ in range(self.rng.randint(3, 12)):
            self.world.at(self.rng.uniform(1.0, LOAD), self._fault, 0.0)
        if self.mix == "swallow":  # what is lost last is noticed by nothing that follows
            for _ in range(4):
                self.world.at(self.rng.uniform(LOAD - 1.0, LOAD), self._fault, 0.0)
        try:
            self.world.run(LOAD)
            self._heal()
            if not self.world.run(LOAD + PATIENCE, self.is_quiet):
                violations += judge(self) or ["L0 nothing is wrong and it does not come to rest"]
            else:
                self.world.run(self.world.now + 5.0)
                violations += judge(self)
        except AssertionError:
            raise
        except Exception as error:  # a crash of the core is a violation like any other
            violations.append(f"X0 {type(error).__name__}: {error}")
        resumes = sum(device.resumes for device in [*self.devices, *self.dead])
        return Result(self.world.seed, self.world.steps, self.world.faults, resumes, violations, self.world.trace)

    def _heal(self) -> None:
        self.is_healed = True
        self.store.come_back()
        self.store.cut_off.clear()
        self.store.lost_answers = 0
        for node in self.nodes:
            node.start()
            if node.is_paused:
                node.resume()
        for wire in list(self.world.wires):
            wire.up.swallow = wire.down.swallow = 0
            wire.up.heal()
            wire.down.heal()
        for device in self.devices:
            device.is_sending = False
            self.resumes_at_heal[device.name] = device.resumes

    def is_quiet(self) -> bool:
        """Everything is acked, delivered, and nothing is on its way."""
        for device in self.devices:
            session = device.session
            if session.error is not None:
                continue
            if not session.connected or session.unacked or session.has_items or not session.is_flushed:
                return False
            if not self._is_level(device):
                return False
        return True

    def _is_level(self, device: Device) -> bool:
        for stream in device.plan.subscribes:
            if stream == PRIVATE:
                if self.store.memory.contents(f"~{device.session.session_id}"):
                    return False
                continue
            slot = self.store.memory._find(stream)
            subscription = device.session._core.inbox.subscriptions.get(stream)
            if subscription is None or not subscription.is_active:
                return False
            if slot is not None and (slot.epoch, slot.last) != (subscription.epoch, subscription.offset):
                return False
        return True


def run_seed(seed: int, mix: str = "usual") -> Result:
    """Run one schedule."""
    return Schedule(seed, mix).run()
