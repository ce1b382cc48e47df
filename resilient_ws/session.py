"""
The session: one conversation that outlives its connections, behind one door.

Every input comes with ``now``; after each one the caller looks at :meth:`Session.actions`, :meth:`Session.events` and
:meth:`Session.next_deadline`. Nothing here knows a socket, a thread, a clock or dice. What a state may take stands in
``state.py``, what a frame means in ``hearing.py``, what a lost connection asks for in ``losing.py`` and ``backoff.py``;
the rules are those of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from resilient_ws import events, frames
from resilient_ws.actions import Action, Dial, Discover, FetchToken, Shut, Write
from resilient_ws.asking import (
    begin_discovery,
    check_questions,
    endpoints_found,
    endpoints_missing,
    token_found,
    token_missing,
)
from resilient_ws.config import Capabilities, Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.conversation import Conversation, Rng, Settings, nobody, subscribe_frame
from resilient_ws.endpoints import shown
from resilient_ws.exceptions import Rejected, RemoteProtocolError, SessionClosed
from resilient_ws.frames import Batch, Frame, Payload, Position, Start
from resilient_ws.hearing import dispatch, on_written
from resilient_ws.inbox import Run
from resilient_ws.journalling import not_written_down, written_down
from resilient_ws.ledger import Group
from resilient_ws.losing import WAITING, check_connection, forgive_lateness, lose
from resilient_ws.records import Record, Restored, SessionOver
from resilient_ws.sizes import size_of
from resilient_ws.state import ConnectionInput, Phase, Role, SessionInput, SessionState, next_session_state
from resilient_ws.succession import dial_spare, is_misled, standing_by, succeed, turn_back

_EXPIRY_GRAIN = 0.05

__all__ = ["Action", "Dial", "Discover", "FetchToken", "Role", "Run", "Session", "SessionState", "Shut", "Write"]


class Session:
    """
    One conversation that outlives its connections.

    Args:
        urls: Endpoints.
        subscribe: Streams and where to start in them.
        gaps: ``raise``: gaps stand as markers in what :meth:`take` returns; ``report``: they are events only.
        instance: Random id of this Client object, 32 hex digits.
        producer: Random id under which our messages are numbered, 32 hex digits.
        roles: Which roles may be dialled besides the primary.
        hedge_delay: Seconds after which a candidate is dialled while no welcome is there (role CANDIDATE).
        restored: What a journal kept of earlier lives; None: there is no journal.
        fetches_token: Access tokens are asked for by :class:`FetchToken`; False: the shell has one.
        discovers: Endpoints are asked for by :class:`Discover`; then ``urls`` may be empty.
        vet: (URLs that a server named, the URL of that server) -> those that may be dialled.
    """

    def __init__(
        self,
        *,
        urls: Sequence[str],
        subscribe: Mapping[str, Start],
        retry: Retry,
        failover: Failover,
        keepalive: Keepalive,
        outbox: Outbox,
        inbox: Inbox,
        wire: Wire,
        capabilities: Capabilities,
        gaps: Literal["raise", "report"],
        instance: str,
        producer: str,
        rng: Rng,
        now: float,
        roles: frozenset[Role] = frozenset(),
        hedge_delay: float = 0.25,
        restored: Restored | None = None,
        fetches_token: bool = False,
        discovers: bool = False,
        vet: Callable[[Sequence[str], str], Sequence[str]] = nobody,
    ) -> None:
        settings = Settings(
            retry=retry,
            failover=failover,
            keepalive=keepalive,
            outbox=outbox,
            inbox=inbox,
            wire=wire,
            instance=instance,
            instances=frozenset({instance}) | (frozenset() if restored is None else restored.instances),
            roles=roles,
            hedge_delay=hedge_delay,
            has_credit=capabilities.credit,
            fetches_token=fetches_token,
            discovers=discovers,
            vet=vet,
        )
        self.capabilities = capabilities
        self._planned: float | None = None
        self._core = Conversation(
            settings,
            urls=urls,
            producer=producer,
            report_gaps=gaps == "report",
            rng=rng,
            now=now,
            restored=restored,
        )
        self._core.begin(subscribe, {} if restored is None else restored.positions)

    # -- inputs of the user --------------------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Dial the first connection."""
        self._core.state = next_session_state(self._core.state, SessionInput.CONNECT)
        if self._core.credentials is None:
            begin_discovery(self._core, now)
        elif self._core.discovery is not None:
            self._core.ask_token(now)
        self._core.dial(now)

    def send(self, stream: str, data: Payload, now: float) -> tuple[str, int]:
        """
        Accept a message.

        Returns:
            (producer, seq); seq 0 where the policy dropped the message.

        Raises:
            OutboxFull: No room (policy ``block``: wait for acks and call again).
            SessionClosed: The session ended or drains.
            Rejected: Larger than a message may be; nothing was accepted.
        """
        if self._core.state in (SessionState.DRAINING, SessionState.ENDED):
            raise SessionClosed(f"the session is {self._core.state.value}: nothing more is accepted; open a new Client")
        size = size_of(data)
        if size > self._core.max_message:
            limit = f"at most {self._core.max_message} may be sent (Wire.max_message, or the server's own limit)"
            raise Rejected(stream, 0, "too_large", f"{size} bytes, {limit}; split it, the session goes on")
        outbox = self._core.outbox
        is_full = outbox.is_full(size) or outbox.is_crowded(stream) or outbox.is_stale(now)
        if is_full and not self._make_room(stream, size, now):
            return outbox.producer, 0
        self._core.now = now
        self._core.counts["sent"] += 1
        is_online = self._core.primary is not None
        if is_online:
            gathering = self._core.gathering
            gathering.add(size, now, is_in_flight=outbox.messages > gathering.messages)
        return outbox.producer, outbox.accept(stream, data, size, now, is_online=is_online)

    def hurry(self) -> None:
        """Somebody waits for what was sent: let it go out with the next step."""
        self._core.gathering.hurry()

    def gathers_until(self) -> float | None:
        """Return when gathered messages go out, where that is news to the caller (see ``gathering.py``)."""
        return self._core.gathering.newly_until()

    def hurry_if_due(self, now: float) -> float | None:
        """Let gathered messages go out if it is time; returns when it will be."""
        until = self._core.gathering.until
        if until is not None and now >= until:
            self._core.gathering.hurry()
            return None
        return until

    @property
    def is_quiet(self) -> bool:
        """The last message only gathers: nothing is to be carried out, and no deadline has moved."""
        return self._core.gathering.is_quiet

    def _make_room(self, stream: str, size: int, now: float) -> bool:
        outbox, policy = self._core.outbox, self._core.settings.outbox.policy
        if policy == "drop_newest":
            self._core.events.append(events.MessagesDropped(stream=stream, first=0, last=0, count=1, policy=policy))
            return False
        if policy == "drop_oldest":
            self._expire(now)
            self._report_dropped(outbox.drop_oldest(size, is_open=self._core.is_expected()), policy)
        is_crowded = outbox.is_crowded(stream)
        if is_crowded or outbox.is_full(size) or outbox.is_stale(now):
            raise outbox.full_error(now, is_crowded=is_crowded)
        return True

    def _expire(self, now: float) -> None:
        outbox = self._core.outbox
        if self._core.settings.outbox.policy == "drop_oldest" and outbox.is_stale(now):
            self._report_dropped(outbox.expire(now, is_open=self._core.is_expected()), "max_age")

    def _report_dropped(self, dropped: Sequence[tuple[str, int]], policy: str) -> None:
        for stream, seq in dropped:
            self._core.events.append(events.MessagesDropped(stream=stream, first=seq, last=seq, count=1, policy=policy))

    def take(self, limit: int, receiver: int, now: float) -> list[Run | Exception]:
        """
        Hand over at most ``limit`` messages to a receiver, or one marker to raise.

        With automatic acks everything that the receiver took before counts as handled.
        """
        self._core.gathering.hurry()
        taken = self._core.inbox.take(limit, receiver)
        self._core.after_taking(now)
        return taken

    def ack(self, stream: str, epoch: str, offset: int, receiver: int, now: float) -> None:
        """A receiver handled a message and what it took of its stream before it."""
        self._core.inbox.ack(stream, epoch, offset, receiver)
        self._core.after_taking(now)

    def subscribe(self, stream: str, start: Start, now: float) -> int:
        """
        Ask for a stream; returns the subscription's id.

        One that exists begins anew; one of an earlier life goes on, unless ``start`` is a Position.
        """
        self._require_alive()
        subscription = self._core.inbox.subscribe(stream, start)
        if self._core.primary is not None:
            self._core.write(self._core.primary, [subscribe_frame(subscription)])
            self._core.after_taking(now)
        return subscription.id

    def unsubscribe(self, stream: str, now: float) -> None:
        """Give a stream up; what was received of it and not taken goes."""
        self._require_alive()
        existed = stream in self._core.inbox.subscriptions
        self._core.inbox.unsubscribe(stream)
        if existed and self._core.primary is not None:
            self._core.write(self._core.primary, [frames.Unsubscribe(stream=stream, id=self._core.inbox.new_id())])
            self._core.after_taking(now)

    def _require_alive(self) -> None:
        if self._core.state is SessionState.ENDED:
            raise SessionClosed("the session has ended; open a new Client")

    def drain(self, now: float) -> None:
        """Accept nothing more; the session ends when everything is acked."""
        self._require_alive()
        self._core.state = next_session_state(self._core.state, SessionInput.DRAIN)
        self._core.check_flushed(now)

    def close(self, now: float, *, end: bool = False) -> None:
        """End now; ``end`` says ``bye``, so that the cluster forgets the session."""
        if self._core.state is SessionState.ENDED:
            return
        if self._core.primary is not None:
            self._core.confirm(self._core.primary)
            if end:
                self._core.write(self._core.primary, [frames.Bye()])
        if end and self._core.ledger is not None:
            self._core.ledger.add(SessionOver())
        self._core.end(None, now)

    # -- inputs of the journal -----------------------------------------------------------------------------------------

    def to_persist(self) -> list[Record]:
        """Return what is to be written into the journal now; answer by :meth:`persisted` or :meth:`persist_failed`."""
        assert self._core.ledger is not None  # nobody else asks
        return self._core.ledger.take()

    def persisted(self, now: float, *, durable: bool) -> None:
        """What :meth:`to_persist` gave is written; ``durable``: it and all before it survive a power loss too."""
        self._core.now = now
        written_down(self._core, now, durable=durable)

    def persist_failed(self, now: float) -> None:
        """There was no room; the messages of it were never accepted, the rest is tried again."""
        not_written_down(self._core, now)

    # -- answers to our questions --------------------------------------------------------------------------------------

    def access_token(self, found: tuple[str, float | None] | Exception, now: float) -> None:
        """Take (access token, seconds that it is good for or None), or why there is none."""
        if isinstance(found, Exception):
            token_missing(self._core, found, now)
        else:
            token_found(self._core, *found, now)

    def endpoints_found(self, found: tuple[Sequence[str], float | None] | Exception, now: float) -> None:
        """Take (endpoints, seconds that the list is good for or None), or why there is none."""
        if isinstance(found, Exception):
            endpoints_missing(self._core, found, now)
        else:
            endpoints_found(self._core, *found, now)

    def note(self, event: events.Event) -> None:
        """Report what the shell found, in its place in the order."""
        self._core.events.append(event)

    # -- inputs of connections -----------------------------------------------------------------------------------------

    def connection_made(self, conn: int, now: float, node: str = "") -> None:
        """The upgrade succeeded, at ``node`` where its answer named one; the first one upgraded says hello (rule 6)."""
        connection = self._core.connections.get(conn)
        if connection is None or connection.phase is not Phase.DIALLING:
            return
        if is_misled(self._core, connection, node):
            turn_back(self._core, connection, now)
            return
        connection.step(ConnectionInput.MADE)
        self._core.next_hello(now)
        if connection.hello is None:
            connection.deadline = None  # it waits for its turn, and its hello will have a limit of its own
            self._core.press()

    def heard(self, conn: int, now: float) -> None:
        """Bytes arrived: that is life, although nothing is whole yet."""
        connection = self._core.connections.get(conn)
        if connection is not None and connection.liveness is not None:
            connection.liveness.heard(now)

    def received(self, conn: int, items: Sequence[Batch | Frame], now: float) -> None:
        """Take what a connection delivered, in order; what comes after its end is dropped."""
        self._core.now = now
        connection = self._core.connections.get(conn)
        if connection is None:
            return
        live = connection.liveness
        if live is not None:
            note = live.spoken if all(type(item) is frames.Ping for item in items) else live.heard
            note(now)
        try:
            for item in items:
                if connection.phase is Phase.LEAVING:
                    return
                dispatch(self._core, connection, item, now)
        except RemoteProtocolError as error:
            self.connection_lost(conn, error, now)
        self._core.check_stable(now)
        self._core.check_flushed(now)

    def written(self, conn: int, now: float) -> None:
        """Everything given to ``Write`` for this connection is out of our process."""
        self._core.now = now
        connection = self._core.connections.get(conn)
        if connection is not None:
            on_written(self._core, connection)

    def connection_lost(self, conn: int, error: Exception, now: float) -> None:
        """A connection ended, a dial failed, or a decoder refused what came."""
        connection = self._core.connections.get(conn)
        if connection is None:
            return
        lose(self._core, connection, error, now)

    def handle_timer(self, now: float) -> None:
        """Do what was due; call it when :meth:`next_deadline` has come (earlier does no harm)."""
        self._core.now = now
        if self._planned is not None:
            forgive_lateness(self._core, now, self._planned)
        for connection in list(self._core.connections.values()):
            check_connection(self._core, connection, now)
        check_questions(self._core, now)
        if self._core.state is SessionState.ENDED:
            return
        if self._core.dial_at is not None and now >= self._core.dial_at:
            self._dial_due(now)
        if self._core.spare_at is not None and now >= self._core.spare_at:
            dial_spare(self._core, now)
        if self._core.hedge_at is not None and now >= self._core.hedge_at:
            self._core.hedge(now)
        self.hurry_if_due(now)
        if self._core.ack_at is not None and now >= self._core.ack_at and self._core.primary is not None:
            self._core.confirm(self._core.primary)
        self._core.check_stable(now)
        self._expire(now)
        if self._core.ledger is not None:
            self._core.ledger.check(now)

    def _dial_due(self, now: float) -> None:
        if self._core.primary is None:
            self._core.dial(now)
        else:
            succeed(self._core, now)

    # -- outputs -------------------------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Return what is to be done, in order, and forget it."""
        primary = self._core.primary
        if primary is not None and self._core.gathering.until is None:
            batches: list[Batch | Frame] = list(primary.outbound(self._core.outbox, self._core.now))
            if batches:
                self._core.gathering.written()
                self._core.write(primary, batches)
                if primary.liveness is not None and self.capabilities.acks:
                    primary.liveness.sent(self._core.now)
        found, self._core.actions = self._core.actions, []
        return found

    def events(self) -> list[events.Event]:
        """Return what is to be reported, in order, and forget it."""
        found, self._core.events = self._core.events, []
        return found

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_timer` is due, None where nothing is awaited."""
        if self._core.state is SessionState.ENDED:
            return None
        core = self._core
        planned = (core.dial_at, core.hedge_at, core.spare_at, core.ack_at, core.gathering.until)
        own = (*planned, self._expires_at(), self._persist_at(), *[asked.deadline() for asked in core.questions])
        due = [at for at in own if at is not None]
        for connection in core.connections.values():
            if connection.deadline is not None:
                due.append(connection.deadline)
            if connection.liveness is not None:
                due.append(connection.liveness.next_deadline())
        self._planned = min(due, default=None)
        return self._planned

    def _expires_at(self) -> float | None:
        settings, outbox = self._core.settings.outbox, self._core.outbox
        if settings.max_age is None or settings.policy != "drop_oldest" or len(outbox) == 0:
            return None
        return outbox.oldest_birth(self._core.now) + settings.max_age + _EXPIRY_GRAIN

    def _persist_at(self) -> float | None:
        if self._core.ledger is None:
            return None
        self._core.ledger.plan(self._core.now)
        return self._core.ledger.due_at

    @property
    def persist_due(self) -> bool:
        """The journal is to be written durably now, whoever does it."""
        return self._core.ledger is not None and self._core.ledger.is_due

    @property
    def unwritten(self) -> Group | None:
        """The group of the journal that the last change went into; its attributes tell what became of it."""
        return None if self._core.ledger is None else self._core.ledger.filling

    # -- questions -----------------------------------------------------------------------------------------------------

    @property
    def session_id(self) -> str | None:
        """The session's id, None before the first welcome."""
        return None if self._core.identity is None else self._core.identity.session

    @property
    def state(self) -> SessionState:
        return self._core.state

    @property
    def error(self) -> Exception | None:
        """Why the session ended; None after ``close()`` or the server's ``bye``."""
        return self._core.error

    @property
    def last_error(self) -> Exception | None:
        """What ended the last attempt or connection."""
        return self._core.last_error

    @property
    def waits_for(self) -> str:
        """What a connection without a welcome waits for, empty where there is none."""
        waiting = [WAITING[c.phase] for c in self._core.connections.values() if c.phase in WAITING]
        if self._core.credentials is not None and self._core.credentials.waiting:
            waiting.append("access_token= has not answered yet")
        if not self._core.pool.urls:
            waiting.append("Failover(discover=) has named no endpoint yet")
        return waiting[0] if waiting else ""

    @property
    def trouble(self) -> str:
        """Say, for the error of a call that waited in vain, that there is no connection and why; else nothing."""
        if self.connected:
            return ""
        why = self.waits_for if self.last_error is None else f"the last one failed: {self.last_error}"
        return f" (there is no connection at present, attempts go on; {why})"

    @property
    def welcomed_once(self) -> bool:
        return self._core.welcomed_once

    @property
    def connected(self) -> bool:
        return self._core.primary is not None

    @property
    def has_items(self) -> bool:
        return self._core.inbox.has_items

    @property
    def inbox_full(self) -> bool:
        return self._core.inbox.is_full

    @property
    def is_flushed(self) -> bool:
        return len(self._core.outbox) == 0

    def accepted(self) -> dict[tuple[str, str], int]:
        """Return what :meth:`has_settled` can be asked about later: everything accepted so far that has no ack."""
        return self._core.outbox.accepted()

    def has_settled(self, accepted: Mapping[tuple[str, str], int]) -> bool:
        """Say whether all that was accepted at that time has its ack, or failed."""
        return self._core.outbox.has_settled(accepted)

    @property
    def unacked(self) -> dict[str, tuple[int, int]]:
        """{stream: (first seq, last seq)} without an ack."""
        return self._core.outbox.pending()

    @property
    def outbox_size(self) -> tuple[int, int]:
        return self._core.outbox.messages, self._core.outbox.bytes

    def outcome(self, producer: str, stream: str, seq: int) -> bool | Exception:
        """Return True (committed), False (not known yet), or why the message failed."""
        return self._core.outbox.outcome(producer, stream, seq)

    def subscription(self, stream: str) -> Literal["pending", "active"] | Exception | None:
        """Say how a subscription stands: its refusal, or None where there is none."""
        found = self._core.inbox.subscriptions.get(stream)
        if found is None:
            return self._core.inbox.refused.get(stream)
        return "active" if found.is_active else "pending"

    def position(self, stream: str) -> Position | None:
        """Return where the user has acked a stream to, None before it was answered."""
        found = self._core.inbox.subscriptions.get(stream)
        return found.acked if found is not None and found.is_active else None

    def endpoints(self, now: float) -> tuple[tuple[str, str], ...]:
        """Return (scheme, host and port; how it stands) of each endpoint; see ``EndpointPool.state``."""
        pool = self._core.pool
        return tuple((shown(url), pool.state(url, now)) for url in pool.urls)

    def stats(self, now: float | None = None) -> dict[str, Any]:
        """Return counters and sizes; with ``now`` how the endpoints stand as well."""
        return {
            **self._core.counts,
            "state": self._core.state.value,
            "connected": self.connected,
            "node": "" if self._core.primary is None else self._core.primary.node,
            "standby": standing_by(self._core),
            "failures": self._core.backoff.failures,
            "delivered": self._core.inbox.delivered,
            "duplicates_dropped": self._core.inbox.duplicates,
            **self._asked(),
            "inbox": (self._core.inbox.messages, self._core.inbox.bytes),
            "outbox": self.outbox_size,
            **({} if now is None else {"endpoints": self.endpoints(now)}),
        }

    def _asked(self) -> dict[str, int]:
        core = self._core
        told: dict[str, int] = {}
        for name, question in (("discoveries", core.discovery), ("tokens", core.credentials)):
            if question is not None:
                told |= {name: question.answers, f"{name}_failed": question.failures}
        return told
