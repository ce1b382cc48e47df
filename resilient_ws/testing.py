"""
Doubles for tests of code that uses a Client: a clock that is set by hand, and a transport whose other end is the test.

:class:`ScriptedTransport` is a real socket pair with frames of its own, so that everything above the transport
(selectors, threads, back-pressure, signals) is real. The server's part is said by the test, item by item.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from resilient_ws.arguments import check_arguments
from resilient_ws.client import Client, open_client
from resilient_ws.client import connect as _connect
from resilient_ws.config import Keepalive
from resilient_ws.dialects.native import Native
from resilient_ws.dialling import DialOptions
from resilient_ws.exceptions import ConnectionLost, NoEndpoint
from resilient_ws.frames import Batch, Frame, Hello, StreamAnswer, Welcome

__all__ = ["FakeClock", "Peer", "ScriptedDialer", "ScriptedTransport"]

_HEADER = struct.Struct(">BI")
_TEXT, _BINARY, _CLOSE = 1, 2, 8


class FakeClock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let time pass; returns the new time."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back by {-seconds} s")
        self.now += seconds
        return self.now


class _Reader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self._data += data
        found = []
        while len(self._data) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._data)
            if len(self._data) < _HEADER.size + size:
                break
            found.append((kind, bytes(self._data[_HEADER.size : _HEADER.size + size])))
            del self._data[: _HEADER.size + size]
        return found


def _frame(message: str | bytes) -> bytes:
    data = message.encode() if isinstance(message, str) else message
    return _HEADER.pack(_TEXT if isinstance(message, str) else _BINARY, len(data)) + data


def _close_frame(code: int, reason: str) -> bytes:
    data = struct.pack(">H", code) + reason.encode()
    return _HEADER.pack(_CLOSE, len(data)) + data


class ScriptedTransport:
    """
    The client's end; has the interface of ``resilient_ws.transport.Transport``.

    Attributes:
        calls: Names of the ending calls that were made: ``close``, ``shut``, ``release``.
    """

    def __init__(self, sock: socket.socket, headers: Sequence[tuple[str, str]] = ()) -> None:
        self.subprotocol: str | None = "resilient.v1"
        self.headers = list(headers)
        self.calls: list[str] = []
        self._sock = sock
        sock.setblocking(False)
        self._reader = _Reader()
        self._lost: ConnectionLost | None = None
        self._out = bytearray()
        self._sent_close: tuple[int, str] | None = None
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def has_buffered(self) -> bool:
        return self._lost is not None

    def receive(self) -> list[str | bytes]:
        if self._lost is not None:
            raise self._lost
        try:
            data = self._sock.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            self._lost = ConnectionLost(f"the connection broke ({error.strerror})")
            raise self._lost from None
        found: list[str | bytes] = []
        for kind, payload in self._reader.feed(data):
            if kind == _CLOSE:
                self._closed_by_peer(payload)
            else:
                found.append(payload.decode() if kind == _TEXT else payload)
        if not data:
            self._lost = ConnectionLost("the server closed without a close frame", sent=self._sent_close)
        if self._lost is not None and not found:
            raise self._lost
        return found

    def _closed_by_peer(self, payload: bytes) -> None:
        code, reason = struct.unpack_from(">H", payload)[0], payload[2:].decode()
        text = f"the server closed the connection ({code})"
        self._lost = ConnectionLost(text, code=code, reason=reason, rcvd=(code, reason), sent=self._sent_close)

    @property
    def wants_write(self) -> bool:
        return bool(self._out) and self._lost is None

    @property
    def buffered_bytes(self) -> int:
        return len(self._out)

    def write(self, messages: Sequence[str | bytes]) -> bool:
        with self._lock:
            if self._sent_close is not None:
                raise ConnectionLost("nothing can be written after our close frame", sent=self._sent_close)
            self._out += b"".join(_frame(message) for message in messages)
            return self._push()

    def flush(self) -> bool:
        with self._lock:
            return self._push()

    def _push(self) -> bool:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lost = ConnectionLost(f"the connection broke in a write ({error.strerror})")
            raise self._lost from None
        return True

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.calls.append("close")
        with self._lock:
            if self._sent_close is None:
                self._sent_close = (code, reason)
                self._out += _close_frame(code, reason)
                try:
                    self._push()
                except ConnectionLost:
                    pass

    def shut(self) -> None:
        self.calls.append("shut")
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # ended already
            pass

    def release(self) -> None:
        self.calls.append("release")
        self._sock.close()


class Peer:
    """
    The server's end of one connection, said by the test.

    Attributes:
        url: What was dialled.
        options: How.
        transport: The client's end, to look at.
        closed: (code, reason) of the client's close frame, None before it came.
    """

    def __init__(self, sock: socket.socket, url: str, options: DialOptions, transport: ScriptedTransport) -> None:
        self.url = url
        self.options = options
        self.transport = transport
        self.closed: tuple[int, str] | None = None
        self._sock = sock
        self._reader = _Reader()
        self._codec = Native().server()
        self._items: deque[Any] = deque()

    def expect(self, kind: type | None = None, timeout: float = 5.0) -> Any:
        """
        Return the next item that the client sent; with ``kind``, the next one of that type, the others skipped.

        Raises:
            EOFError: The client ended the connection first.
            TimeoutError: Nothing came.
        """
        self._sock.settimeout(timeout)
        while True:
            while self._items:
                item = self._items.popleft()
                if kind is None or isinstance(item, kind):
                    return item
            if self.closed is not None:
                raise EOFError(f"the client closed the connection: {self.closed}")
            data = self._sock.recv(1 << 16)
            if not data:
                raise EOFError("the client ended the connection")
            for opcode, payload in self._reader.feed(data):
                self._take(opcode, payload)

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            self.closed = (struct.unpack_from(">H", payload)[0], payload[2:].decode())
            return
        self._items.extend(self._codec.decode([payload.decode() if opcode == _TEXT else payload]))

    def send(self, *items: Batch | Frame) -> None:
        """Say something to the client; blocks while its end is full."""
        self.send_raw(b"".join(_frame(message) for message in self._codec.encode(items)))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sock.settimeout(5.0)
        self._sock.sendall(data)

    def say(self, message: str | bytes) -> None:
        """Send one message that no codec has made."""
        self.send_raw(_frame(message))

    def welcome(self, hello: Hello | None = None, **fields: Any) -> Hello:
        """
        Answer a hello (the next one that comes, if none is given) with a welcome.

        Args:
            hello: What the client said.
            fields: Of the welcome, where they differ from: a new session (or the one that the hello names, resumed),
                epoch ``e``, every stream at its end, or behind what the hello holds.
        """
        hello = self.expect(Hello) if hello is None else hello
        answers = []
        for asked in hello.streams:
            epoch, first = ("e", 1) if asked.held is None else (asked.held.epoch, asked.held.offset + 1)
            answers.append(StreamAnswer(stream=asked.stream, id=asked.id, epoch=epoch, first=first, live=first - 1))
        said: dict[str, Any] = {
            "session": hello.session or "s1",
            "token": f"token-{hello.attempt}",
            "generation": hello.attempt,
            "verdict": "new" if hello.session is None else "resumed",
            "ttl": 60.0,
            "node": "n1",
            "incarnation": "i1",
            "producer_ttl": 3600.0,
            "max_message": 1 << 20,
            "streams": tuple(answers),
        }
        self.send(Welcome(**{**said, **fields}))
        return hello

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame and end the connection."""
        self.send_raw(_close_frame(code, reason))
        self.cut()

    def cut(self) -> None:
        """End the connection without a close frame."""
        self._sock.close()


