"""
Other synchronous clients: websocket-client, websockets, simple-websocket, and two that speak more than WebSocket.

The verbs are those of ``players_ours.py``.
"""

from __future__ import annotations

import abc
import json
import socket
import threading
import time
from typing import Any

from benchmarks.players_tls import trusting

ACK_EVERY = 64
"""Messages for each ack of the envelope in plain Python."""


class Recv:
    """What every client with ``recv()`` and ``send()`` has in common."""

    library: Any
    recv: Any
    send_one: Any

    def close(self) -> None:
        self.library.close()

    def receive(self, count: int, verb: str = "flood") -> None:
        self.send_one(f"{verb} {count}")
        recv = self.recv
        for _ in range(count):
            recv()

    def pace(self, count: int) -> None:
        self.receive(count, "pace")

    def send(self, payload: str | bytes, count: int) -> None:
        send_one = self.send_one
        for _ in range(count):
            send_one(payload)
        send_one("sync")
        self.recv()

    def echo(self, payload: str | bytes, count: int) -> list[float]:
        send_one, recv, times = self.send_one, self.recv, []
        for _ in range(count):
            start = time.perf_counter()
            send_one(payload)
            recv()
            times.append(time.perf_counter() - start)
        return times


class WebsocketClient(Recv):
    """websocket-client; with ``skip_utf8_validation`` text is decoded and not checked before."""

    def __init__(self, url: str, certificate: str | None = None, *, skip: bool = False) -> None:
        import websocket

        tls: Any = {} if certificate is None else {"sslopt": {"context": trusting(certificate)}}
        self.library = websocket.create_connection(url, skip_utf8_validation=skip, **tls)
        self.recv = self.library.recv
        send, send_binary = self.library.send, self.library.send_binary
        self.send_one = lambda payload: (send if isinstance(payload, str) else send_binary)(payload)

    def send(self, payload: str | bytes, count: int) -> None:
        send_one = self.library.send if isinstance(payload, str) else self.library.send_binary
        for _ in range(count):
            send_one(payload)
        self.library.send("sync")
        self.recv()


class EnvelopeClient(WebsocketClient):
    """websocket-client with the least that keeps order and acks: a JSON envelope, positions checked, acks sent."""

    last = 0
    sent = 0
    acked = 0

    def receive(self, count: int, verb: str = "flood") -> None:
        self.library.send(f"{verb} {count}")
        recv, last = self.recv, self.last
        for _ in range(count):
            message = json.loads(recv())
            offset = message["offset"]
            if offset != last + 1:
                raise RuntimeError(f"{offset} after {last}")
            last = offset
            message["data"]
            if last % ACK_EVERY == 0:
                self.library.send(json.dumps({"ack": last}))
        self.last = last

    def send(self, payload: str | bytes, count: int) -> None:
        send = self.library.send
        waiting: dict[int, Any] = {}
        for _ in range(count):
            self.sent += 1
            waiting[self.sent] = payload
            send(json.dumps({"stream": "s", "offset": self.sent, "data": payload}, separators=(",", ":")))
            if len(waiting) >= ACK_EVERY:
                self.hear(waiting)
        while waiting:
            self.hear(waiting)

    def hear(self, waiting: dict[int, Any]) -> None:
        """Read an ack, which the server sends for every message."""
        del waiting[json.loads(self.recv())["ack"]]


class Websockets(Recv):
    """websockets, synchronous; no keepalive thread's pings, compression only where it is asked for."""

    def __init__(self, url: str, certificate: str | None = None, *, deflate: bool = False) -> None:
        from websockets.sync.client import connect

        self.library = connect(
            url,
            ssl=trusting(certificate),
            compression="deflate" if deflate else None,
            ping_interval=None,
            max_queue=None,
            proxy=None,
        )
        self.recv = self.library.recv
        self.send_one = self.library.send


class SimpleWebsocket(Recv):
    """simple-websocket, with reads as large as ours."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        import simple_websocket  # type: ignore[import-untyped]

        self.library = simple_websocket.Client.connect(url, ssl_context=trusting(certificate), receive_bytes=64 << 10)
        # It leaves Nagle's algorithm on, which makes the last message of a run wait for 40 ms.
        self.library.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.recv = self.library.receive
        self.send_one = self.library.send


class Called(abc.ABC):
    """What the clients that call a function for every message have in common; ``heard`` is that function."""

    def __init__(self) -> None:
        self.left = 0
        self.done = threading.Event()
        self.lock = threading.Lock()

    def heard(self, *_: Any) -> None:
        with self.lock:  # these clients call from several threads
            self.left -= 1
            if self.left == 0:
                self.done.set()

    def close(self) -> None:
        """Wait no more; such a client has one connection in a run, takes seconds to end, and is left to its process."""
        self.done.set()

    @abc.abstractmethod
    def ask(self, request: str) -> None:
        """Send a request of the benchmark's server."""

    @abc.abstractmethod
    def send_one(self, payload: str | bytes) -> None:
        """Send one message."""

    def expect(self, count: int) -> None:
        """Get ready for so many messages."""
        self.left = count
        self.done.clear()

    def wait(self) -> None:
        """Wait until they are there."""
        if not self.done.wait(60):
            raise RuntimeError(f"{self.left} messages did not come")

    def receive(self, count: int, verb: str = "flood") -> None:
        self.expect(count)
        self.ask(f"{verb} {count}")
        self.wait()

    def pace(self, count: int) -> None:
        self.receive(count, "pace")

    def send(self, payload: str | bytes, count: int) -> None:
        for _ in range(count):
            self.send_one(payload)
        self.expect(1)
        self.ask("sync")
        self.wait()

    def echo(self, payload: str | bytes, count: int) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            self.expect(1)
            self.send_one(payload)
            self.wait()
            times.append(time.perf_counter() - start)
        return times


class SocketIO(Called):
    """python-socketio, WebSocket only."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        import socketio  # type: ignore[import-untyped]

        super().__init__()
        self.library = socketio.Client(reconnection=False)
        self.library.on("m", self.heard)
        path = "socket.io/echo" if "/echo" in url else "socket.io"
        self.library.connect(url.replace("ws:", "http:"), transports=["websocket"], socketio_path=path)

    def ask(self, request: str) -> None:
        self.library.emit("ask", request)

    def send_one(self, payload: str | bytes) -> None:
        self.library.emit("m", payload)


class Azure(Called):
    """azure-messaging-webpubsubclient, its reliable protocol; sends ask for no acks (``outbound.py`` says why)."""

    def __init__(self, url: str, certificate: str | None = None) -> None:
        from azure.messaging.webpubsubclient import WebPubSubClient
        from azure.messaging.webpubsubclient.models import CallbackType, WebPubSubDataType

        super().__init__()
        self.kind = WebPubSubDataType.TEXT
        self.library: Any = WebPubSubClient(url)
        self.library.subscribe(CallbackType.SERVER_MESSAGE, self.heard)
        self.library.open()

    def ask(self, request: str) -> None:
        self.library.send_event("ask", request, self.kind, ack=False)

    def send_one(self, payload: str | bytes) -> None:
        self.library.send_event("m", payload, self.kind, ack=False)
