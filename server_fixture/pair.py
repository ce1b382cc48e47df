"""
SessionPair: a client's Session and the reference server's sessions on a fake link, under a clock that you drive.

Here lives what a shell and a node would do between them, one message at a time, for tests of dialects, handlers and
policies: what is written crosses the link as encoded messages, may be held back or lost with its connection, and the
store is the memory backplane. A socket, a thread or a real clock never lives here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from resilient_ws.dialects import Codec
from resilient_ws.dialects import Wire as Message
from resilient_ws.dialects.native import Native
from resilient_ws.events import Event
from resilient_ws.exceptions import ConnectionLost, NoEndpoint, RemoteProtocolError
from resilient_ws.frames import Payload
from resilient_ws.session import Action, Dial, Session, Write
from server_fixture.backplane import (
    Answer,
    Append,
    BackplaneError,
    Entry,
    Publish,
    Published,
    Request,
    SessionEntered,
)
from server_fixture.backplane.memory import MemoryBackplane
from server_fixture.session import Call, NodeSettings, Send, ServerSession, Unwatch, Watch

if TYPE_CHECKING:
    import random

_MOST_STEPS = 100_000


class Dialect(Protocol):
    """A dialect that can speak for both sides, as the native one does."""

    def client(self) -> Codec: ...

    def server(self) -> Codec: ...


@attrs.define(eq=False)
class Link:
    """
    One connection between the two.

    Attributes:
        up: Messages from the client that the server has not read.
        down: Messages from the server that the client has not read; a close is its last entry.
        is_held: Nothing is delivered by :meth:`SessionPair.run` for now, in either direction.
    """

    conn: int
    url: str
    client: Codec
    node: Codec
    server: ServerSession
    up: deque[Message | ConnectionLost] = attrs.field(factory=deque)
    down: deque[Message | ConnectionLost] = attrs.field(factory=deque)
    watched: set[str] = attrs.field(factory=set)
    is_held: bool = False


class SessionPair:
    """
    A client Session, and a server session for each connection that it dials.

    After anything was done to ``client`` or time was set, call :meth:`run`.

    Args:
        client: The Session; connect() is yours to call.
        rng: Where ids of the server come from.
        store: The backplane, a fresh MemoryBackplane by default.
        dialect: What crosses the link.
        principal: Who the client is for the server.
        authorize: May the principal do this (``subscribe`` or ``publish``) with that stream?
        now: The clock's start, that of ``client``.
        settings: What differs from the defaults of the node's settings.
    """

    def __init__(
        self,
        client: Session,
        *,
        rng: random.Random,
        store: MemoryBackplane | None = None,
        dialect: Dialect | None = None,
        principal: str = "user",
        authorize: Callable[[str, str, str], bool] = lambda principal, verb, stream: True,
        now: float = 0.0,
        **settings: Any,
    ) -> None:
        self.client = client
        self.store = store or MemoryBackplane(rng)
        self.now = now
        self.links: dict[int, Link] = {}
        self.events: list[Event] = []
        self.is_reachable = True
        self.is_store_up = True
        self._rng = rng
        self._dialect = dialect or Native()
        self._principal = principal
        self._authorize = authorize
        self._settings = settings

    # -- driving ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Carry everything out and deliver everything that is on its way, at this instant."""
        for _ in range(_MOST_STEPS):
            self._perform()
            ready = [link for link in self.links.values() if not link.is_held and (link.up or link.down)]
            if not ready:
                return
            for link in ready:
                self.deliver(link.conn)
        raise AssertionError("the two sessions do not come to rest")

    def deliver(self, conn: int, *, up: bool = True, down: bool = True) -> None:
        """Deliver one message in each direction named, where one waits; what follows from it is carried out."""
        link = self.links.get(conn)
        if link is not None and up and link.up:
            self._to_server(link, link.up.popleft())
            self._perform()
        if link is not None and down and link.down:
            self._to_client(link, link.down.popleft())
            self._perform()

    def advance(self, seconds: float) -> None:
        """Let time pass; timers of both sides run exactly when they are due, and :meth:`run` after each."""
        end = self.now + seconds
        self.run()
        for _ in range(_MOST_STEPS):
            due = self._next_deadline()
            if due is None or due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            self._fire()
            self.run()
        raise AssertionError("timers fire without end")

    def cut(self, conn: int | None = None, *, error: Exception | None = None) -> None:
        """Lose a connection (default: all) and whatever is on its way there; both sides see it at once."""
        for link in list(self.links.values()):
            if conn is None or link.conn == conn:
                self._drop(link)
                self.client.connection_lost(link.conn, error or ConnectionLost("the link was cut"), self.now)
        self._perform()

    def publish(self, stream: str, *payloads: Payload) -> int:
        """Publish by the server's own API; returns the last offset."""
        entries = tuple(Entry(p.encode() if isinstance(p, str) else p, isinstance(p, str)) for p in payloads)
        answer = self._step(Publish(stream=stream, entries=entries))
        assert isinstance(answer, Published)
        self._perform()
        return answer.last

    # -- the two sides ------------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        """Carry out actions of both sides until there are none."""
        while True:
            actions = self.client.actions()
            for action in actions:
                self._do(action)
            self.events.extend(self.client.events())
            served = [self._serve(link) for link in list(self.links.values())]
            if not any(served) and not actions:
                return

    def _do(self, action: Action) -> None:
        if isinstance(action, Dial):
            self._dial(action)
        elif isinstance(action, Write):
            link = self.links.get(action.conn)
            if link is not None:
                link.up.extend(link.client.encode(action.items))
            self.client.written(action.conn, self.now)
        elif action.conn in self.links:
            self._drop(self.links[action.conn])

    def _dial(self, dial: Dial) -> None:
        if not self.is_reachable:
            self.client.connection_lost(dial.conn, NoEndpoint("the link is down"), self.now)
            return
        settings = NodeSettings(**{"node": dial.url, "key": b"key of the pair", **self._settings})
        server = ServerSession(settings, self._principal, self._authorize, self._rng, self.now)
        self.links[dial.conn] = Link(dial.conn, dial.url, self._dialect.client(), self._dialect.server(), server)
        self.client.connection_made(dial.conn, self.now)

    def _serve(self, link: Link) -> bool:
        actions = link.server.actions()
        for action in actions:
            if isinstance(action, Send):
                link.down.extend(link.node.encode(action.items))
            elif isinstance(action, Call):
                link.server.answered(action.id, self._step(action.request), self.now)
            elif isinstance(action, Watch):
                link.watched.add(action.stream)
            elif isinstance(action, Unwatch):
                link.watched.discard(action.stream)
            else:
                closed = (action.code, action.reason)
                lost = ConnectionLost("the server closed", code=action.code, reason=action.reason, rcvd=closed)
                link.down.append(lost)
        return bool(actions)

    def _step(self, request: Request) -> Answer | BackplaneError:
        if not self.is_store_up:
            return BackplaneError("the store is down")
        answer = self.store.step(request, self.now)
        for link in self.links.values():
            if isinstance(request, (Append, Publish)) and request.stream in link.watched:
                link.server.woken(request.stream, self.now)
            elif isinstance(answer, SessionEntered):
                link.server.fence_raised(answer.session, answer.fence, self.now)
        return answer

    def _to_server(self, link: Link, message: Message | ConnectionLost) -> None:
        assert not isinstance(message, ConnectionLost)
        items = self._decoded(link.node, message)
        if isinstance(items, RemoteProtocolError):
            link.server.broken(items, self.now)
        else:
            link.server.received(items, self.now)

    def _to_client(self, link: Link, message: Message | ConnectionLost) -> None:
        items = message if isinstance(message, ConnectionLost) else self._decoded(link.client, message)
        if isinstance(items, Exception):
            self._drop(link)
            self.client.connection_lost(link.conn, items, self.now)
        else:
            self.client.received(link.conn, items, self.now)

    @staticmethod
    def _decoded(codec: Codec, message: Message) -> Sequence[Any] | RemoteProtocolError:
        try:
            items = codec.decode([message])
        except RemoteProtocolError as error:
            return error
        return items if codec.failure is None else codec.failure

    def _drop(self, link: Link) -> None:
        del self.links[link.conn]
        link.server.connection_lost(self.now)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _next_deadline(self) -> float | None:
        found = [self.client.next_deadline(), *(link.server.next_deadline() for link in self.links.values())]
        return min((due for due in found if due is not None), default=None)

    def _fire(self) -> None:
        due = self.client.next_deadline()
        if due is not None and due <= self.now:
            self.client.handle_timer(self.now)
        for link in list(self.links.values()):
            due = link.server.next_deadline()
            if due is not None and due <= self.now:
                link.server.handle_timer(self.now)
