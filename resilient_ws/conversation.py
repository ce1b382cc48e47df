"""
The bookkeeping that everything in a session shares: connections, inbox, outbox, deadlines, and what is to be done next.

Here are the primitives (dial, hello, write, confirm, end) that the rules are made of. What a server's frame means is in
``hearing.py``, what a lost connection means in ``losing.py``, and the door for the shell in ``session.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from resilient_ws import events, frames
from resilient_ws.actions import Action, Dial, FetchToken, Shut, Write
from resilient_ws.backoff import Backoff
from resilient_ws.config import Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.connection import Connection
from resilient_ws.endpoints import EndpointPool, shown
from resilient_ws.frames import Batch, Frame, Start
from resilient_ws.gathering import Gathering
from resilient_ws.inbox import Arrivals
from resilient_ws.ledger import Ledger
from resilient_ws.outbox import Unacked
from resilient_ws.questions import Credentials, Question
from resilient_ws.records import Handled, Identity, Restored
from resilient_ws.state import ConnectionInput, Phase, Role, SessionInput, SessionState, next_session_state
from resilient_ws.subscription import Subscription
from resilient_ws.treatments import Tables

FEATURES = ("batch", "void")
PATIENCE = 5
"""A hello has this part of an attempt's time while another connection waits for its turn."""
MAX_RIDERS = 64
"""With more subscriptions a ping carries only the acks that are new, so that it stays small."""


class Rng(Protocol):
    """What a session needs of a ``random.Random``."""

    def uniform(self, a: float, b: float, /) -> float: ...

    def shuffle(self, x: Any, /) -> None: ...


def nobody(peers: Sequence[str], told_by: str) -> Sequence[str]:
    """Believe no server that names others."""
    return ()


@attrs.frozen(kw_only=True)
class Settings:
    """Everything of a session that does not change; see :class:`resilient_ws.session.Session`."""

    retry: Retry
    failover: Failover
    keepalive: Keepalive
    outbox: Outbox
    inbox: Inbox
    wire: Wire
    instance: str
    instances: frozenset[str]
    roles: frozenset[Role]
    hedge_delay: float
    has_credit: bool
    fetches_token: bool = False
    discovers: bool = False
    vet: Callable[[Sequence[str], str], Sequence[str]] = nobody


