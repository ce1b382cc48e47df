"""Devices: the real client ``Session`` with an application that sends, takes, acks, crashes and starts again."""

from __future__ import annotations

from typing import Any

import attrs
import tenacity

from resilient_ws import events
from resilient_ws.config import Capabilities, Failover, Inbox, Keepalive, Outbox, Retry
from resilient_ws.config import Wire as WireConfig
from resilient_ws.exceptions import ConnectError, Gap, OutboxFull, Rejected, SessionClosed, SessionLost
from resilient_ws.frames import Position
from resilient_ws.session import Dial, Role, Session, SessionState, Shut, Write
from resilient_ws.welcome import Identity
from tests.simulation.nodes import LARGEST, TTL, Node
from tests.simulation.world import Wire, World

CAPABILITIES = Capabilities(positions=True, acks=True, credit=True, resume=True)


@attrs.frozen
class Delivery:
    """A message that the application got."""

    epoch: str
    offset: int
    payload: bytes


@attrs.frozen(kw_only=True)
class Plan:
    """What a device does."""

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    start: str = "earliest"
    receivers: int = 1
    ack: str = "auto"
    is_slow: bool = False
    is_echo: bool = False
    roles: frozenset[Role] = frozenset()


FAIR_LOSS = TTL / 2
"""Seconds in service without a welcome after which a session may be gone: a ttl less its last third and a dead wire."""


