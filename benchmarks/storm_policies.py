"""
When clients dial again: ours, by the very objects of a session, and others, as their documentation or source has it.

Each is written anew from what its system says and does in the version named; no code of theirs is here. What the
servers do with an attempt is in ``storm_model.py``.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence

import attrs

from benchmarks.storm_model import Servers
from resilient_ws.actions import Dial
from resilient_ws.backoff import Backoff
from resilient_ws.config import Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.connection import Connection
from resilient_ws.conversation import Conversation, Settings
from resilient_ws.endpoints import EndpointPool
from resilient_ws.exceptions import ConnectError, ConnectionLost
from resilient_ws.losing import lose
from resilient_ws.state import Phase, Role
from server_fixture.backplane import LivingNode
from server_fixture.neighbours import MAX_SPREAD, Neighbours

BEHIND_BALANCER = ("wss://balancer.example/",)
THREE_NODES = ("wss://a.example/", "wss://b.example/", "wss://c.example/")
_ID = "0" * 32


def advice(clients: int, servers: Servers) -> float:
    """Return the window that a node with so many sessions advises, by its own sum, where the others accept so much."""
    node = Neighbours("dead", "wss://dead.example/")
    other = LivingNode(name="other", url="", sessions=0, accept_rate=servers.capacity, is_draining=False)
    node.heard((other,), 0.0)
    return node.spread(clients, 0.0)


class _Conversation(Conversation):
    """The state of whichever session's turn it is: its backoff and its endpoints are put in, all else is alike."""

    def __init__(self, retry: Retry, urls: Sequence[str], rng: random.Random) -> None:
        settings = Settings(
            retry=retry,
            failover=Failover(),
            keepalive=Keepalive(),
            outbox=Outbox(),
            inbox=Inbox(),
            wire=Wire(),
            instance=_ID,
            instances=frozenset({_ID}),
            roles=frozenset(),
            hedge_delay=0.25,
            has_credit=True,
        )
        super().__init__(settings, urls=urls, producer=_ID, report_gaps=False, rng=rng, now=0.0, restored=None)


@attrs.define
class Session:
    """
    Ours: each client has a ``Backoff`` and an ``EndpointPool`` with its budget; ``Conversation`` and ``lose()`` decide.

    Attributes:
        name: Of this kind.
        spread: Seconds that the dead node advised.
        retry: The settings.
        urls: Endpoints that each client knows, the dead node's own among them where there are several.
    """

    name: str
    spread: float
    retry: Retry = attrs.field(factory=Retry)
    urls: Sequence[str] = BEHIND_BALANCER
    _core: _Conversation = attrs.field(init=False, repr=False)
    _kept: list[tuple[Backoff, EndpointPool] | None] = attrs.field(init=False, repr=False)

    @property
    def dead(self) -> str | None:
        """The URL that leads to the dead node and nowhere else: the first of several."""
        return self.urls[0] if len(self.urls) > 1 else None

    def ready(self, clients: int, rng: random.Random) -> None:
        # With dice of its own, as it draws for endpoints that are no client's.
        self._core = core = _Conversation(self.retry, self.urls, random.Random(0))
        core.rng, settings = rng, core.settings
        self._kept = [
            (
                Backoff(settings.retry, rng, len(self.urls)),
                EndpointPool(self.urls, settings.failover, rng, settings.retry.budget),
            )
            for _ in range(clients)
        ]

    def lost(self, client: int, now: float) -> float:
        core = self._turn(client)
        connection = Connection(0, self.urls[0], Role.PRIMARY, None, Phase.OPEN, progressed=True)
        connection.opened_at, connection.spread = now - 3_600.0, self.spread
        return self._end(core, connection, ConnectionLost("reset by peer", code=1006, reason=""), now)

    def dial(self, client: int, now: float) -> float | None:
        core = self._turn(client)
        core.dial(now)
        dial = core.actions[-1]
        assert isinstance(dial, Dial)
        return None if dial.url == self.dead else dial.timeout

    def failed(self, client: int, now: float) -> float | None:
        core = self._turn(client)
        connection = core.connections[core.numbers]
        return self._end(core, connection, ConnectError("refused"), now)

    def welcomed(self, client: int) -> None:
        self._kept[client] = None
        self._clear(self._core)

    def _turn(self, client: int) -> _Conversation:
        kept = self._kept[client]
        assert kept is not None, "one that is back does not dial"
        self._core.backoff, self._core.pool = kept
        return self._core

    def _end(self, core: _Conversation, connection: Connection, error: Exception, now: float) -> float:
        lose(core, connection, error, now)
        self._clear(core)
        assert core.dial_at is not None, "nothing in a storm is fatal"
        return core.dial_at

    def _clear(self, core: _Conversation) -> None:
        core.connections.clear()
        core.actions.clear()
        core.events.clear()