class Conversation:
    """The state of a session; only the modules named above change it."""

    def __init__(
        self,
        settings: Settings,
        *,
        urls: Sequence[str],
        producer: str,
        report_gaps: bool,
        rng: Rng,
        now: float,
        restored: Restored | None,
    ) -> None:
        self.settings = settings
        self.state = SessionState.NEW
        self.error: Exception | None = None
        self.last_error: Exception | None = None
        self.welcomed_once = False
        self.max_message = settings.wire.max_message
        self.rng = rng
        self.pool = EndpointPool(urls, settings.failover, rng, settings.retry.budget)
        self.tables = Tables(settings.retry.on_close, settings.retry.on_status, self._report_failed)
        endpoints = max(1, len(self.pool.urls))
        self.backoff = Backoff(settings.retry, rng, endpoints)
        self.successors = Backoff(settings.retry, rng, endpoints)
        self.spares = Backoff(settings.retry, rng, endpoints)
        self.ledger = None if restored is None else Ledger(restored.welcomes)
        self.outbox = Unacked(settings.outbox, producer, self.ledger)
        self.inbox = Arrivals(settings.inbox, report_gaps=report_gaps, ledger=self.ledger)
        self.connections: dict[int, Connection] = {}
        self.primary: Connection | None = None
        self.numbers = self.attempts = self.echo = 0
        self.identity: Identity | None = None if restored is None else restored.identity
        self.advice: frames.KeepaliveAdvice | None = None
        self.dial_at: float | None = None
        self.hedge_at: float | None = None
        self.spare_at: float | None = None
        self.ack_at: float | None = None
        self.foreign_at: float | None = None
        self.violations = self.too_big = 0
        self.fatal: dict[str, Exception] = {}
        self.actions: list[Action] = []
        self.events: list[events.Event] = []
        self.gathering = Gathering()
        self.is_connecting = False
        self.discovery = Question(backoff=Backoff(settings.retry, rng)) if settings.discovers else None
        self.credentials = Credentials(backoff=Backoff(settings.retry, rng)) if settings.fetches_token else None
        self.questions = [question for question in (self.discovery, self.credentials) if question is not None]
        self.counts = {"connects": 0, "resumes": 0, "sent": 0}
        self.now = now
        for lane in () if restored is None else restored.lanes:
            self.outbox.restore(lane)

    def begin(self, subscribe: Mapping[str, Start], positions: Mapping[str, Handled]) -> None:
        """Note the subscriptions that the first hello asks for; a journal's positions go before what names no place."""
        named = {stream for stream, start in subscribe.items() if not isinstance(start, str)}
        self.inbox.known = {stream: kept for stream, kept in positions.items() if stream not in named}
        for stream, start in subscribe.items():
            self.inbox.subscribe(stream, start)

    def dial(self, now: float, role: Role = Role.PRIMARY) -> None:
        """Dial as soon as there is what that needs: an endpoint, and an access token where those are fetched."""
        self.dial_at = None
        self.is_connecting = True
        self.backoff.started(now)
        if not self.pool.urls:
            return  # discovery is under way, and its answer dials
        if self.credentials is None or self.credentials.is_ready(role, now):
            self.open(now, role)
            return
        self.credentials.waiting.append(role)
        self.ask_token(now)

    def ask_token(self, now: float) -> None:
        """Ask for an access token, unless that is under way."""
        assert self.credentials is not None  # its callers have looked
        if self.credentials.out_until is None:
            timeout = self.backoff.connect_timeout()
            self.credentials.asked(now, timeout)
            self.actions.append(FetchToken(timeout))

    def open(self, now: float, role: Role) -> None:
        """Have a connection dialled; where every endpoint fails, ask whether there are others by now."""
        if self.discovery is not None and self.primary is None and self.pool.is_failing:
            self.discovery.hurry(now)
        self.numbers += 1
        timeout = self.backoff.connect_timeout()
        url = self.pool.next(now, avoid={connection.url for connection in self.connections.values()})
        held = self.credentials
        number, token = (0, None) if held is None else held.use()
        self.connections[self.numbers] = Connection(self.numbers, url, role, now + timeout, credential=number)
        is_fresh = self.pool.take_unpinned(url) or role in (Role.SUCCESSOR, Role.STANDBY)
        self.pool.dialled(url, now)
        self.actions.append(Dial(self.numbers, url, timeout, is_fresh, token))
        self.events.append(events.Connecting(conn=self.numbers, endpoint=shown(url), attempt=self.backoff.failures + 1))
        if role in (Role.PRIMARY, Role.CANDIDATE):
            self.hedge_soon(now)

    def hedge_soon(self, now: float) -> None:
        """Dial beside what is on its way to a welcome, if none is there in time."""
        if Role.CANDIDATE in self.settings.roles:
            self.hedge_at = now + self.settings.hedge_delay

    def hedge(self, now: float) -> None:
        """Dial one more endpoint beside those that have not answered, if there is one that nobody dials (rule 6)."""
        self.hedge_at = None
        busy = {connection.url for connection in self.connections.values()}
        if self.primary is None and self.is_racing() and self.pool.has_spare(now, busy):
            self.dial(now, Role.CANDIDATE)

    def hurry_hedge(self, now: float) -> None:
        """There are other endpoints now: dial one beside what has not answered, if that has had its time."""
        if Role.CANDIDATE in self.settings.roles and self.hedge_at is None:
            self.hedge_at = now

    def endpoint_failed(self, url: str, now: float) -> None:
        ejection = self.pool.failed(url, now)
        if ejection is not None:
            self.events.append(events.EndpointEjected(endpoint=shown(url), seconds=ejection))

    def endpoint_works(self, url: str, now: float) -> None:
        if self.pool.succeeded(url, now):
            self.events.append(events.EndpointRestored(endpoint=shown(url)))

    def is_racing(self) -> bool:
        """Is a connection on its way that will say hello, or about to be dialled?"""
        if self.credentials is not None and any(role is not Role.STANDBY for role in self.credentials.waiting):
            return True
        return any(
            c.role is not Role.STANDBY and c.phase in (Phase.DIALLING, Phase.UPGRADED, Phase.HANDSHAKING)
            for c in self.connections.values()
        )

    def is_expected(self) -> bool:
        """Does a server expect the next seq from us, by a welcome or a hello that is out?"""
        return any(c.phase in (Phase.OPEN, Phase.HANDSHAKING) for c in self.connections.values())

    def next_hello(self, now: float) -> None:
        """Let the next upgraded connection say hello, if none is outstanding (rule 6)."""
        if any(c.phase is Phase.HANDSHAKING for c in self.connections.values()):
            return
        waiting = [c for c in self.connections.values() if c.phase is Phase.UPGRADED]
        ordinary = [c for c in waiting if c.role is not Role.STANDBY]
        new_spares = [c for c in waiting if c.role is Role.STANDBY and c.hello is None]
        if ordinary:
            self.hello(ordinary[0], now)
        elif new_spares and self.primary is not None:
            self.hello(new_spares[0], now, standby=True)

    def hello(self, connection: Connection, now: float, *, standby: bool = False) -> None:
        self.attempts += 1
        producers = self.outbox.producers()
        hello = frames.Hello(
            instance=self.settings.instance,
            attempt=self.attempts,
            producers=producers,
            features=FEATURES,
            credit=frames.Credit(0, 0) if standby else self.free_credit(),
            max_message=self.settings.wire.max_message,
            session=None if self.identity is None else self.identity.session,
            token=None if self.identity is None else self.identity.token,
            streams=() if standby else tuple(map(hello_stream, self.inbox.subscriptions.values())),
            outbound=() if standby else self.outbox.hello(producers),
            standby=standby,
        )
        connection.hello, connection.hello_at = hello, now
        connection.acked = {
            said.stream: (said.held.epoch, said.acked)
            for said in hello.streams
            if said.held is not None and said.acked is not None
        }
        connection.step(ConnectionInput.HELLO)
        if connection.deadline is None:
            connection.deadline = now + self.backoff.connect_timeout()
        self.write(connection, [hello])
        self.press()

    def press(self) -> None:
        """Give a hello less time where another connection waits for its turn (rule 6): that node may have hung."""
        if any(c.phase is Phase.UPGRADED and c.role is not Role.STANDBY for c in self.connections.values()):
            for c in self.connections.values():
                if c.phase is Phase.HANDSHAKING and c.deadline is not None:
                    c.deadline = min(c.deadline, c.hello_at + self.backoff.connect_timeout() / PATIENCE)

    def free_credit(self) -> frames.Credit:
        """Return what is free and not granted elsewhere (rule 9)."""
        messages, size = self.inbox.free
        if self.primary is not None:
            elsewhere = self.primary.outstanding()
            messages, size = max(0, messages - elsewhere[0]), max(0, size - elsewhere[1])
        return frames.Credit(messages, size)

    def room(self) -> tuple[int, int]:
        """Return (messages, bytes) that the primary may be granted: what is free, less what an open hello granted."""
        messages, size = self.inbox.free
        for other in self.connections.values():
            if other.phase is Phase.HANDSHAKING and other.hello is not None:
                messages, size = messages - other.hello.credit.messages, size - other.hello.credit.bytes
        return max(0, messages), max(0, size)

    def forget(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        if self.primary is connection:
            self.primary = None
            self.ack_at = None

    def shut(self, connection: Connection, code: int, reason: str) -> None:
        connection.step(ConnectionInput.LEAVE)
        self.forget(connection)
        self.actions.append(Shut(connection.number, code, reason))

    def plan(self, delay: float, now: float) -> None:
        """Dial after so many seconds, and not before an endpoint may be dialled."""
        delay += self.pool.rest(now)
        self.dial_at = now + delay
        self.events.append(events.RetryScheduled(attempt=self.backoff.failures + 1, delay=delay))

    def _report_failed(self, setting: str, what: str) -> None:
        self.events.append(events.TableFailed(setting=setting, what=what))

    def check_stable(self, now: float) -> None:
        primary = self.primary
        if (
            primary is not None
            and primary.progressed
            and now - (primary.opened_at or 0.0) >= self.settings.retry.stable_after
        ):
            self.backoff.stable(now)

    def check_flushed(self, now: float) -> None:
        if self.state is SessionState.DRAINING and len(self.outbox) == 0:
            if self.primary is not None:
                self.confirm(self.primary)
            self.state = next_session_state(self.state, SessionInput.FLUSHED)
            self.end(None, now)

    def end(self, error: Exception | None, now: float) -> None:
        self.state = next_session_state(self.state, SessionInput.END)
        self.error = error
        for connection in list(self.connections.values()):
            self.shut(connection, 1000, "")
        self.dial_at = self.hedge_at = self.ack_at = self.spare_at = None
        self.outbox.abandon()
        self.events.append(events.Ended(error="" if error is None else str(error)))

    def write(self, connection: Connection, items: list[Batch | Frame]) -> None:
        if connection.held_back is not None:
            connection.held_back += items
        elif items:
            self.actions.append(Write(connection.number, items))

    def confirm(self, connection: Connection) -> None:
        """Send the acks and the credit that are due, together."""
        self.ack_at = None
        marks = self.marks(connection)
        items: list[Batch | Frame] = []
        if marks["acked"]:
            items.append(frames.Ack(acked=marks["acked"]))
        if marks["credit"] is not None:
            items.append(frames.Grant(credit=marks["credit"]))
        self.write(connection, items)

    def riders(self, connection: Connection) -> dict[str, Any]:
        """Return what a ping or pong carries: where there are few streams every ack again, so that none stays lost."""
        found = self.marks(connection)
        acked = tuple(self.inbox.acks())
        return {**found, "acked": acked} if len(acked) <= MAX_RIDERS else found

    def marks(self, connection: Connection) -> dict[str, Any]:
        """Return what is new since the last time: acks and credit; and the last seqs sent."""
        acked = tuple(m for m in self.inbox.acks() if connection.acked.get(m.stream) != (m.epoch, m.offset))
        for mark in acked:
            connection.acked[mark.stream] = (mark.epoch, mark.offset)
        credit = connection.grantable(self.room())
        changed = credit != connection.granted
        connection.granted = credit
        return {"acked": acked, "credit": credit if changed else None, "sent_seqs": connection.sent_marks()}

    def after_taking(self, now: float) -> None:
        primary = self.primary
        if primary is None:
            return
        if primary.is_grant_due(self.room(), self.settings.inbox):
            self.confirm(primary)
        elif self.ack_at is None:
            self.ack_at = now + self.settings.inbox.ack_delay


def hello_stream(subscription: Subscription) -> frames.HelloStream:
    """Say a subscription in a hello: held where it was answered once, else its start (rule 12)."""
    if not subscription.is_active:
        return frames.HelloStream(stream=subscription.stream, id=subscription.id, start=subscription.start)
    acked = subscription.told.offset if subscription.told.epoch == subscription.epoch else None
    return frames.HelloStream(stream=subscription.stream, id=subscription.id, held=subscription.held, acked=acked)


def subscribe_frame(subscription: Subscription) -> frames.Subscribe:
    """Ask for a stream on a connection that is open."""
    asked = hello_stream(subscription)
    return frames.Subscribe(stream=asked.stream, id=asked.id, held=asked.held, start=asked.start)
