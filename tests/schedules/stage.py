"""
The cast of a schedule: nodes before one store, devices, a clock that the script moves. Nothing happens by itself.

Here lives who there is and what time it is. What is on its way lives in ``line.py``, what has to hold in
``judging.py``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from session_tools import session

from resilient_ws import events as e
from resilient_ws.exceptions import ConnectError, Gap
from resilient_ws.records import Handled, Identity, Restored
from resilient_ws.session import Dial, Session, SessionState, Shut, Write
from schedules.judging import Broken
from schedules.line import CLOSED, Line
from server_fixture.backplane import BUCKETS, Answer, Append, Entry, Fence, Publish, Request, SessionEntered, Tick
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.session import NodeSettings, ServerSession

MOST_STEPS = 20_000
TICK = 1.0
SILENT = 0.4
"""Share of a ttl without an answer of the store after which a node gives its sessions up (rule 1)."""


class Node:
    """
    One server process.

    Attributes:
        is_reachable: False: a dial is refused.
        is_black_hole: A dial is never answered.
        is_paused: The process stands still with everything in its queues.
        reaches_store: False: every step has an unknown outcome.
    """

    def __init__(self, stage: Stage, name: str, settings: Mapping[str, Any]) -> None:
        self.stage = stage
        self.settings = NodeSettings(**{"node": name, "key": b"key of the stage", **settings})
        self.is_reachable = True
        self.is_black_hole = self.is_paused = False
        self.reaches_store = True
        self.answered_at = 0.0
        self.tick_at = TICK

    @property
    def lines(self) -> list[Line]:
        """Connections that its side has not closed."""
        return [line for line in self.stage.lines if line.node is self and not line.server.is_closed]

    def tick(self) -> None:
        """Advance the clocks of the store, and judge its silence, as a host does."""
        now = self.stage.now
        self.tick_at = now + TICK
        if self.reaches_store:
            self.answered_at = now
            for bucket in range(BUCKETS):
                self.stage.store.step(Tick(bucket=bucket), now)
        elif now - self.answered_at >= SILENT * self.settings.ttl:
            for line in self.lines:
                line.server.store_silent(now)
                line.serve()

    def drain(self, within: float = 60.0) -> None:
        """Ask every client to leave, and run."""
        for line in self.lines:
            line.server.drain(within, self.stage.now)
            line.serve()
        self.stage.run()

    def go_on(self) -> None:
        """Wake a process that stood still, and run."""
        self.is_paused = False
        self.stage.run()


class Device:
    """
    One client process: a real Session, and what its application sent and got.

    Attributes:
        sent: (stream, seq, payload) of each accepted message.
        got: What :meth:`take` returned: (stream, offset, payload) of each message, and markers as they are.
        most: The most messages that ever were in the inbox.
    """

    def __init__(self, stage: Stage, number: int, identity: Identity | None, changes: Mapping[str, Any]) -> None:
        self.stage = stage
        self.changes = dict(changes)
        self.producer = f"{0x1000 + number:032x}"
        defaults = {"urls": list(stage.nodes), "instance": f"{number:032x}", "producer": self.producer}
        self.session: Session = session(**{**defaults, **changes}, now=stage.now)
        self.session._core.identity = identity
        self.lines: dict[int, Line] = {}
        self.events: list[Any] = []
        self.sent: list[tuple[str, int, str]] = []
        self.got: list[Any] = []
        self.most = 0

    # -- the application ----------------------------------------------------------------------------------------------

    def send(self, *payloads: str, stream: str = "orders") -> None:
        """Send messages one by one; they are on the wire, and nothing has arrived."""
        for payload in payloads:
            _, seq = self.session.send(stream, payload, self.stage.now)
            self.session.hurry()
            self.sent.append((stream, seq, payload))
            self.drive()

    def take(self, limit: int = 1000, receiver: int = 0) -> list[Any]:
        """Take what is there, until there is nothing more or ``limit`` messages are out; nothing arrives meanwhile."""
        found: list[Any] = []
        while len(found) < limit and (items := self.session.take(limit - len(found), receiver, self.stage.now)):
            for item in items:
                if isinstance(item, Exception):
                    found.append(item)
                else:
                    found.extend((item.stream, place, data) for place, data in enumerate(item.payloads, item.first))
        self.got += found
        self.drive()
        return found

    def ack(self, stream: str, offset: int, receiver: int = 0) -> None:
        """Say that a message is handled; the ack is on its way only when it is due."""
        position = self.session.position(stream)
        assert position is not None
        self.session.ack(stream, position.epoch, offset, receiver, self.stage.now)
        self.drive()

    def outcome(self, seq: int, stream: str = "orders") -> bool | Exception:
        return self.session.outcome(self.producer, stream, seq)

    def crash(self) -> None:
        """SIGKILL: what was written still arrives, the nodes are told nothing."""
        self.lines.clear()
        self.stage.devices.remove(self)

    # -- looking ------------------------------------------------------------------------------------------------------

    @property
    def line(self) -> Line:
        """The newest connection."""
        return self.lines[max(self.lines)]

    @property
    def node(self) -> str:
        """The name of the node that serves it, empty where none does."""
        primary = self.session._core.primary
        return "" if primary is None else primary.node

    @property
    def identity(self) -> Identity:
        """What a journal would keep of the session."""
        found = self.session._core.identity
        assert found is not None
        return found

    @property
    def is_open(self) -> bool:
        """Is it connected, by a line that really exists?"""
        primary = self.session._core.primary
        return primary is not None and primary.number in self.lines

    def told(self, kind: type) -> list[Any]:
        """Return every event of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.got if isinstance(item, Gap)]

    @property
    def resumes(self) -> int:
        return len(self.told(e.Resumed))

    # -- the shell ----------------------------------------------------------------------------------------------------

    def drive(self) -> None:
        """Carry out what the session asks for; a dead process asks for nothing."""
        if self not in self.stage.devices:
            return
        while (actions := self.session.actions()) or self._persist():
            for action in actions:
                self._do(action)
        self.events += self.session.events()
        self.most = max(self.most, self.session._core.inbox.messages)
        self.session.next_deadline()

    def _persist(self) -> bool:
        """Have the journal written at once, where there is one and something for it."""
        group = self.session.unwritten
        is_due = group is not None and bool(group.records)
        if is_due:
            self.session.to_persist()
            self.session.persisted(self.stage.now, durable=True)
        return is_due

    def _do(self, action: Dial | Write | Shut) -> None:
        if isinstance(action, Dial):
            self._dial(action)
        elif isinstance(action, Write):
            if action.conn in self.lines:
                self.lines[action.conn].write("up", list(action.items))
            self.session.written(action.conn, self.stage.now)
        elif action.conn in self.lines:
            line = self.lines.pop(action.conn)
            line.queues["down"].clear()
            line.queues["up"].append(CLOSED)

    def _dial(self, dial: Dial) -> None:
        node = self.stage.nodes[dial.url]
        if node.is_black_hole:
            return
        if not node.is_reachable:
            self.session.connection_lost(dial.conn, ConnectError("refused"), self.stage.now)
            return
        server = ServerSession(node.settings, "user", self.stage.authorize, self.stage.rng, self.stage.now)
        line = self.lines[dial.conn] = Line(self, node, dial.conn, server)
        line.hold(*self.stage.held_from_birth)
        self.stage.lines.append(line)
        self.session.connection_made(dial.conn, self.stage.now)