Delay = Callable[[int, float, random.Random], "float | None"]
"""
Seconds until the next attempt, None for never: by the attempts since the loss (0: none yet), the last delay (0: none),
and what draws.
"""


@attrs.define
class Documented:
    """
    A policy of others: a delay between attempts, and a connect timeout.

    Attributes:
        name: Of system and version.
        delay: See :data:`Delay`.
        timeout: Seconds for one attempt.
    """

    name: str
    delay: Delay
    timeout: float = math.inf
    _rng: random.Random = attrs.field(init=False, repr=False)
    _attempts: array[int] = attrs.field(init=False, repr=False)
    _delays: array[float] = attrs.field(init=False, repr=False)

    def ready(self, clients: int, rng: random.Random) -> None:
        self._rng, self._attempts, self._delays = rng, array("H", bytes(2 * clients)), array("f", bytes(4 * clients))

    def lost(self, client: int, now: float) -> float:
        again = self.failed(client, now)
        assert again is not None, "whoever never tries is not compared"
        return again

    def dial(self, client: int, now: float) -> float:
        self._attempts[client] += 1
        return self.timeout

    def failed(self, client: int, now: float) -> float | None:
        delay = self.delay(self._attempts[client], self._delays[client], self._rng)
        if delay is None:
            return None
        self._delays[client] = delay
        return now + delay

    def welcomed(self, client: int) -> None:
        """Nothing is kept that counts."""


def websocket_client(attempts: int, last: float, rng: random.Random) -> float:
    """
    Say what websocket-client 1.9.2 does (source: ``_app.py``, ``_dispatcher.py``).

    ``run_forever(reconnect=5)``, the number of its documentation: the same pause before every attempt, the first
    included; no timeout unless the program sets one.
    """
    return 5.0


def websockets(attempts: int, last: float, rng: random.Random) -> float:
    """
    Say what websockets 17.4 does (source: ``client.py``, ``sync/client.py``).

    ``for ws in reconnect(...)``: at once after a connection that worked, then up to 5 s, then from 3.1 s on 1.618 times
    as long each time, to 90 s; ``open_timeout`` 10 s.
    """
    if attempts <= 1:
        return attempts * 5.0 * rng.random()
    return min(3.1 * 1.618 ** min(attempts - 2, 20), 90.0)


def partysocket(attempts: int, last: float, rng: random.Random) -> float:
    """
    Say what partysocket 1.3.0 does (source: ``ws.js``).

    3 s, 1.3 times as long each time, to 10 s, with nothing drawn; ``connectionTimeout`` 4 s.
    """
    return min(3.0 * 1.3 ** min(attempts, 20), 10.0)


def socket_io(attempts: int, last: float, rng: random.Random) -> float:
    """
    Say what socket.io-client 4.8.4 does (source: ``contrib/backo2.js``).

    1 s doubling, then up to half of it more or less, where the first decimal of the same draw decides which, then cut
    at 5 s: from the fifth attempt on everybody waits 5 s. Timeout 20 s.
    """
    drawn, middle = rng.random(), 2.0 ** min(attempts, 20)
    sign = 1 if int(10 * drawn) % 2 else -1
    return min(middle + sign * 0.5 * drawn * middle, 5.0)


