"""
A raw-socket WebSocket server whose every byte a test decides: sockets, threads, and the building blocks of answers.

What it sends is a *behaviour*: a function of one :class:`Caller`, run in a thread of its own per connection; when it
returns, the connection is ended with FIN. The behaviours themselves, all of them rude, are in rude.py. Standard library
only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import final

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True)
class Request:
    """
    The head of one upgrade request as it was read.

    Attributes:
        line: ``GET /path HTTP/1.1``.
        headers: Names in lower case, in order.
        raw: Every byte of it.
    """

    line: str
    headers: tuple[tuple[str, str], ...]
    raw: bytes

    def get(self, name: str) -> str | None:
        """Give the first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Caller:
    """
    One accepted connection, in the hands of a behaviour.

    Attributes:
        socket: The accepted socket, blocking.
        server: The server that accepted it.
        number: 0 for the server's first connection.
        request: The upgrade request, once it was read.
    """

    socket: socket.socket
    server: RudeServer
    number: int
    request: Request | None = None
    _unread: bytearray = field(default_factory=bytearray)

    def read_request(self) -> Request:
        """Read the request up to its empty line; EOFError where the client goes first."""
        while b"\r\n\r\n" not in self._unread:
            self._fill()
        head, _, rest = bytes(self._unread).partition(b"\r\n\r\n")
        self._unread = bytearray(rest)
        line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [item.partition(":") for item in lines]
        self.request = Request(line, tuple((name.lower(), value.strip()) for name, _, value in pairs), head)
        self.server.note(self.request)
        return self.request

    def read(self, count: int) -> bytes:
        """Read exactly so many bytes; EOFError where the client goes first."""
        while len(self._unread) < count:
            self._fill()
        data = bytes(self._unread[:count])
        del self._unread[:count]
        return data

    def read_frame(self) -> tuple[int, bytes]:
        """Read one frame of the client; give its opcode and its payload, unmasked."""
        first, payload = self.read_whole_frame()
        return first & 0x0F, payload

    def read_whole_frame(self) -> tuple[int, bytes]:
        """Read one frame of the client; give its first byte, with FIN and the reserved bits, and its payload."""
        first, second = self.read(2)
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(self.read(2 if length == 126 else 8), "big")
        mask = self.read(4) if second & 0x80 else bytes(4)
        payload = self.read(length)
        key = (mask * (length // 4 + 1))[:length]
        return first, (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")

    def send(self, *parts: bytes) -> None:
        """Send everything in one call, so that it arrives in one segment where the system allows."""
        self.socket.sendall(b"".join(parts))

    def wait_gone(self) -> None:
        """Read and forget until the client ends the connection or the server stops."""
        with contextlib.suppress(OSError):
            while self.socket.recv(1 << 16):
                pass

    def reset(self) -> None:
        """End the connection with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _fill(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the client ended the connection")
        self._unread += data


Behaviour = Callable[[Caller], object]


@final
class RudeServer:
    """
    Listen on a port of its own and treat every connection as the script says.

    Args:
        script: One behaviour for all connections, or one each, of which the last goes on for all that follow.
        tls: A server context, to speak TLS.
        host: An address of this machine, IPv4 or IPv6.
        port: Where to listen; 0 is any port that is free.

    Attributes:
        port: The port.
        url: What a client dials.
        connections: How many were accepted.
        requests: The requests that were read, in order.
        errors: Exceptions of behaviours that are not the client's going.
        stopping: Set when the server stops; a behaviour that pauses waits on it.
    """

    def __init__(
        self,
        script: Behaviour | Sequence[Behaviour],
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._script: Sequence[Behaviour] = [script] if callable(script) else list(script)
        self._tls = tls
        self._changed = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.stopping = threading.Event()
        self.connections = 0
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=64)
        self.port: int = self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'wss' if tls else 'ws'}://{'localhost' if tls else shown}:{self.port}/"

    def __enter__(self) -> RudeServer:
        thread = threading.Thread(target=self._accept, name="rude-accept", daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End every connection and wait for every behaviour."""
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            sockets, threads = list(self._sockets), list(self._threads)
        for sock in sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)

    def note(self, request: Request) -> None:
        """Record a request and wake who waits for it."""
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[RudeServer], bool], timeout: float = 5.0) -> bool:
        """Wait until a condition on connections, requests or errors holds; False where it did not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                number = self.connections
                self.connections += 1
                self._sockets.append(sock)
                thread = threading.Thread(target=self._serve, args=(sock, number), name="rude-serve", daemon=True)
                self._threads.append(thread)
                self._changed.notify_all()
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        behaviour = self._script[min(number, len(self._script) - 1)]
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._changed:
                    self._sockets.append(sock)
            behaviour(Caller(sock, self, number))
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_WR)
            Caller(sock, self, number).wait_gone()
        except (OSError, EOFError):
            pass
        except BaseException as error:
            with self._changed:
                self.errors.append(error)
                self._changed.notify_all()
        finally:
            sock.close()


# -- building blocks --------------------------------------------------------------------------------------------------


def frame(
    opcode: int,
    payload: bytes = b"",
    fin: bool = True,
    *,
    rsv: int = 0,
    mask: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """
    Build one frame, right or wrong.

    Args:
        opcode: 0 to 15.
        payload: Its bytes.
        fin: Whether the message ends with it.
        rsv: The three reserved bits, 0 to 7.
        mask: A key of four bytes to mask it with, which servers must not.
        length: The length to announce instead of the true one.
    """
    size = len(payload) if length is None else length
    bit = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def close_frame(code: int, reason: str = "") -> bytes:
    """Build a close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


def accept_value(request: Request) -> str:
    """Give the right Sec-WebSocket-Accept for a request."""
    key = (request.get("sec-websocket-key") or "").encode()
    return base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()


def answer(request: Request, *, accept: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Build a 101; without a subprotocol, and right where nothing else is asked for."""
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Accept: {accept_value(request) if accept is None else accept}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def first_offered(request: Request) -> list[tuple[str, str]]:
    """Give the header that chooses the first subprotocol offered, or none."""
    offered = request.get("sec-websocket-protocol")
    return [] if offered is None else [("Sec-WebSocket-Protocol", offered.split(",")[0].strip())]


def accept_upgrade(
    caller: Caller, *, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = (), behind: bytes = b""
) -> Request:
    """
    Read the request and answer it rightly.

    Args:
        subprotocol: The one to choose; None is the first that the client offers.
        headers: More headers for the 101.
        behind: Bytes to send in the same call as the 101.
    """
    request = caller.read_request()
    chosen = first_offered(request) if subprotocol is None else [("Sec-WebSocket-Protocol", subprotocol)]
    caller.send(answer(request, headers=[*chosen, *headers]), behind)
    return request
