"""
The server's half of a session on one connection: frames, answers of the backplane and time in, actions out.

Here lives the connection's phase and its timers; a hello is in ``entering.py``, subscriptions are in ``reading.py``,
appends in ``appending.py``. A socket, a loop, a clock or dice never live here. Rule numbers are those of
``docs/protocol.md``.

What the node does: hand over what was decoded (:meth:`ServerSession.received`), carry out :meth:`ServerSession.actions`
in order after every input, call :meth:`ServerSession.handle_timer` at :meth:`ServerSession.next_deadline`, and read no
more from the socket while :attr:`ServerSession.is_congested`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Union

from resilient_ws.exceptions import RemoteProtocolError
from resilient_ws.frames import (
    Ack,
    Auth,
    Batch,
    Bye,
    Drain,
    Error,
    Frame,
    Grant,
    Hello,
    Ping,
    Pong,
    Ready,
    Standing,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from server_fixture.actions import (
    FORBIDDEN,
    Action,
    Call,
    Close,
    Outlet,
    Send,
    Unwatch,
    Watch,
    superseded_by,
)
from server_fixture.backplane import (
    Answer,
    BackplaneError,
    Confirm,
    Done,
    EndSession,
    Fence,
    Refresh,
    SessionUnknown,
)
from server_fixture.entering import Authorize, Entering, Gate, NodeSettings, broken_rule, claim_of, subscribe

if TYPE_CHECKING:
    import random

__all__ = [
    "Action",
    "Authorize",
    "Call",
    "Close",
    "NodeSettings",
    "Phase",
    "Send",
    "ServerSession",
    "Unwatch",
    "Watch",
]

MAX_BACKLOG = 4 << 20
"""Bytes that may wait for their append before the node stops reading the socket."""

UNREFRESHED = 0.75
"""So much of its ttl a session may go without a refresh that was answered: then another node is to have its client."""

LATE = 1.0
"""A timer that runs this late means that the node itself stood still: the client gets time to be heard (K4)."""


class Phase(Enum):
    """Where a connection is."""

    AWAITING = "awaiting"
    STANDING = "standing"
    ENTERING = "entering"
    OPEN = "open"
    LEAVING = "leaving"


class ServerSession:
    """
    One connection's server side.

    Args:
        settings: The node's.
        principal: Who the access token says that the client is.
        authorize: May the principal do this?
        rng: Where session ids and echoes come from.
        now: Monotonic seconds.
    """

    def __init__(
        self, settings: NodeSettings, principal: str, authorize: Authorize, rng: random.Random, now: float
    ) -> None:
        self._settings = settings
        self._gate = Gate(settings, principal, authorize)
        self._rng = rng
        self._now = self._heard_at = self._refreshed_at = now
        self._outlet = Outlet()
        self._entering: Entering | None = None
        self._timers: dict[str, float] = {"hello": now + settings.hello_timeout}
        self._parting: Callable[[], None] = self._gone_elsewhere
        self._told_spread = 0.0
        self.phase = Phase.AWAITING
        self.auth: Auth | None = None
        on: dict[str, Callable[[], None]] = {
            "hello": self._no_hello,
            "welcome": self._no_welcome,
            "quiet": self._quiet,
            "refresh": self._refresh,
            "poll": self._poll,
            "drain": self._leave,
            "overdue": self._overdue,
            "advice": self._advise,
        }
        self._on_timer = on
        alive: dict[type, Callable[[Any], None]] = {Ping: self._ping, Pong: self._pong, Error: self._ignored}
        self._on_frame: dict[Phase, dict[type, Callable[[Any], None]]] = {
            Phase.AWAITING: {Hello: self._hello, Error: self._ignored},
            Phase.STANDING: {**alive, Hello: self._hello, Auth: self._auth},
            Phase.ENTERING: alive,
            Phase.OPEN: {
                **alive,
                Batch: self._batch,
                Ack: self._ack,
                Grant: self._grant,
                Subscribe: self._subscribe,
                Unsubscribe: self._unsubscribe,
                Ready: self._ready,
                Auth: self._auth,
                Bye: self._bye,
            },
        }

    # -- what the node sees -------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._outlet.is_closed

    @property
    def is_congested(self) -> bool:
        """Too much waits for its append: read no more before that is over."""
        return self._open is not None and self._open.appending.backlog > MAX_BACKLOG

    @property
    def session(self) -> str | None:
        """The session's id, once it is welcomed."""
        return None if self._open is None else self._open.session

    @property
    def fence(self) -> Fence | None:
        """This connection's fence, once it is welcomed."""
        return None if self._open is None else self._open.fence

    @property
    def _open(self) -> Entering | None:
        return self._entering if self.phase in (Phase.OPEN, Phase.LEAVING) else None

    @property
    def _at(self) -> Entering:
        """The welcomed hello; only what the tables allow on an open connection asks for it."""
        assert self._entering is not None
        return self._entering

    def actions(self) -> list[Action]:
        """Return what is to be done, in order; nothing is returned twice."""
        return self._outlet.take()

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_timer` has to be called, None when the connection is over."""
        return None if self.is_closed else min(self._timers.values())

    # -- inputs -------------------------------------------------------------------------------------------------------

    def received(self, items: Sequence[Union[Batch, Frame]], now: float) -> None:
        """Take what one read of the socket brought."""
        self._now = self._heard_at = now
        for item in items:
            if self.is_closed or self.phase is Phase.LEAVING:
                return
            handler = self._on_frame[self.phase].get(type(item))
            if handler is None:
                what = "data" if isinstance(item, Batch) else type(item).__name__.lower()
                self._outlet.refuse(f"{what} is not allowed while the connection is {self.phase.value}")
            else:
                handler(item)

    def broken(self, error: RemoteProtocolError, now: float) -> None:
        """What came could not be decoded."""
        self._now = now
        self._outlet.refuse(str(error)[:500])

    def answered(self, call: int, answer: Answer | BackplaneError, now: float) -> None:
        """Take the answer to a :class:`Call`."""
        self._now = now
        self._outlet.answered(call, answer)
        self._leave_when_idle()

    def woken(self, stream: str, now: float) -> None:
        """Somebody appended to a watched stream (its full name)."""
        self._now = now
        if self._open is not None:
            self._open.reading.woken(stream)

    def fence_raised(self, session: str, fence: Fence, now: float) -> None:
        """A hello was accepted somewhere; where it outranks ours, this connection is over (rule 4)."""
        self._now = now
        if self._entering is not None and self._entering.is_outranked_by(session, fence):
            self._outlet.close(4409, superseded_by(fence.instance))

    def advised(self, settings: NodeSettings, now: float) -> None:
        """
        Take what the node advises from now on: ``spread`` and ``peers`` of its settings.

        A window that is news to the client goes with the next ping or pong, or with a ping of its own soon after.
        """
        self._now, self._settings = now, settings
        if self.phase is Phase.OPEN and self._is_spread_news():
            self._timers.setdefault("advice", now + self._rng.uniform(0.0, settings.keepalive_interval))

    def drain(self, within: float, now: float, *, jitter: float = 0.0, peers: tuple[str, ...] | None = None) -> None:
        """Ask the client to leave; who has no session yet goes at once."""
        self._now = now
        if self._open is None:
            self._outlet.close(1012, "the node is leaving")
            return
        settings = self._settings
        advised = settings.peers if peers is None else peers
        self._outlet.send(Drain(within=within, jitter=jitter, spread=settings.spread, peers=advised))
        self._timers["drain"] = now + within

    def store_silent(self, now: float) -> None:
        """The node had no answer from the backplane for too long: another node may be able to serve (rule 1)."""
        self._now = now
        self._outlet.close(1013, "the node does not reach the backplane, try another")

    def connection_lost(self, now: float) -> None:
        """The socket is gone. Nothing is written anywhere: the session lives on (rule 1)."""
        self._now = now
        self._outlet.end()

    def handle_timer(self, now: float) -> None:
        """Run what is due."""
        self._now = now
        for name in [name for name, at in self._timers.items() if at <= now]:
            if self.is_closed:
                return
            late = now - self._timers.pop(name)
            if late > LATE:
                self._heard_at = max(self._heard_at, now - self._settings.keepalive_interval)
            self._on_timer[name]()

    # -- timers -------------------------------------------------------------------------------------------------------

    def _no_hello(self) -> None:
        self._outlet.close(4408, "no hello in time")

    def _no_welcome(self) -> None:
        self._outlet.close(1013, "the backplane is too slow for a welcome, say hello again")

    def _quiet(self) -> None:
        """Ping a silent client, and give it up when that does not help."""
        if self.is_congested:
            self._heard_at = self._now
        # Instants are compared as the timers were set: a difference may round to the other side, and the timer spin.
        due = self._heard_at + self._settings.keepalive_interval
        last = due + self._settings.keepalive_timeout
        if self._now >= last:
            self._outlet.close(1011, "keepalive timeout")
        elif self._now < due:
            self._timers["quiet"] = due
        else:
            self._ping_client()
            self._timers["quiet"] = min(self._now + self._settings.keepalive_interval, last)

    def _ping_client(self) -> None:
        opened = self._open
        self._outlet.send(
            Ping(
                echo=f"{self._rng.getrandbits(32):08x}",
                committed=() if opened is None else opened.appending.marks(),
                sent_offsets=() if opened is None else opened.reading.marks(),
                spread=self._newer_spread(),
            )
        )

    def _advise(self) -> None:
        """Tell a client that neither pings nor is silent; one that was told meanwhile is left alone."""
        if self._is_spread_news():
            self._ping_client()

    def _is_spread_news(self) -> bool:
        """Say whether the window changed by more than a quarter, or from or to 0, since the client was told."""
        spread, told = self._settings.spread, self._told_spread
        return abs(spread - told) > told / 4 or (spread == 0.0) != (told == 0.0)

    def _newer_spread(self) -> float | None:
        """Return the window where it is news to this client; it is told from then on."""
        if self._open is None or not self._is_spread_news():
            return None
        self._told_spread = self._settings.spread
        return self._told_spread

    def _refresh(self) -> None:
        """Prolong the session every third of its ttl; an unknown outcome is tried again soon, not for ever (rule 1)."""
        opened, ttl, asked = self._at, self._settings.ttl, self._now
        self._timers["refresh"] = self._now + ttl / 3

        def done(answer: Done) -> None:
            self._refreshed_at = asked

        def failed() -> None:
            if self._now - self._refreshed_at >= UNREFRESHED * ttl:
                self.store_silent(self._now)
            self._timers["refresh"] = min(self._timers["refresh"], self._now + min(1.0, ttl / 10))

        request = Refresh(session=opened.session, fence=opened.fence, ttl=ttl)
        self._outlet.call(request, done, failed=failed)

    def _poll(self) -> None:
        self._timers["poll"] = self._now + self._settings.poll_interval
        self._at.reading.poll()

    def _leave(self) -> None:
        """The time to leave is over: what was read is finished and acked, nothing more is taken."""
        self.phase = Phase.LEAVING
        self._timers["overdue"] = self._now + self._settings.keepalive_timeout
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        opened = self._open
        if self.phase is Phase.LEAVING and opened is not None and opened.appending.is_idle:
            self._parting()

    def _gone_elsewhere(self) -> None:
        self._outlet.close(1012, "the node is leaving")

    def _overdue(self) -> None:
        self._outlet.close(1012, "the node is leaving, some appends are not answered")

    # -- hello --------------------------------------------------------------------------------------------------------

    def _hello(self, hello: Hello) -> None:
        hint = broken_rule(hello)
        if hint is not None:
            self._outlet.refuse(hint)
        elif hello.standby:
            self._stand(hello)
        else:
            self._timers.pop("hello", None)
            self._timers["welcome"] = self._now + self._settings.hello_timeout
            self.phase = Phase.ENTERING
            self._entering = Entering(self._outlet, self._settings, self._gate, self._rng, hello, self._welcomed)
            self._entering.begin()

    def _stand(self, hello: Hello) -> None:
        """Accept a spare: nothing is touched at the backplane (rule 6)."""
        if hello.token is not None and claim_of(self._settings, hello) is None:
            self._outlet.close(4403, FORBIDDEN)
            return
        self._timers.pop("hello", None)
        self._timers["quiet"] = self._now + self._settings.keepalive_interval
        self.phase = Phase.STANDING
        self._outlet.send(Standing(node=self._settings.node))

    def _welcomed(self, welcome: Welcome) -> None:
        settings = self._settings
        self.phase = Phase.OPEN
        self._heard_at = self._refreshed_at = self._now
        self._told_spread = welcome.spread
        self._timers = {
            "quiet": self._now + settings.keepalive_interval,
            "refresh": self._now + settings.ttl / 3,
            "poll": self._now + settings.poll_interval,
        }

    # -- frames -------------------------------------------------------------------------------------------------------

    def _ready(self, ready: Ready) -> None:
        """Confirm our own generation, never another one (rule 5). Unknown outcome: older tokens stay valid longer."""
        opened = self._at
        if ready.generation != opened.fence.generation:
            self._outlet.refuse(f"ready names generation {ready.generation}, the welcome said another")
            return
        self._outlet.call(
            Confirm(session=opened.session, generation=ready.generation), self._ignored, failed=lambda: None
        )

    def _batch(self, batch: Batch) -> None:
        self._at.appending.data(batch)

    def _ack(self, ack: Ack) -> None:
        self._at.reading.acked(ack.acked)

    def _grant(self, grant: Grant) -> None:
        self._at.reading.granted(grant.credit)

    def _subscribe(self, asked: Subscribe) -> None:
        subscribe(self._outlet, self._at, self._gate, asked)

    def _unsubscribe(self, asked: Unsubscribe) -> None:
        self._at.reading.remove(asked.stream, asked.id)

    def _ping(self, ping: Ping) -> None:
        self._rode_along(ping)
        opened = self._open
        self._outlet.send(
            Pong(
                echo=ping.echo,
                committed=() if opened is None else opened.appending.marks(),
                sent_offsets=() if opened is None else opened.reading.marks(),
                spread=self._newer_spread(),
            )
        )

    def _pong(self, pong: Pong) -> None:
        self._rode_along(pong)

    def _rode_along(self, frame: Ping | Pong) -> None:
        """Use the marks, acks and credit that a ping or pong carries."""
        opened = self._open
        if opened is None:
            return
        opened.appending.sent(frame.sent_seqs)
        opened.reading.acked(frame.acked)
        if frame.credit is not None:
            opened.reading.granted(frame.credit)

    def _auth(self, auth: Auth) -> None:
        self.auth = auth

    def _bye(self, bye: Bye) -> None:
        """The client ends its session: what it wrote before is committed and acked, nothing behind it is read."""
        self.phase = Phase.LEAVING
        self._parting = self._end_session
        self._leave_when_idle()

    def _end_session(self) -> None:
        opened = self._at
        self._parting = lambda: None

        def ended(answer: Done | SessionUnknown) -> None:
            self._outlet.close(1000, "bye")

        # A step that is under way may find the session gone before we hear that it is.
        end = EndSession(session=opened.session, fence=opened.fence)
        self._outlet.call(end, ended, accepts=(SessionUnknown,), is_last=True)

    def _ignored(self, anything: object) -> None:
        """Nothing follows from it."""
