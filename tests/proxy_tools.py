"""A small proxy for tests: CONNECT, SOCKS5 and SOCKS4 on a raw socket, which keeps every byte that it heard."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import Any

from resilient_ws.proxying import Proxies, check_proxy
from server_fixture.rude import Caller
from tests.transport_tools import PATIENCE

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def through(url: str, **options: Any) -> dict[str, Any]:
    """Give the options of a dial through a proxy."""
    return {"proxies": Proxies(named=check_proxy(url)), **options}


class Tunnels:
    """
    A right proxy: each method is a behaviour for RudeServer. Whatever name is asked for, it is a port of this machine.

    Args:
        login: User name and password that SOCKS5 asks for.
        opened: The answer to a CONNECT that is done.

    Attributes:
        heard: Every byte of the client, those for the server too.
        targets: Host and port of each request.
        replies: Codes with which the next SOCKS requests are refused.
    """

    def __init__(self, *, login: tuple[str, str] | None = None, opened: bytes = OPENED) -> None:
        self.heard = bytearray()
        self.targets: list[tuple[str, int]] = []
        self.replies: list[int] = []
        self._sockets: list[socket.socket] = []
        self._login = login
        self._opened = opened

    def cut_all(self) -> None:
        """End every tunnel."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def connect(self, caller: Caller) -> None:
        """Speak HTTP CONNECT."""
        request = caller.read_request()
        self.heard += request.raw
        host, _, port = request.line.split()[1].rpartition(":")
        self.targets.append((host, int(port)))
        self._relay(caller, self._opened)

    def socks5(self, caller: Caller) -> None:
        """Speak SOCKS5 (RFC 1928, RFC 1929)."""
        _, count = self._read(caller, 2)
        offered = self._read(caller, count)
        wanted = 0 if self._login is None else 2
        caller.send(bytes([5, wanted if wanted in offered else 0xFF]))
        if self._login is not None:
            if wanted not in offered:
                return
            user = self._read(caller, self._read(caller, 2)[1])
            secret = self._read(caller, self._read(caller, 1)[0])
            is_good = (user.decode(), secret.decode()) == self._login
            caller.send(bytes([1, not is_good]))
            if not is_good:
                return
        kind = self._read(caller, 4)[3]
        if kind == 3:
            host = self._read(caller, self._read(caller, 1)[0]).decode()
        else:
            host = socket.inet_ntop(*((socket.AF_INET, self._read(caller, 4)) if kind == 1 else self._six(caller)))
        self.targets.append((host, int.from_bytes(self._read(caller, 2), "big")))
        if self.replies:
            caller.send(bytes([5, self.replies.pop(0), 0, 1]) + bytes(6))
            return
        self._relay(caller, b"\5\0\0\1" + bytes(6))

    def socks4(self, caller: Caller) -> None:
        """Speak SOCKS4 and 4a."""
        head = self._read(caller, 8)
        self._text(caller)
        host = self._text(caller) if head[4:7] == bytes(3) else socket.inet_ntop(socket.AF_INET, head[4:8])
        self.targets.append((host, int.from_bytes(head[2:4], "big")))
        if self.replies:
            caller.send(bytes([0, self.replies.pop(0)]) + bytes(6))
            return
        self._relay(caller, b"\0\x5a" + bytes(6))

    def _read(self, caller: Caller, count: int) -> bytes:
        data = caller.read(count)
        self.heard += data
        return data

    def _six(self, caller: Caller) -> tuple[int, bytes]:
        return socket.AF_INET6, self._read(caller, 16)

    def _text(self, caller: Caller) -> str:
        text = b""
        while (byte := self._read(caller, 1)) != b"\0":
            text += byte
        return text.decode()

    def _relay(self, caller: Caller, answer: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.targets[-1][1])) as server:
            self._sockets += [caller.socket, server]
            caller.send(answer)
            relay(caller.socket, server, self.heard)


def relay(client: socket.socket, server: socket.socket, heard: bytearray) -> None:
    """Carry bytes both ways until both sides have ended, or one is gone."""
    other = {client: server, server: client}
    waiting = {client: bytearray(), server: bytearray()}
    reading = [client, server]
    for sock in reading:
        sock.setblocking(False)
    while reading or any(waiting.values()):
        held = [sock for sock in reading if isinstance(sock, ssl.SSLSocket) and sock.pending()]
        readable, writable, _ = select.select(reading, [s for s in other if waiting[s]], [], 0 if held else PATIENCE)
        if not (readable or writable or held):
            return
        for sock in {*readable, *held}:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                data = sock.recv(1 << 16)
                waiting[other[sock]] += data
                heard += data if sock is client else b""
                if not data:
                    reading.remove(sock)
        for sock in writable:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                del waiting[sock][: sock.send(waiting[sock])]
        for sock in other:
            if other[sock] not in reading and not waiting[sock]:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_WR)
