"""Devices: the real client ``Session`` on virtual connections, with its own clock, that sleeps, crashes, starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tenacity

from resilient_ws import events
from resilient_ws.config import Capabilities, Failover, Inbox, Keepalive, Outbox, Retry
from resilient_ws.config import Wire as WireConfig
from resilient_ws.losing import FOREIGN_WINDOW
from resilient_ws.records import Identity, Restored
from resilient_ws.session import Action, Dial, Session, SessionState, Shut, Write
from resilient_ws.treatments import superseder
from tests.simulation.application import Application, Plan
from tests.simulation.invariants import MOST_AT_ONE_ENDPOINT, check_begun, check_dial, check_in_hand, check_session
from tests.simulation.journal import Contents, Journal
from tests.simulation.nodes import TTL, Node
from tests.simulation.storage import Storage
from tests.simulation.wires import Network, Wire
from tests.simulation.world import Broken, latency

CAPABILITIES = Capabilities(positions=True, acks=True, credit=True, resume=True)
RETRY = Retry(
    wait=tenacity.wait_exponential(multiplier=0.1, max=1.0), stable_after=2.0, connect_timeout=2.0,
    max_connect_timeout=2.5, budget=None,
)  # fmt: skip
FAILOVER = Failover(ejection=0.5, max_ejection=1.0)
KEEPALIVE = Keepalive(min_timeout=1.0)
WIRE = WireConfig(max_message=1000)

FAIR_LOSS = TTL / 2
"""Seconds in service without a welcome after which a session may be gone: a ttl less its last third and a dead wire."""


class Device:
    """
    One client process; a crash makes a new one of the same plan.

    Args:
        identity: Whose token it resumes with; None: its journal's, or none.
        before: The life before this one, where a journal kept something of it.
        copy: An older copy of that journal, which somebody put back.
    """

    def __init__(
        self,
        network: Network,
        nodes: list[Node],
        name: str,
        plan: Plan,
        *,
        identity: Identity | None = None,
        before: Device | None = None,
        copy: Journal | None = None,
    ) -> None:
        self.network = network
        self.world = network.world
        self.nodes = {f"ws://{node.name}": node for node in nodes}
        self.store = nodes[0].store
        self.name = name
        self.plan = plan
        self.dice = self.world.dice(name)
        self.is_alive = True
        self.is_asleep = False
        self.wires: dict[int, Wire] = {}
        self.unfair_losses: list[events.SessionReplaced] = []
        self.indefinite: list[events.IndefiniteResent] = []
        self.dropped_at: dict[tuple[str, int], float] = {}
        self.died_at = math.inf
        self.heard_at: float | None = None
        self.resumes = 0
        self.ahead = self.dice.uniform(0.0, 1e6)
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._timer_at: float | None = None
        self._dialled_last = ("", 0)
        self._foreign_at: float | None = None
        self.storage = Storage(self, Journal(plan.journal, self.dice)) if plan.journal else None
        self.contents: Contents | None = None
        if before is not None and before.storage is not None:
            self.storage = Storage(self, before.storage.journal if copy is None else copy)
            self.contents = self.storage.journal.crash()
            self.heard_at = before.heard_at
        self.session = self._session(identity)
        self.application = Application(self, plan)
        self._remember()
        self.session.connect(self.now)
        self.drive()
        self.application.begin()

    def _session(self, identity: Identity | None) -> Session:
        plan = self.plan
        instance = f"{self.dice.getrandbits(128):032x}"
        session = Session(
            urls=list(self.nodes), subscribe=dict.fromkeys(plan.subscribes, plan.start), retry=RETRY,
            failover=FAILOVER, keepalive=KEEPALIVE,
            outbox=Outbox(max_messages=plan.outbox, policy=plan.policy, sync=plan.journal or "full"),
            inbox=Inbox(max_messages=8, max_bytes=4000, ack=plan.ack), wire=WIRE, capabilities=CAPABILITIES,
            gaps="raise", instance=instance, producer=f"{self.dice.getrandbits(128):032x}", rng=self.dice,
            now=self.now, roles=plan.roles, hedge_delay=0.2, restored=self._restored(),
        )  # fmt: skip
        if identity is not None:
            session._core.identity = identity
        if self.storage is not None:
            self.storage.journal.opened(instance)
        return session

    def _restored(self) -> Restored | None:
        if self.storage is None:
            return None
        contents = self.contents or Contents()
        return contents.restored(self.storage.journal.instances, self.ahead)

    def _remember(self) -> None:
        """What the journal kept is the application's still: unacked messages and positions."""
        if self.contents is not None:
            for (producer, stream), rows in self.contents.rows.items():
                self.application.remember(producer, stream, {seq: row.item for seq, row in rows.items()})
            for stream, handled in self.contents.positions.items():
                self.application.begun[stream].position = handled.position

    @property
    def now(self) -> float:
        """Its monotonic clock."""
        return self.world.now + self.ahead

    # -- what happens to it -------------------------------------------------------------------------------------------

    def is_awake(self, what: Callable[..., None], *args: Any) -> bool:
        """Postpone while asleep; never again after a crash."""
        if self.is_asleep:
            self._waiting.append((what, args))
        return self.is_alive and not self.is_asleep

    def crash(self) -> None:
        """SIGKILL."""
        self.is_alive, self.died_at = False, self.world.now
        if self.storage is not None:
            self.storage.died()
        for wire in list(self.wires.values()):
            wire.cut(tell_device=False)

    def sleep(self, seconds: float, *, clock_stops: bool) -> None:
        """Stand still for a while, as a stopped process, or as a machine whose monotonic clock stands still too."""
        if self.is_alive and not self.is_asleep:
            self.is_asleep = True
            self.world.after(seconds, self._wake, seconds if clock_stops else 0.0)

    def _wake(self, stopped: float) -> None:
        self.ahead -= stopped
        self.is_asleep = False
        waiting, self._waiting = self._waiting, []
        for what, args in waiting:
            what(*args)
        if self.is_alive:
            self.drive()

    def finish(self) -> None:
        """Accept nothing more, and end when everything is acked."""
        if self.is_alive and self.session.state is not SessionState.ENDED:
            self.session.drain(self.now)
            self.drive()

    def close(self, *, end: bool) -> None:
        """End now; ``end`` says ``bye``."""
        if self.is_alive and not self.is_asleep:
            self.session.close(self.now, end=end)
            self.drive()

    # -- the network --------------------------------------------------------------------------------------------------

    def wire_received(self, wire: Wire, items: list[Any]) -> None:
        if self.is_awake(self.wire_received, wire, items) and self.wires.get(wire.conn) is wire:
            self.session.received(wire.conn, items, self.now)
            self.drive()

    def wire_lost(self, wire: Wire, error: Exception) -> None:
        if self.is_awake(self.wire_lost, wire, error) and self.wires.pop(wire.conn, None) is wire:
            self.session.connection_lost(wire.conn, error, self.now)
            self.drive()

    def _dialled(self, action: Dial) -> None:
        if not self.is_awake(self._dialled, action):
            return
        node = self.nodes[action.url]
        refusal = node.refusal()
        if refusal is not None:
            self.session.connection_lost(action.conn, refusal, self.now)
        elif not node.is_paused and action.conn in self.session._core.connections:
            wire = self.wires[action.conn] = Wire(self.network, self, node, action.conn)
            node.accept(wire)
            self.session.connection_made(action.conn, self.now)
        self.drive()

    def drive(self) -> None:
        """Carry out what the session wants, look at what it says, set its timer."""
        for action in self.session.actions():
            self._perform(action)
        if self.storage is not None:
            self.storage.look()
        self._observe()
        self.application.notice()
        deadline = self.session.next_deadline()
        if deadline is not None and (self._timer_at is None or deadline < self._timer_at):
            self._timer_at = deadline
            self.world.at(deadline - self.ahead, self._timer, deadline)

    def _perform(self, action: Action) -> None:
        if isinstance(action, Dial):
            self._check_dial(action)
            delay = 2 * latency(self.dice) + self.nodes[action.url].dial_delay
            self.world.after(delay, self._dialled, action)
        elif isinstance(action, Write):
            wire = self.wires.get(action.conn)
            if self.storage is not None:
                self.storage.check(action)
            if wire is not None:
                wire.to_node(action.items)
            self.world.after(0.001, self._written, action.conn)
        elif isinstance(action, Shut):
            wire = self.wires.pop(action.conn, None)
            if wire is not None:
                wire.closed_by_device(action.code, action.reason)

    def _written(self, conn: int) -> None:
        if self.is_awake(self._written, conn):
            self.session.written(conn, self.now)
            if self.session._core.actions or not self.session.is_flushed:
                self.drive()

    def _timer(self, planned: float) -> None:
        if not self.is_awake(self._timer, planned):
            return
        if planned == self._timer_at and self.session.state is not SessionState.ENDED:
            self._timer_at = None
            self.session.handle_timer(self.now)
            self.drive()

    # -- looking ------------------------------------------------------------------------------------------------------

    def _check_dial(self, dial: Dial) -> None:
        """L2: an attempt goes elsewhere, if there is anything else, where others have failed or are on their way."""
        check_dial(self.session, dial, self.now)
        if self.session.connected:
            return  # a successor or a spare goes where the primary is not, as often as it has to
        last, times = self._dialled_last
        self._dialled_last = (dial.url, times + 1 if dial.url == last else 1)
        if self._dialled_last[1] > MOST_AT_ONE_ENDPOINT and len(self.nodes) > 1:
            raise Broken(f"L2 {self.name} dialled {dial.url} {self._dialled_last[1]} times in a row, in vain")

    def _check_owner(self, event: events.Event) -> None:
        """S9: whom somebody else outranked goes on with his own session or not at all."""
        if isinstance(event, events.ConnectionEnded) and event.code == 4409 and not self.session.connected:
            if superseder(event.reason) not in self.session._core.settings.instances:
                self._foreign_at = self.now
        elif isinstance(event, events.SessionReplaced) and event.reason == "superseded" and self._is_contested():
            raise Broken(f"S9 {self.name} lost its session to another process and goes on with a new one")

    def _is_contested(self) -> bool:
        return self._foreign_at is not None and self.now - self._foreign_at < FOREIGN_WINDOW

    def _observe(self) -> None:
        check_session(self.session)
        check_in_hand(self.session, self.application.in_hand)
        for event in self.session.events():
            self._check_owner(event)
            if isinstance(event, events.Resumed):
                self.resumes += 1
            elif isinstance(event, events.Connected):
                self._dialled_last = ("", 0)
            elif isinstance(event, events.MessagesDropped):
                self.dropped_at[event.stream, event.first] = self.world.now
            elif isinstance(event, events.IndefiniteResent):
                self.indefinite.append(event)
            elif isinstance(event, events.SessionReplaced) and self._unheard() < FAIR_LOSS:
                self.unfair_losses.append(event)
        if self._is_served():
            self.heard_at = self.store.in_service()
        for stream, begun in self.application.begun.items():
            if begun.position is None:
                begun.position = self.session.position(stream)
                check_begun(self.store, stream, begun)

    def _is_served(self) -> bool:
        """Is there a connection that works, to a node that works and reaches the store?"""
        primary = self.session._core.primary
        wire = None if primary is None else self.wires.get(primary.number)
        if wire is None or not (wire.up.is_open and wire.down.is_open) or wire.up.is_stalled or wire.down.is_stalled:
            return False
        node = wire.node
        assert isinstance(node, Node)
        return node.is_up and not node.is_paused and node.name not in self.store.cut_off

    def _unheard(self) -> float:
        return 0.0 if self.heard_at is None else self.store.in_service() - self.heard_at