class ScriptedDialer:
    """
    Dials nothing: every dial gives the client one end of a socket pair and the test the other one.

    Args:
        buffer: Size of the sockets' buffers in bytes, None: the system's.

    Attributes:
        dials: The URLs that were dialled.
        headers: Headers of the answers to the upgrades to come, names in lower case.
    """

    def __init__(self, buffer: int | None = None) -> None:
        self._buffer = buffer
        self.headers: list[tuple[str, str]] = []
        self._peers: queue.Queue[Peer] = queue.Queue()
        self._answers: deque[Exception | Callable[[Callable[[], bool]], None]] = deque()
        self._made: list[Peer] = []
        self._is_closed = False
        self._lock = threading.Lock()
        self.dials: list[str] = []

    def __call__(
        self, url: str, options: DialOptions, cancelled: Callable[[], bool] = lambda: False
    ) -> ScriptedTransport:
        self.dials.append(url)
        answer = self._answers.popleft() if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        if self._is_closed:
            raise NoEndpoint("the scripted dialer is closed")
        if answer is not None:
            answer(cancelled)
        ours, theirs = socket.socketpair()
        if self._buffer is not None:
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        transport = ScriptedTransport(ours, self.headers)
        peer = Peer(theirs, url, options, transport)
        with self._lock:
            self._made.append(peer)
            if self._is_closed:
                peer.cut()
        self._peers.put(peer)
        return transport

    def close(self) -> None:
        """Cut every connection, those that are dialled later too."""
        with self._lock:
            self._is_closed = True
            for peer in self._made:
                peer.cut()

    def refuse(self, *errors: Exception) -> None:
        """Have the next dials fail with these."""
        self._answers.extend(errors)

    def before(self, call: Callable[[Callable[[], bool]], None]) -> None:
        """Have ``call(cancelled)`` run in the thread of the next dial, before it succeeds."""
        self._answers.append(call)

    def accept(self, timeout: float = 5.0) -> Peer:
        """
        Return the other end of the next dial.

        Raises:
            TimeoutError: Nobody dialled.
        """
        try:
            return self._peers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no dial within {timeout} s") from None

    def connect(self, urls: str | Sequence[str] = "ws://localhost:1/", **settings: Any) -> Client:
        """
        Open a Client over this dialer; arguments as in ``resilient_ws.connect``.

        A :class:`Peer` answers no ping unless the test does, so a silent one is given up after a minute only, where
        ``keepalive`` says nothing else.
        """
        defaults = {**(_connect.__kwdefaults__ or {}), "keepalive": Keepalive(timeout=60.0)}
        return open_client(check_arguments(urls, **{**defaults, **settings}), self)