class Stage:
    """
    Nodes ``ws://n0``, ``ws://n1``, ... before one MemoryBackplane, and the clock.

    Args:
        nodes: How many.
        forbidden: Streams on which nobody may publish; a script may change it.
        settings: What differs from the defaults of the nodes' settings.

    Attributes:
        held_from_birth: Channels that are held on every line that is dialled from now on.
        stored: (stream, payload, fence) of every message that a client had stored, in order; tombstones are not.
    """

    def __init__(self, nodes: int = 2, *, forbidden: Sequence[str] = (), **settings: Any) -> None:
        self.now = 0.0
        self.rng = random.Random(1)
        self.store = MemoryBackplane(random.Random(2))
        self.nodes = {f"ws://n{i}": Node(self, f"n{i}", settings) for i in range(nodes)}
        self.devices: list[Device] = []
        self.lines: list[Line] = []
        self.held_from_birth: tuple[str, ...] = ()
        self.stored: list[tuple[str, str, Fence]] = []
        self.forbidden = set(forbidden)
        self._born = 0

    def node(self, index: int) -> Node:
        return self.nodes[f"ws://n{index}"]

    def device(self, *, identity: Identity | None = None, **changes: Any) -> Device:
        """Start a client, dial, and run; ``changes`` are arguments of Session."""
        self._born += 1
        return self._start(Device(self, self._born, identity, changes))

    def restart(self, dead: Device) -> Device:
        """Start a client again from what a journal keeps: identity, instances, and how far each stream was acked."""
        self._born += 1
        positions = {stream: dead.session.position(stream) for stream in dead.session._core.inbox.subscriptions}
        restored = Restored(
            identity=dead.identity,
            instances=dead.session._core.settings.instances,
            positions={stream: Handled(stream, at, None) for stream, at in positions.items() if at is not None},
        )
        return self._start(Device(self, self._born, dead.identity, {**dead.changes, "restored": restored}))

    def _start(self, device: Device) -> Device:
        self.devices.append(device)
        device.session.connect(self.now)
        device.drive()
        self.run()
        return device

    def authorize(self, principal: str, verb: str, stream: str) -> bool:
        return verb != "publish" or stream not in self.forbidden

    # -- the store ----------------------------------------------------------------------------------------------------

    def publish(self, stream: str, *payloads: str, wakes: Sequence[int] | None = None) -> None:
        """Publish in one step by the server's own API; the wake reaches the nodes named (default: all), and run."""
        entries = tuple(Entry(payload.encode(), True) for payload in payloads)
        self.store.step(Publish(stream=stream, entries=entries), self.now)
        reached = range(len(self.nodes)) if wakes is None else wakes
        self._wake(stream, [self.node(index) for index in reached])
        self.run()

    def perform(self, request: Request) -> Answer:
        """Take one step of the store, note what it stored, and say it to the nodes."""
        before = self.texts(request.stream) if isinstance(request, Append) else []
        answer = self.store.step(request, self.now)
        if isinstance(request, Append):
            new = self.texts(request.stream)[len(before) :]
            self.stored += [(request.stream, text, request.fence) for text in new]
            self._wake(request.stream, list(self.nodes.values()))
        elif isinstance(answer, SessionEntered):
            self._say(answer)
        return answer

    def texts(self, stream: str) -> list[str]:
        """Return what the store holds of a stream."""
        return [entry.payload.decode() for entry in self.store.contents(stream)]

    def _wake(self, stream: str, nodes: Sequence[Node]) -> None:
        for line in [line for node in nodes for line in node.lines if stream in line.watched]:
            line.queues["wakes"].append(stream)

    def _say(self, entered: SessionEntered) -> None:
        for line in [line for node in self.nodes.values() for line in node.lines]:
            line.queues["fences"].append((entered.session, entered.fence))

    # -- time ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Deliver everything that is not held, at this instant."""
        for _ in range(MOST_STEPS):
            for device in list(self.devices):
                device.drive()
            self.lines = [line for line in self.lines if not line.is_over]
            moved = [line.step() for line in self.lines]
            if not any(moved):
                return
        raise Broken(f"L6: something spins at {self.now}")

    def advance(self, seconds: float) -> None:
        """Let time pass: every timer runs when it is due, and :meth:`run` after it."""
        end = self.now + seconds
        self.run()
        while (due := self._next_deadline()) <= end:
            self.now = max(self.now, due)
            self._fire()
            self.run()
        self.now = end

    def _next_deadline(self) -> float:
        awake = [node for node in self.nodes.values() if not node.is_paused]
        due = [node.tick_at for node in awake]
        due += [at for node in awake for line in node.lines if (at := line.server.next_deadline()) is not None]
        due += [at for device in self.devices if (at := device.session.next_deadline()) is not None]
        return min(due)

    def _fire(self) -> None:
        for device in list(self.devices):
            at = device.session.next_deadline()
            if at is not None and at <= self.now and device.session.state is not SessionState.ENDED:
                device.session.handle_timer(self.now)
                device.drive()
        for node in [node for node in self.nodes.values() if not node.is_paused]:
            for line in node.lines:
                line.tick()
            if node.tick_at <= self.now:
                node.tick()
