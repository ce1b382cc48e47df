"""
Clients that lose their server: ours, the least that anybody needs, and the peers that connect again by themselves.

Every player has two verbs: ``join()`` says who serves it once messages come, and ``lose(pid, number)`` sends that
process a signal and returns a :class:`Loss`. When a connection is over is told for everybody alike, by what its socket
says: importing this module puts a watch around every socket of the process.
"""

from __future__ import annotations

import base64
import logging
import os
import queue
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from benchmarks.framing import TEXT, accept
from benchmarks.mortal import STREAM, Loss
from benchmarks.players_ours import burn

PATIENCE = 45.0
"""Seconds until a message has to come again."""


class Ends:
    """Notes when a socket of this process first says that its connection is over."""

    def __init__(self) -> None:
        self.at: float | None = None

    def watch(self) -> None:
        """Look at what every socket's ``recv()`` and ``recv_into()`` return from now on."""
        for name in ("recv", "recv_into"):
            setattr(socket.socket, name, self._around(getattr(socket.socket, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def recv(*args: Any) -> Any:
            try:
                found = call(*args)
            except ConnectionError:
                self._note()
                raise
            if not found:
                self._note()
            return found

        return recv

    def _note(self) -> None:
        if self.at is None:
            self.at = time.perf_counter()


ENDS = Ends()
ENDS.watch()


def signalled(pid: int, number: int) -> float:
    """Send a signal, and say when; what ended before is forgotten."""
    ENDS.at = None
    now = time.perf_counter()
    os.kill(pid, number)
    return now


class Session:
    """
    A Client with default settings, which knows every node and takes the feed one by one.

    Args:
        url: Those of the nodes, with spaces between.
        certificate: None.
        delay: Seconds of CPU time that it wastes on the first message of each connection: for the benchmark's test.
    """

    def __init__(self, url: str, certificate: str | None = None, *, delay: float = 0.0) -> None:
        self.urls = url.split()
        self.delay = delay
        self.client: Any = None

    def close(self) -> None:
        if self.client is not None:
            self.client.close()

    def join(self, standby: bool = False) -> str:
        """Begin anew: what was lost before must not make the next attempt wait; with ``standby`` a spare is ready."""
        import resilient_ws

        self.close()
        failover = resilient_ws.Failover(standby=standby)
        self.client = resilient_ws.connect(self.urls, subscribe=[STREAM], failover=failover)
        while standby and not self.client.stats()["standby"]:
            self.client.recv(PATIENCE)
        return self.rest()

    def visit(self, url: str) -> None:
        """Be a passing guest of a node, as others that it serves: its first guest pays for what it does but once."""
        import resilient_ws

        with resilient_ws.connect(url, subscribe=[STREAM]) as guest:
            guest.recv(PATIENCE)

    def rest(self) -> str:
        """Go on, and say which node serves once some messages came."""
        for _ in range(3):
            self.client.recv(PATIENCE)
        node: str = self.client.stats()["node"]
        return node

    def lose(self, pid: int, number: int, least: float = 0.0) -> Loss:
        """Lose the node, and count silences for ``least`` seconds at least."""
        recv, stats = self.client.recv, self.client.stats
        resumes = stats()["resumes"]
        last = told = signalled(pid, number)
        again = silence = 0.0
        while not again or last < told + least:
            recv(PATIENCE)
            if not again and stats()["resumes"] > resumes:
                burn(self.delay)
                again = time.perf_counter()
            now = time.perf_counter()
            last, silence = now, max(silence, now - last)
        return Loss(told, again if ENDS.at is None else ENDS.at, again, silence)

    def quiet(self, seconds: float) -> float:
        """Return the longest time between two messages while nothing happens."""
        last = start = time.perf_counter()
        silence = 0.0
        while last < start + seconds:
            self.client.recv(PATIENCE)
            now = time.perf_counter()
            last, silence = now, max(silence, now - last)
        return silence


class Floor:
    """
    A socket and nothing else: it connects, sends a ready-made upgrade, and one ping with it that must be answered.

    Args:
        url: One address for each server, with spaces between; the next one is dialled when one is lost.
        certificate: None.
        subprotocol: What is asked for.
    """

    def __init__(self, url: str, certificate: str | None = None, *, subprotocol: str = "") -> None:
        self.urls = url.split()
        self.number = 0
        self.subprotocol = subprotocol
        self.socket: socket.socket | None = None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()

    def join(self, number: int = 0) -> str:
        self.close()
        self.number = number
        return self.dial()

    def dial(self) -> str:
        """Connect, upgrade, and have one text come back; returns what the server said by itself."""
        url = urllib.parse.urlsplit(self.urls[self.number])
        self.socket = connected = socket.create_connection((url.hostname or "", url.port or 0))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(b"sixteen letters.")
        asked = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        request = (
            f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\n{asked}Sec-WebSocket-Key: {key.decode()}\r\n\r\n"
        )
        connected.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.read()
        head, _, rest = answer.partition(b"\r\n\r\n")
        if accept(key) not in head:
            raise ConnectionError(f"no upgrade: {head!r}")
        connected.sendall(b"\x89\x82\0\0\0\0hi")
        while b"\x8a\x02hi" not in rest:
            rest += self.read()
        return "".join(start.decode() for opcode, _, start in unmasked(rest) if opcode == TEXT)

    def read(self) -> bytes:
        """Read what is there."""
        assert self.socket is not None
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server left in the upgrade")
        return data

    def lose(self, pid: int, number: int) -> Loss:
        assert self.socket is not None
        told = signalled(pid, number)
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        self.number = (self.number + 1) % len(self.urls)
        self.dial()
        again = time.perf_counter()
        assert ENDS.at is not None
        return Loss(told, ENDS.at, again)


def unmasked(data: bytes) -> list[tuple[int, int, bytes]]:
    """Cut a server's short frames."""
    frames = []
    while data:
        size = data[1]
        frames.append((data[0] & 15, size, data[2 : 2 + size]))
        data = data[2 + size :]
    return frames


class Greeted:
    """What the peers have in common: :meth:`heard` is called with the greeting of every connection, in any thread."""

    def __init__(self) -> None:
        self.greetings: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        self.server = ""

    def heard(self, text: Any) -> None:
        """Take a greeting."""
        self.greetings.put((time.perf_counter(), text))

    def start(self, work: Callable[[], object]) -> None:
        """Run what the library blocks in."""
        threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        """Leave it to its process, which ends."""

    def join(self) -> str:
        if not self.server:
            _, self.server = self.greetings.get(timeout=PATIENCE)
        return self.server

    def lose(self, pid: int, number: int) -> Loss:
        told = signalled(pid, number)
        again, self.server = self.greetings.get(timeout=PATIENCE)
        assert ENDS.at is not None
        return Loss(told, ENDS.at, again)


class Websockets(Greeted):
    """websockets, the loop of its documentation: ``for websocket in reconnect(...)``."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        super().__init__()
        self.url = url
        self.start(self.loop)

    def loop(self) -> None:
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import reconnect

        for websocket in reconnect(self.url, proxy=None):
            try:
                for message in websocket:
                    self.heard(message)
            except ConnectionClosed:
                continue


class WebsocketClient(Greeted):
    """websocket-client, ``run_forever(reconnect=)``."""

    def __init__(self, url: str, certificate: str | None = None, *, reconnect: int = 5) -> None:
        import websocket

        super().__init__()
        app = websocket.WebSocketApp(url, on_message=lambda _, message: self.heard(message))
        self.start(lambda: app.run_forever(reconnect=reconnect))


class SocketIO(Greeted):
    """python-socketio, WebSocket only."""

    def __init__(self, url: str, certificate: str | None = None, **options: Any) -> None:
        import socketio  # type: ignore[import-untyped]

        super().__init__()
        library = socketio.Client(**options)
        library.on("m", self.heard)
        library.connect(url.replace("ws:", "http:"), transports=["websocket"], socketio_path="socket.io/echo")


class Azure(Greeted):
    """azure-messaging-webpubsubclient, its reliable protocol."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        from azure.messaging.webpubsubclient import WebPubSubClient
        from azure.messaging.webpubsubclient.models import CallbackType

        super().__init__()
        logging.getLogger("azure").setLevel(logging.ERROR)  # it warns of every loss, which is what we are here for
        library: Any = WebPubSubClient(url)
        library.subscribe(CallbackType.SERVER_MESSAGE, lambda message: self.heard(message.data))
        library.open()


class Jetsocket(Greeted):
    """jetsocket, its synchronous client; ``base``: the ceiling of its first delay."""

    def __init__(self, url: str, certificate: str | None = None, *, base: float | None = None) -> None:
        import jetsocket

        super().__init__()
        self.library: Any = None
        self.url = url
        self.settings: Any = {} if base is None else {"backoff": jetsocket.BackoffConfig(base=base)}

    def join(self) -> str:
        """Begin anew: it waits longer after each loss for as long as it was not connected for a minute."""
        import jetsocket

        if self.library is not None:
            self.library.close()
        self.server = ""
        self.library = jetsocket.SyncWebSocket(self.url, compress=False, deserializer=bytes.decode, **self.settings)
        self.library.add_handler("message", lambda event: self.heard(event.data))
        self.library.connect()
        return super().join()