def python_socketio(attempts: int, last: float, rng: random.Random) -> float:
    """
    Say what python-socketio 5.18.1 does (source: ``client.py``).

    1 s doubling to 5 s, then up to half a second more or less; an HTTP request has 5 s (engineio).
    """
    return min(2.0 ** min(attempts, 20), 5.0) + 0.5 * (2.0 * rng.random() - 1.0)


def azure(attempts: int, last: float, rng: random.Random) -> float | None:
    """
    Say what azure-messaging-webpubsubclient 1.1.0 does (source: ``_client.py``).

    Recovery at once and each second for 30 s; then a new connection at once and after 0.8, 1.6 and 3.2 s (the default,
    ``reconnect_retry_total=3``), then it stops. ``start_timeout`` 30 s.
    """
    if attempts <= 30:
        return float(attempts > 0)
    number = attempts - 31
    return (0.0, 0.8, 1.6, 3.2)[number] if number <= 3 else None


def nats(attempts: int, last: float, rng: random.Random) -> float | None:
    """
    Say what nats-py 2.16.0 does (source: ``aio/client.py``).

    At once, then every 2 s (``reconnect_time_wait``), 61 times: a server that failed more often than
    ``max_reconnect_attempts=60`` is dropped. ``connect_timeout`` 2 s.
    """
    if attempts > 60:
        return None
    return 2.0 if attempts else 0.0


def signalr(attempts: int, last: float, rng: random.Random) -> float | None:
    """
    Say what @microsoft/signalr 10.0.11 does (source: ``DefaultReconnectPolicy.ts``).

    ``withAutomaticReconnect()``: after 0, 2, 10 and 30 s, then it stops. Nothing times a browser's WebSocket out that
    soon.
    """
    return (0.0, 2.0, 10.0, 30.0)[attempts] if attempts <= 3 else None


def full_jitter(attempts: int, last: float, rng: random.Random) -> float:
    """
    Say what "Exponential Backoff And Jitter" of the AWS Architecture Blog calls full jitter.

    The bounds are ours: up to 0.5 s, doubling to 30 s; so is the timeout, 10 s.
    """
    return rng.random() * min(30.0, 0.5 * 2.0 ** min(attempts, 20))


def no_jitter(attempts: int, last: float, rng: random.Random) -> float:
    """Say what full jitter is against: the same without anything drawn."""
    return min(30.0, 0.5 * 2.0 ** min(attempts, 20))


FULL_JITTER = Documented("AWS full jitter, 0.5 to 30 s", full_jitter, 10.0)
WEBSOCKETS = Documented("websockets 17.4", websockets, 10.0)
WEBSOCKET_CLIENT = Documented("websocket-client 1.9.2, reconnect=5", websocket_client)
FEW = (FULL_JITTER, WEBSOCKETS, WEBSOCKET_CLIENT)
OTHERS = (
    *FEW,
    Documented("partysocket 1.3.0", partysocket, 4.0),
    Documented("socket.io-client 4.8.4", socket_io, 20.0),
    Documented("python-socketio 5.18.1", python_socketio, 5.0),
    Documented("azure-messaging-webpubsubclient 1.1.0", azure, 30.0),
    Documented("nats-py 2.16.0", nats, 2.0),
    Documented("@microsoft/signalr 10.0.11", signalr),
    Documented("exponential without jitter, 0.5 to 30 s", no_jitter, 10.0),
)


def ours(clients: int, servers: Servers) -> tuple[Session, Session, Session, Session]:
    """
    Return ours, four times.

    By default; with the advised window at any length; without advice; and with the URLs of three nodes, the dead one's
    first, where a session goes to another at once.
    """
    window = advice(clients, servers)
    return (
        Session("session", window),
        Session("patient", window, Retry(max_spread=MAX_SPREAD)),
        Session("session without advice", 0.0),
        Session("session that knows three URLs", window, urls=THREE_NODES),
    )
