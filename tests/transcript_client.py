"""Plays a golden transcript against the real client Session: server lines are fed in, client lines are expected."""

from __future__ import annotations

from typing import Any

import attrs
from session_tools import Steady, session, welcome
from transcripts import Line, Transcript

from resilient_ws import frames as f
from resilient_ws.config import Keepalive
from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import ConnectionLost
from resilient_ws.fates import Fate
from resilient_ws.records import Identity, RestoredLane
from resilient_ws.session import Dial, Role, Session, Shut, Write
from resilient_ws.sizes import size_of

INSTANCE = "1a5e0c6f3b7d49c2a8e4f10b6c2d9e73"
OPTIONAL = (f.Ack, f.Grant, f.Ping)
"""When acks, credit and pings go is the client's choice (section 10): a transcript shows some of them."""
NEVER_SAID: dict[type, str] = {
    f.Auth: "a fresh access token is not sent on a living connection yet",
    f.Error: "the client closes 4400 with the reason and says no error frame before it",
}
"""What a transcript shows and this client never writes, with the reason."""
TAKES = {("drain", 8): 1}
"""Where a transcript's user takes messages without acking them: (name, line) and how many."""


class Lowest(Steady):
    """Dice that always fall on the lower end: no delays."""

    def uniform(self, a: float, b: float, /) -> float:
        return a


def items_of(line: Line) -> list[Any]:
    """Decode a line in the role that receives it."""
    assert line.wire is not None
    codec = Native().server() if line.sender == "client" else Native().client()
    return codec.decode([line.wire])


def normal(item: Any) -> Any:
    """Take out what is ours to choose: echoes, repeated acks, the id of an unsubscribe, and how a start is said."""
    if isinstance(item, (f.Ping, f.Pong)):
        return attrs.evolve(item, acked=(), echo="" if isinstance(item, f.Ping) else item.echo)
    if isinstance(item, f.Unsubscribe):
        return attrs.evolve(item, id=1)
    if isinstance(item, f.Subscribe) and item.held is not None:
        return attrs.evolve(item, held=None, start=f.Position(item.held.epoch, item.held.offset))
    return item