class Device:
    """One client process; a crash makes a new one of the same plan."""

    def __init__(
        self, world: World, nodes: list[Node], name: str, plan: Plan, identity: Identity | None = None
    ) -> None:
        self.world = world
        self.nodes = {f"ws://{node.name}": node for node in nodes}
        self.name = name
        self.plan = plan
        self.is_alive = True
        self.is_sending = True
        self.wires: dict[int, Wire] = {}
        self.sends: list[tuple[str, int, bytes]] = []
        self.log: dict[str, list[Delivery | Gap]] = {stream: [] for stream in plan.subscribes}
        self.begun: dict[str, Position] = {}
        self.lost_sessions: list[SessionLost] = []
        self.unfair_losses: list[events.SessionReplaced] = []
        self.store = nodes[0].store
        self.heard_at: float | None = None
        self.resumes = 0
        self.events: list[Any] = []
        self.failed: list[Exception] = []
        self.producer = f"{world.rng.getrandbits(128):032x}"
        self._timer_at: float | None = None
        self._ops = 0
        self._taken: dict[int, list[Any]] = {}
        self.session = Session(
            urls=list(self.nodes), subscribe=dict.fromkeys(plan.subscribes, plan.start),  # type: ignore[misc]
            retry=Retry(wait=tenacity.wait_exponential(multiplier=0.1, max=1.0), stable_after=2.0, connect_timeout=2.0,
                        max_connect_timeout=2.5),
            failover=Failover(ejection=0.5, max_ejection=1.0), keepalive=Keepalive(min_timeout=1.0),
            outbox=Outbox(max_messages=40, policy="raise"), inbox=Inbox(max_messages=8, max_bytes=4000, ack=plan.ack),  # type: ignore[arg-type]
            wire=WireConfig(max_message=1000), capabilities=CAPABILITIES, gaps="raise",
            instance=f"{world.rng.getrandbits(128):032x}", producer=self.producer, rng=world.rng, now=world.now,
            roles=plan.roles, hedge_delay=0.2,
        )  # fmt: skip
        self.session._core.identity = identity
        self.session.connect(world.now)
        self._drive()
        world.after(world.rng.random(), self._send)
        for receiver in range(plan.receivers):
            world.after(world.rng.random(), self._take, receiver)

    # -- the application ----------------------------------------------------------------------------------------------

    def _send(self) -> None:
        if not self.is_alive or not self.is_sending:
            return
        if self.plan.publishes and not self.plan.is_echo:
            for _ in range(self.world.rng.choice((1, 1, 1, 3))):
                self._send_one(self.world.rng.choice(self.plan.publishes))
        self.world.after(self.world.rng.uniform(0.1, 0.8), self._send)

    def _send_one(self, stream: str) -> None:
        self._ops += 1
        payload = f"{self.name}.{self._ops}"
        if self.world.rng.random() < 0.03:
            payload += "x" * (LARGEST + 10)
        try:
            _, seq = self.session.send(stream, payload, self.world.now)
        except (OutboxFull, Rejected, SessionClosed):
            return
        self.sends.append((stream, seq, payload.encode()))
        self._drive()

    def _take(self, receiver: int) -> None:
        if not self.is_alive:
            return
        rng = self.world.rng
        if self.plan.ack == "manual" and receiver in self._taken:
            for run in self._taken.pop(receiver):
                self.session.ack(run.stream, run.epoch, run.first + len(run.payloads) - 1, receiver, self.world.now)
        if self.plan.ack == "auto":
            self._taken.clear()
        if self.session.has_items or self.plan.ack == "auto":
            for item in self.session.take(rng.choice((1, 2, 5)), receiver, self.world.now):
                self._took(item, receiver)
        self._drive()
        slow = 1.5 if self.plan.is_slow and self.is_sending else 0.2
        self.world.after(rng.uniform(0.01, slow), self._take, receiver)

    def _took(self, item: Any, receiver: int) -> None:
        if isinstance(item, Gap):
            self.log[item.stream].append(item)
        elif isinstance(item, SessionLost):
            self.lost_sessions.append(item)
        elif isinstance(item, Exception):
            self.failed.append(item)
        else:
            self._taken.setdefault(receiver, []).append(item)
            for place, payload in enumerate(item.payloads, item.first):
                data = payload if isinstance(payload, bytes) else payload.encode()
                self.log[item.stream].append(Delivery(item.epoch, place, data))
                if self.plan.is_echo and self.is_sending and item.stream != self.plan.publishes[0]:
                    self._send_one(self.plan.publishes[0])

    def crash(self) -> None:
        """SIGKILL."""
        self.is_alive = False
        for wire in list(self.wires.values()):
            wire.cut(tell_device=False)

    # -- the network --------------------------------------------------------------------------------------------------

    def wire_received(self, wire: Wire, items: list[Any]) -> None:
        if self.is_alive and self.wires.get(wire.conn) is wire:
            self.session.received(wire.conn, items, self.world.now)
            self._drive()

    def wire_lost(self, wire: Wire, error: Exception) -> None:
        if self.is_alive and self.wires.pop(wire.conn, None) is wire:
            self.session.connection_lost(wire.conn, error, self.world.now)
            self._drive()

    def _dialled(self, action: Dial) -> None:
        if not self.is_alive:
            return
        node = self.nodes[action.url]
        if not node.is_up:
            self.session.connection_lost(action.conn, ConnectError("refused"), self.world.now)
        elif not node.is_paused and action.conn in self.session._core.connections:
            wire = self.wires[action.conn] = Wire(self.world, self, node, action.conn)
            node.accept(wire)
            self.session.connection_made(action.conn, self.world.now)
        self._drive()

    def _drive(self) -> None:
        for action in self.session.actions():
            if isinstance(action, Dial):
                self.world.after(2 * self.world.latency(), self._dialled, action)
            elif isinstance(action, Write):
                wire = self.wires.get(action.conn)
                if wire is not None:
                    wire.to_node(action.items)
                self.world.after(0.001, self._written, action.conn)
            elif isinstance(action, Shut):
                wire = self.wires.pop(action.conn, None)
                if wire is not None:
                    wire.closed_by_device()
        self._observe()
        deadline = self.session.next_deadline()
        if deadline is not None and deadline != self._timer_at:
            self._timer_at = deadline
            self.world.at(deadline, self._timer, deadline)

    def _observe(self) -> None:
        for event in self.session.events():
            self.events.append(event)
            if isinstance(event, events.Resumed):
                self.resumes += 1
            elif isinstance(event, events.SessionReplaced) and self._unheard() < FAIR_LOSS:
                self.unfair_losses.append(event)
        if self._is_served():
            self.heard_at = self.store.in_service()
        for stream in self.plan.subscribes:
            if stream not in self.begun:
                position = self.session.position(stream)
                if position is not None:
                    self.begun[stream] = position

    def _is_served(self) -> bool:
        """Is there a connection that works, to a node that works and reaches the store?"""
        primary = self.session._core.primary
        wire = None if primary is None else self.wires.get(primary.number)
        if wire is None or not (wire.up.is_open and wire.down.is_open) or wire.up.is_stalled or wire.down.is_stalled:
            return False
        node = self.nodes[primary.url]  # type: ignore[union-attr]
        return node.is_up and not node.is_paused and node.name not in self.store.cut_off

    def _unheard(self) -> float:
        return 0.0 if self.heard_at is None else self.store.in_service() - self.heard_at

    def _timer(self, planned: float) -> None:
        if self.is_alive and planned == self._timer_at and self.session.state is not SessionState.ENDED:
            self._timer_at = None
            self.session.handle_timer(self.world.now)
            self._drive()

    def _written(self, conn: int) -> None:
        if self.is_alive:
            self.session.written(conn, self.world.now)
            self._drive()
