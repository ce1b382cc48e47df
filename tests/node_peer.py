"""A bare peer of a node: one WebSocket by websocket-client and the dialect's codec, nothing repeated."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import websocket

from resilient_ws.dialects.native import Native
from resilient_ws.frames import Batch, Credit, Hello, HelloStream, Ready, Welcome

F = TypeVar("F")


class Closed(Exception):
    """The node closed: its code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


class Peer:
    """One connection; every wait is bounded by the socket's timeout."""

    def __init__(self, url: str, header: Mapping[str, str] | None = None, timeout: float = 10.0) -> None:
        self.codec = Native().client()
        self.socket = websocket.create_connection(
            url, timeout=timeout, subprotocols=["resilient.v1"], suppress_origin=True, header=dict(header or {})
        )
        self.instance = uuid.uuid4().hex
        self.items: list[Any] = []

    def close(self) -> None:
        """End the connection without a close frame."""
        self.socket.shutdown()

    def send(self, *items: Any) -> None:
        for wire in self.codec.encode(items):
            self.socket.send(wire) if isinstance(wire, str) else self.socket.send_binary(wire)

    def wait(self, kind: type[F], accept: Callable[[F], bool] = lambda item: True) -> F:
        """Return the next item of this kind, and drop what came before it."""
        while True:
            while self.items:
                item = self.items.pop(0)
                if isinstance(item, kind) and accept(item):
                    return item
            self._read()

    def wait_closed(self) -> Closed:
        """Read until the node closes."""
        with contextlib.suppress(websocket.WebSocketConnectionClosedException, ConnectionError):
            while True:
                try:
                    self._read()
                except Closed as closed:
                    return closed
        return Closed(1006, "")

    def _read(self) -> None:
        opcode, frame = self.socket.recv_data_frame(True)
        data = frame.data
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise Closed(int.from_bytes(data[:2], "big") if data else 1005, data[2:].decode())
        if opcode in (websocket.ABNF.OPCODE_TEXT, websocket.ABNF.OPCODE_BINARY):
            text = opcode == websocket.ABNF.OPCODE_TEXT
            self.items += self.codec.decode([data.decode() if text else bytes(data)])
            if self.codec.failure is not None:
                raise self.codec.failure

    def hello(self, *streams: HelloStream, attempt: int = 1, **fields: Any) -> Welcome:
        """Say hello, accept the welcome."""
        defaults: dict[str, Any] = {
            "instance": self.instance,
            "attempt": attempt,
            "producers": (uuid.uuid4().hex,),
            "credit": Credit(1000, 16 << 20),
            "max_message": 1 << 20,
            "streams": streams,
        }
        self.send(Hello(**{**defaults, **fields}))
        welcome = self.wait(Welcome)
        self.send(Ready(generation=welcome.generation))
        return welcome

    def payloads(self, count: int) -> Iterator[Any]:
        """Give the next ``count`` payloads."""
        while count > 0:
            for payload in self.wait(Batch).payloads:
                yield payload
                count -= 1


@contextlib.contextmanager
def connected(url: str, header: Mapping[str, str] | None = None) -> Iterator[Peer]:
    """Give a peer, and end its connection."""
    peer = Peer(url, header)
    try:
        yield peer
    finally:
        peer.close()


def ask(url: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Ask a node over HTTP: status, headers, and what it said (as JSON, if it is)."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url.replace("ws://", "http://"), body, names)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, got, raw = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, got, raw = error.code, error.headers, error.read()
    text = raw.decode()
    return status, dict(got), json.loads(text) if text.startswith("{") else text
