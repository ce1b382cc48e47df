"""A hand that plays both the shell and the server around a pure client Session: no socket, no clock, no thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs
import tenacity

from resilient_ws import frames as f
from resilient_ws.config import Capabilities, Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.dialects.native import Native
from resilient_ws.exceptions import ConnectionLost
from resilient_ws.records import Record
from resilient_ws.session import Dial, Discover, FetchToken, Role, Session, Shut, Write

OURS, FOREIGN = "a" * 32, "b" * 32
PRODUCER, EARLIER = "1" * 32, "2" * 32
CAPABILITIES = Capabilities(positions=True, acks=True, credit=True, resume=True)
ITEM = TypeVar("ITEM")


class Steady:
    """Dice that always fall on the upper end, and never shuffle: delays are their ceilings."""

    def uniform(self, a: float, b: float, /) -> float:
        return b

    def shuffle(self, x: Any, /) -> None:
        """Leave the order as it is."""


def session(*, subscribe: Mapping[str, f.Start] | Sequence[str] = (), **changes: Any) -> Session:
    """Make a Session with everything at its default but for ``changes``."""
    starts: dict[str, f.Start] = dict(subscribe) if isinstance(subscribe, Mapping) else dict.fromkeys(subscribe, "now")
    arguments: dict[str, Any] = {
        "urls": ["ws://a"],
        "retry": Retry(wait=tenacity.wait_exponential(multiplier=0.5, max=30.0)),
        "failover": Failover(),
        "keepalive": Keepalive(),
        "outbox": Outbox(),
        "inbox": Inbox(),
        "wire": Wire(),
        "capabilities": CAPABILITIES,
        "gaps": "raise",
        "instance": OURS,
        "producer": PRODUCER,
        "rng": Steady(),
        "now": 0.0,
    }
    return Session(**{**arguments, "subscribe": starts, **changes})


def answer(asked: f.HelloStream, **changes: Any) -> f.StreamAnswer:
    """Answer a subscription as a server with nothing new would: log end 100 for a start, the position for ``held``."""
    held = asked.held
    if held is None and isinstance(asked.start, f.Position):
        held = f.Held(asked.start.epoch, asked.start.offset)
    epoch, offset = ("e1", 0 if asked.start == "earliest" else 100) if held is None else (held.epoch, held.offset)
    return f.StreamAnswer(
        **{"stream": asked.stream, "id": asked.id, "epoch": epoch, "first": offset + 1, "live": offset, **changes}
    )


def welcome(hello: f.Hello, **changes: Any) -> f.Welcome:
    """Answer a hello as a server that stored nothing and has nothing new would."""
    generation = 1 if hello.token is None else int(hello.token.rpartition(".")[2]) + 1
    return f.Welcome(
        **{
            "session": hello.session or "00s1",
            "token": f"t.{changes.get('generation', generation)}",
            "generation": generation,
            "verdict": "new" if hello.session is None else "resumed",
            "ttl": 60.0,
            "node": "n1",
            "incarnation": "i1",
            "producer_ttl": 604800.0,
            "max_message": 1 << 20,
            "committed": tuple(
                f.CommittedAnswer(producer=entry.producer, stream=entry.stream, seq=entry.first - 1)
                for entry in hello.outbound
            ),
            "streams": tuple(map(answer, hello.streams)),
            **changes,
        }
    )


@attrs.define
class Rig:
    """
    A Session and what it asked for.

    Attributes:
        written: Every item, by connection.
        asked: What it wants to know.
        log: Everything in order: dials, items, shuts.
    """

    session: Session
    now: float = 0.0
    dials: list[Dial] = attrs.field(factory=list)
    shuts: list[Shut] = attrs.field(factory=list)
    written: dict[int, list[Any]] = attrs.field(factory=dict)
    events: list[Any] = attrs.field(factory=list)
    is_backed_up: bool = False
    is_slow_disk: bool = False
    journal: list[Record] = attrs.field(factory=list)
    asked: list[Discover | FetchToken] = attrs.field(factory=list)

    @classmethod
    def new(cls, **changes: Any) -> Rig:
        """Make one and dial."""
        rig = cls(session(**changes))
        rig.session.connect(rig.now)
        return rig.pump()

    @classmethod
    def open(cls, *, welcomed: Mapping[str, Any] | None = None, **changes: Any) -> Rig:
        """Make one that is welcomed."""
        rig = cls.new(**changes)
        rig.made()
        rig.welcome(**(welcomed or {}))
        return rig

    def pump(self) -> Rig:
        """Carry out what is to be done."""
        while (actions := self.session.actions()) or self._persist():
            for action in actions:
                if isinstance(action, Dial):
                    self.dials.append(action)
                elif isinstance(action, (Discover, FetchToken)):
                    self.asked.append(action)
                elif isinstance(action, Write):
                    assert Native().client().encode(action.items), "what is written can be said"
                    self.written.setdefault(action.conn, []).extend(action.items)
                    if not self.is_backed_up:
                        self.session.written(action.conn, self.now)
                else:
                    self.shuts.append(action)
        self.events.extend(self.session.events())
        self.session.next_deadline()
        return self

    def _persist(self) -> bool:
        group = self.session.unwritten
        is_due = group is not None and bool(group.records) and not self.is_slow_disk
        if is_due:
            self.persist()
        return is_due

    def persist(self, *, durable: bool = True) -> list[Record]:
        """Write what there is into the journal; returns it."""
        records = self.session.to_persist()
        self.journal += records
        self.session.persisted(self.now, durable=durable)
        return records

    # -- the network and the server -----------------------------------------------------------------------------------

    @property
    def conn(self) -> int:
        """The latest connection's number."""
        return self.dials[-1].conn

    def made(self, conn: int | None = None) -> f.Hello:
        """Upgrade a connection; returns its hello."""
        number = self.conn if conn is None else conn
        self.session.connection_made(number, self.now)
        self.pump()
        return self.hello(number)

    def hello(self, conn: int | None = None) -> f.Hello:
        """Return the last hello of a connection."""
        return self.all(f.Hello, conn)[-1]

    def say(self, *items: Any, conn: int | None = None) -> None:
        """Let the server say something."""
        self.session.received(self.conn if conn is None else conn, items, self.now)
        self.pump()

    def welcome(self, conn: int | None = None, **changes: Any) -> f.Welcome:
        """Let the server answer the last hello."""
        said = welcome(self.hello(conn), **changes)
        self.say(said, conn=conn)
        return said

    def lose(self, error: Exception | int = 1006, reason: str = "", conn: int | None = None) -> None:
        """End a connection by a close frame with this code, or by an error."""
        if isinstance(error, int):
            rcvd = None if error == 1006 else (error, reason)
            error = ConnectionLost("the connection ended", code=error, reason=reason, rcvd=rcvd)
        self.session.connection_lost(self.conn if conn is None else conn, error, self.now)
        self.pump()

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass, timers running exactly when they are due."""
        end = self.now + seconds
        while (due := self.session.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.session.handle_timer(self.now)
            self.pump()
        self.now = end
        self.session.handle_timer(end)
        self.pump()

    def redial(self) -> f.Hello:
        """Wait for the planned dial, and upgrade it."""
        count = len(self.dials)
        for _ in range(100):
            if len(self.dials) > count:
                return self.made()
            due = self.session.next_deadline()
            assert due is not None
            self.tick(due - self.now)
        raise AssertionError("nothing was dialled")

    def resume(self, **changes: Any) -> f.Hello:
        """Lose the connection, dial again, and be welcomed; returns the hello."""
        self.lose()
        hello = self.made() if self.conn != self.dials[-1].conn else self.redial()
        self.welcome(**changes)
        return hello

    # -- the user -----------------------------------------------------------------------------------------------------

    def send(self, data: f.Payload = "x", stream: str = "orders", *, gathers: bool = False) -> int:
        """Send, and have it written, unless it is to wait for others."""
        _, seq = self.session.send(stream, data, self.now)
        if not gathers:
            self.session.hurry()
        self.pump()
        return seq

    def take(self, limit: int = 1000, receiver: int = 0) -> list[Any]:
        """Take what is there: (stream, offset) of each message, and markers as they are."""
        found: list[Any] = []
        for item in self.session.take(limit, receiver, self.now):
            if isinstance(item, Exception):
                found.append(item)
            else:
                found.extend((item.stream, item.first + i) for i in range(len(item.payloads)))
        self.pump()
        return found

    def outcome(self, seq: int, stream: str = "orders") -> bool | Exception:
        """Ask for the fate of one message."""
        return self.session.outcome(PRODUCER, stream, seq)

    # -- looking ------------------------------------------------------------------------------------------------------

    def all(self, kind: type[ITEM], conn: int | None = None) -> list[ITEM]:
        """Return every item of one type that was written on a connection."""
        found = self.written.get(self.conn if conn is None else conn, [])
        return [item for item in found if isinstance(item, kind)]

    def told(self, kind: type[ITEM]) -> list[ITEM]:
        """Return every event of one type."""
        return [event for event in self.events if isinstance(event, kind)]

    def seqs(self, conn: int | None = None, stream: str = "orders") -> list[int]:
        """Return the seqs that were written on a connection."""
        return [
            batch.first + i
            for batch in self.all(f.Batch, conn)
            for i in range(len(batch.payloads))
            if batch.stream == stream and batch.first is not None
        ]


def data(first: int, count: int = 1, stream: str = "ticker", **more: Any) -> f.Batch:
    """Make a batch from the server."""
    return f.Batch(stream, first, [f"{stream}-{first + i}" for i in range(count)], **more)


def gap(first: int, last: int | None, *, stream: str = "ticker", **changes: Any) -> f.GapFrame:
    """Make a gap from the server: trimmed, under subscription 1, epoch e1."""
    base = {"id": 1, "epoch": "e1", "next": (last or 0) + 1, "reason": "trimmed"}
    return f.GapFrame(stream=stream, first=first, last=last, **{**base, **changes})


ALL_ROLES = frozenset({Role.CANDIDATE, Role.SUCCESSOR, Role.STANDBY})