class ClientPlayer:
    """One client, as far as a transcript shows it."""

    def __init__(self, transcript: Transcript) -> None:
        self.name = transcript.name
        self.lines = transcript.lines
        self.now = 0.0
        self.conns: dict[int, int] = {}
        self.others: set[int] = set()
        self.attempt = 0
        self.dials: list[int] = []
        self.shuts: dict[int, int] = {}
        self.pending: dict[int, list[tuple[Any, Any]]] = {}
        self.compared = 0
        self.skipped: list[type] = []
        first = next(item for line in self.lines for item in self._said(line) if isinstance(item, f.Hello))
        if first.instance != INSTANCE:
            first = next(i for line in self.lines for i in self._said(line) if getattr(i, "instance", "") == INSTANCE)
            first = attrs.evolve(first, session=None, token=None, attempt=first.attempt - 1)
        self.session = self._begin(transcript.name, first)
        self.session.connect(0.0)
        self._pump()

    @staticmethod
    def _said(line: Line) -> list[Any]:
        return items_of(line) if line.sender == "client" and line.wire is not None else []

    # -- the beginning ------------------------------------------------------------------------------------------------

    def _begin(self, name: str, hello: f.Hello) -> Session:
        """Make a session that is where the first hello says that it is."""
        timed = name in ("ping", "standby")
        roles = {"drain": {Role.SUCCESSOR}, "standby": {Role.STANDBY}}.get(name, set())
        made = session(
            urls=["ws://a", "ws://b"],
            subscribe={entry.stream: entry.start or "now" for entry in hello.streams},
            instance=INSTANCE,
            producer=hello.producers[0],
            rng=Lowest(),
            roles=frozenset(roles),
            keepalive=Keepalive(interval=1.0, timeout=9.0) if timed else Keepalive(interval=1e6, timeout=1e6),
        )
        core = made._core
        core.attempts = hello.attempt - 1
        if hello.session is not None and hello.token is not None:
            core.identity = Identity(hello.session, hello.token, int(hello.token.split(".")[2]))
        for entry in hello.streams:
            self._hold(made, entry)
        for outbound in hello.outbound:
            self._owe(made, outbound, hello.producers[outbound.producer])
        return made

    @staticmethod
    def _hold(made: Session, entry: f.HelloStream) -> None:
        subscription = made._core.inbox.subscriptions[entry.stream]
        if entry.held is None or entry.acked is None:
            return
        held = entry.held
        subscription.begin(f.StreamAnswer(stream=entry.stream, id=entry.id, epoch=held.epoch, first=entry.acked + 1))
        subscription.move(held.epoch, held.offset, held.crc)
        if entry.acked < held.offset:
            subscription.taken(0, held.epoch, entry.acked + 1, held.offset)

    def _owe(self, made: Session, entry: f.HelloOutbound, producer: str) -> None:
        """Put unacked messages into the outbox; what the transcript never shows has any payload."""
        shown: dict[int, f.Payload] = {}
        for line in self.lines:
            for item in self._said(line):
                if isinstance(item, f.Batch) and (item.producer, item.stream) == (entry.producer, entry.stream):
                    shown.update((item.first + i, p) for i, p in enumerate(item.payloads) if item.first is not None)
        box = made._core.outbox
        payloads = [shown.get(seq, "x") for seq in range(entry.first, entry.next)]
        if entry.producer:
            box.restore(RestoredLane(producer, entry.stream, entry.first, payloads))
            return
        for payload in ["x"] * (entry.first - 1) + payloads:
            box.accept(entry.stream, payload, size_of(payload), 0.0)
        lane = box.lane(producer, entry.stream)
        assert lane is not None
        lane.wrote(entry.next - 1, 0.0, "4a3d2c1b0f9e8d7c6b5a49382716f5e4")
        box.committed(producer, entry.stream, entry.first - 1)

    # -- playing ------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Go through all lines."""
        for line in self.lines:
            self.now = max(self.now, line.at)
            if line.conn in self.others or (line.sender == "client" and self._is_other(line)):
                continue
            if line.sender == "client":
                self._expect(line)
            else:
                self._feed(line)
            if (self.name, line.number) in TAKES:
                self.session.take(TAKES[self.name, line.number], 0, self.now)
        left = [item for said in self.pending.values() for item, _ in said if not isinstance(item, OPTIONAL)]
        assert left == [], "the client says more than the transcript"

    def _is_other(self, line: Line) -> bool:
        """Is this another process's connection, or a hello that the network kept back?"""
        for item in self._said(line):
            if isinstance(item, f.Hello):
                if item.instance != INSTANCE or item.attempt <= self.attempt:
                    self.others.add(line.conn)
                    return True
                self.attempt = item.attempt
        return False

    def _feed(self, line: Line) -> None:
        if line.conn not in self.conns:
            self._open_unseen(line.conn)
        conn = self.conns[line.conn]
        if line.close is not None:
            code, reason = line.close
            rcvd = None if line.sender == "network" else line.close
            self.session.connection_lost(conn, ConnectionLost("", code=code, reason=reason, rcvd=rcvd), self.now)
        else:
            self.session.received(conn, items_of(line), self.now)
        self._pump()

    def _open_unseen(self, number: int) -> None:
        """A connection that was welcomed before the transcript begins."""
        resumed = next(i for line in self.lines for i in self._said(line) if getattr(i, "instance", "") == INSTANCE)
        conn = self._connect(number)
        (hello, _) = self.pending[conn][0]
        said = welcome(hello, session=resumed.session, generation=1, token=resumed.token)
        self.session.received(conn, [said], self.now)
        self._pump()
        self.pending[conn].clear()
        self.attempt = hello.attempt

    def _expect(self, line: Line) -> None:
        if line.close is not None:
            assert self.shuts[self.conns[line.conn]] == line.close[0]
            self.compared += 1
            return
        (item,) = items_of(line)
        if type(item) in NEVER_SAID:
            self.skipped.append(type(item))
            return
        if isinstance(item, f.Hello):
            self._before_hello(item)
            if line.conn not in self.conns:
                self._connect(line.conn)
        said = self._next(line.conn, item)
        assert said is not None, f"the client does not say line {line.number}: {item}"
        got, wire = said
        assert wire == line.wire or normal(got) == normal(item), f"line {line.number}: {got} instead of {item}"
        self.compared += 1

    def _next(self, number: int, item: Any) -> tuple[Any, Any] | None:
        """Return the next thing of the connection that is of the item's type, doing what brings it about."""
        queue = self.pending.setdefault(self.conns[number], [])
        for attempt in range(2):
            while queue:
                got, wire = queue.pop(0)
                if type(got) is type(item):
                    return got, wire
                assert isinstance(got, OPTIONAL), f"the client says {got} where {item} is expected"
            if attempt == 0:
                self._provoke(item)
        return None

    # -- what the application did -------------------------------------------------------------------------------------

    def _provoke(self, item: Any) -> None:
        if isinstance(item, f.Batch):
            for payload in item.payloads:
                _, seq = self.session.send(item.stream, payload, self.now)
                self.session.hurry()
                lane = self.session._core.outbox.lane(self.session._core.outbox.producer, item.stream)
                if item.void is not None and lane is not None:
                    self.session._core.outbox._withdraw(lane, seq, Fate(item.void))
        elif isinstance(item, f.Subscribe):
            start = item.start if item.held is None else f.Position(item.held.epoch, item.held.offset)
            assert start is not None
            self.session.subscribe(item.stream, start, self.now)
        elif isinstance(item, f.Unsubscribe):
            self.session.unsubscribe(item.stream, self.now)
            self.session._core.inbox._next_id = item.id + 2  # ours used a fresh id, the transcript's names the old one
        elif isinstance(item, f.Bye):
            self.session.close(self.now, end=True)
        elif isinstance(item, (f.Ack, f.Grant, f.Ping)):
            if not isinstance(item, f.Ping) or item.acked:
                self._take_all()
            due = self.session.next_deadline()
            self.session.handle_timer(max(self.now + 0.2, due or 0.0) if isinstance(item, f.Ping) else self.now + 0.2)
        self._pump()

    def _before_hello(self, item: f.Hello) -> None:
        for entry in item.streams:
            found = self.session._core.inbox.subscriptions.get(entry.stream)
            if found is not None and entry.acked is not None and entry.acked > found.acked.offset:
                self._take_all()

    def _take_all(self) -> None:
        """Take everything, and then ask for more, which acks it."""
        while self.session.has_items:
            self.session.take(1000, 0, self.now)
        self.session.take(1, 0, self.now)

    # -- the shell ----------------------------------------------------------------------------------------------------

    def _connect(self, number: int) -> int:
        """Upgrade the next dial as the transcript's connection ``number``."""
        for _ in range(10):
            if self.dials:
                break
            due = self.session.next_deadline()
            assert due is not None
            self.session.handle_timer(max(self.now, due))
            self._pump()
        conn = self.conns[number] = self.dials.pop(0)
        self.session.connection_made(conn, self.now)
        self._pump()
        return conn

    def _pump(self) -> None:
        for action in self.session.actions():
            if isinstance(action, Dial):
                self.dials.append(action.conn)
            elif isinstance(action, Write):
                wires = Native().client().encode(action.items)
                decoded = [Native().server().decode([wire])[0] for wire in wires]
                self.pending.setdefault(action.conn, []).extend(zip(decoded, wires, strict=True))
                self.session.written(action.conn, self.now)
            elif isinstance(action, Shut):
                self.shuts[action.conn] = action.code
