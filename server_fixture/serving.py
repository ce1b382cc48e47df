"""
Drives one connection: what the WebSocket brings goes into the pure session, what the session decides is carried out.

Here live the order of writes, the timers and the back-pressure of one connection. Nothing is decided here: that is
``session.py``. What connections share is in ``host.py``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
from aiohttp import WSMsgType, web

from resilient_ws.dialects import Codec
from resilient_ws.exceptions import RemoteProtocolError
from server_fixture.access import Authenticate, admitted
from server_fixture.actions import Call, Send, Unwatch, Watch
from server_fixture.backplane import Fence
from server_fixture.entering import NodeSettings
from server_fixture.host import Host
from server_fixture.session import ServerSession

MAX_UNWRITTEN = 4 << 20
"""Bytes that may wait for a slow reader before the node reads no more from him."""
LINGER = 2.0
"""Seconds that a connection has to write its last frames and to answer the close frame."""
LEEWAY = 0.5
"""Seconds that an access token is good for after its end, on a connection that is open."""

_log = logging.getLogger("server_fixture.node")


@attrs.define(eq=False)
class Served:
    """
    One connection and its session.

    Args:
        host: What the connections of this node share.
        socket: Prepared, with the subprotocol agreed.
        transport: Under it, to cut off a peer that answers nothing.
        session: The pure half.
        codec: The dialect's, for this connection.
        reauthenticate: Says whose a fresh access token is.
        principal: Whose the connection is.
        seconds: For how long the access token of the upgrade is good; None: it has no end.
    """

    _host: Host
    _socket: web.WebSocketResponse
    _transport: asyncio.Transport
    _session: ServerSession
    _codec: Codec
    _reauthenticate: Authenticate
    _principal: str
    _seconds: float | None = None
    _unwritten: deque[str | bytes] = attrs.field(factory=deque)
    _unwritten_bytes: int = 0
    _closing: tuple[int, str] | None = None
    _written: asyncio.Event = attrs.field(factory=asyncio.Event)
    _stirred: asyncio.Event = attrs.field(factory=asyncio.Event)
    _watching: asyncio.Future[None] | None = None
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set)
    _timer: asyncio.TimerHandle | None = None
    _timer_at: float | None = None
    _cutoff: asyncio.TimerHandle | None = None
    _expiry: asyncio.TimerHandle | None = None
    _welcomed: str | None = None

    async def run(self) -> None:
        """Serve until the connection is over."""
        self._host.joined(self)
        self._admit_for(self._seconds)
        writer = asyncio.create_task(self._write())
        self._perform()
        try:
            await self._read()
        finally:
            self._tell(self._session.connection_lost)
            if self._closing is None:
                writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            for handle in (self._timer, self._cutoff, self._expiry):
                if handle is not None:
                    handle.cancel()
            self._host.left(self, self._welcomed)

    # -- what the host tells ------------------------------------------------------------------------------------------

    def woken(self, stream: str) -> None:
        """Somebody appended to a watched stream."""
        self._tell(self._session.woken, stream)

    def fence_raised(self, session: str, fence: Fence) -> None:
        """A hello of this session was accepted somewhere."""
        self._tell(self._session.fence_raised, session, fence)

    def store_silent(self) -> None:
        """The store does not answer."""
        self._tell(self._session.store_silent)

    def advised(self, settings: NodeSettings) -> None:
        """Another window, or other nodes, are advised from now on."""
        self._tell(self._session.advised, settings)

    def drain(self, within: float, jitter: float) -> None:
        """Ask the client to leave, at once or some time in the window of ``jitter`` seconds."""
        self._tell(functools.partial(self._session.drain, jitter=jitter), within)

    def abort(self) -> None:
        """End the connection without a word."""
        self._transport.abort()

    # -- inputs -------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while self._closing is None:
            message = await self._socket.receive()
            if message.type is not WSMsgType.TEXT and message.type is not WSMsgType.BINARY:
                return
            self._tell(self._received, message.data)
            while self._is_congested:
                self._stirred.clear()
                await self._stirred.wait()

    @property
    def _is_congested(self) -> bool:
        is_full = self._session.is_congested or self._unwritten_bytes > MAX_UNWRITTEN
        return is_full and self._closing is None

    def _received(self, message: str | bytes, now: float) -> None:
        session, codec = self._session, self._codec
        if self._welcomed is None:
            session.advised(self._host.for_newcomer(), now)  # this may be the hello, and its welcome is to be true
        try:
            session.received(codec.decode((message,)), now)
        except RemoteProtocolError as error:
            session.broken(error, now)
        else:
            if codec.failure is not None:
                session.broken(codec.failure, now)
        if session.auth is not None:
            fresh, session.auth = session.auth, None
            self._take_access_token(fresh.access_token)

    def _take_access_token(self, token: str) -> None:
        found = admitted(self._reauthenticate(token))
        if found is None:
            self._close(4401, "the access token is refused; dial with a fresh one")
        elif found[0] != self._principal:
            self._close(4403, "the access token is another principal's")
        else:
            self._admit_for(found[1])

    def _admit_for(self, seconds: float | None) -> None:
        """Have the connection end when its access token has: a fresh one in `auth` comes before, or no more."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if seconds is not None:
            text = "the access token is over; dial with a fresh one"
            self._expiry = asyncio.get_running_loop().call_later(seconds + LEEWAY, self._close, 4401, text)

    def _tell(self, hear: Callable[..., None], *what: Any) -> None:
        """Hand one input to the session, then carry out what it decided."""
        try:
            hear(*what, self._host.clock())
        except Exception:
            _log.exception("session_failed session=%s", self._session.session)
            self._close(1011, "the node failed on this connection, say hello again")
        self._perform()

    def _on_timer(self) -> None:
        self._timer = self._timer_at = None
        self._tell(self._session.handle_timer)

    # -- actions ------------------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        """Carry out what was decided; nothing here waits, so wire order is decision order."""
        for action in self._session.actions():
            if isinstance(action, Send):
                self._send(action)
            elif isinstance(action, Call):
                task = asyncio.create_task(self._ask(action))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif isinstance(action, Watch):
                self._watching = self._host.watch(action.stream, self)
            elif isinstance(action, Unwatch):
                self._host.unwatch(action.stream, self)
            else:
                self._close(action.code, action.reason)
        if self._welcomed is None and self._session.session is not None:
            self._welcomed = self._session.session
            self._host.welcomed(self, self._welcomed)
        self._arm()
        self._stirred.set()

    def _send(self, action: Send) -> None:
        if self._closing is None:
            wires = self._codec.encode(action.items)
            self._unwritten.extend(wires)
            self._unwritten_bytes += sum(map(len, wires))
            self._written.set()

    async def _ask(self, call: Call) -> None:
        """Perform a step at the backplane, behind the watches that were asked for before it."""
        if self._watching is not None and not self._watching.done():
            await asyncio.wait((self._watching,))
        answer = await self._host.ask(call.request)
        self._tell(self._session.answered, call.id, answer)

    def _arm(self) -> None:
        """Set the timer; one that fires too early does no harm, so a later deadline leaves it alone."""
        at = self._session.next_deadline()
        if at is None or (self._timer_at is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._on_timer)

    def _close(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = (code, reason.encode()[:123].decode(errors="ignore"))
            self._cutoff = asyncio.get_running_loop().call_later(LINGER, self.abort)
            self._written.set()
            self._stirred.set()

    async def _write(self) -> None:
        """Write what was decided, in order; then, where it came to that, the close frame."""
        socket, unwritten = self._socket, self._unwritten
        try:
            while True:
                while unwritten:
                    wire = unwritten.popleft()
                    await (socket.send_str(wire) if isinstance(wire, str) else socket.send_bytes(wire))
                    self._unwritten_bytes -= len(wire)
                self._stirred.set()
                if self._closing is not None:
                    await socket.close(code=self._closing[0], message=self._closing[1].encode())
                    return
                self._written.clear()
                await self._written.wait()
        except ConnectionError:
            self.abort()
