"""
TLS inside TLS: what is said to a server through the TLS of its proxy.

``ssl`` can wrap a socket once only; the second layer runs over buffers in memory. Nothing here waits: as a non-blocking
``SSLSocket`` does, it raises ``SSLWantReadError`` and ``SSLWantWriteError``. Not for several threads at a time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import TypeVar, Union

_READ = 64 << 10

_T = TypeVar("_T")

#: What bytes go through, non-blocking: TCP, TLS, or TLS inside the TLS of a proxy.
Stream = Union[socket.socket, "LayeredTLS"]


def pending(sock: Stream) -> int:
    """Count the bytes that wait in memory, of which no selector tells."""
    return sock.pending() if isinstance(sock, (ssl.SSLSocket, LayeredTLS)) else 0


def shut(sock: Stream, how: int) -> None:
    """Shut the TCP connection at the bottom; safe while other threads use what is above it."""
    # Not SSLSocket.shutdown: it drops the TLS object, and a thread that reads or writes would go on in plain text.
    socket.socket.shutdown(sock.below if isinstance(sock, LayeredTLS) else sock, how)


class LayeredTLS:
    """
    The part of an ``SSLSocket`` that a connection needs, over an ``SSLSocket``.

    Args:
        outer: Its handshake is done, and it is non-blocking; ``close`` closes it.
        context: Of the inner layer.
        host: Who must answer inside.
    """

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._unsent = b""
        self._accepted: int | None = None

    def fileno(self) -> int:
        """Give the file descriptor for a selector; -1 after ``close``."""
        return self._outer.fileno()

    def getpeername(self) -> tuple[str, int]:
        """Give the address of the proxy."""
        host, port = self._outer.getpeername()[:2]
        return host, port

    def do_handshake(self) -> None:
        """Go on with the inner handshake; call it again after the waits that it asks for."""
        try:
            self._run(self._inner.do_handshake)
        finally:
            self._push_quietly()  # an alert that says why it failed
        self._push()

    def recv(self, size: int) -> bytes:
        """Give at most so many bytes; none at the end."""
        try:
            return self._run(lambda: self._inner.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def send(self, data: Union[bytes, memoryview]) -> int:
        """
        Send the data; after SSLWantWriteError it must be offered again unchanged, as to an ``SSLSocket``.

        Returns:
            How many bytes of it are out: all of them.
        """
        if self._accepted is None:
            self._push()
            self._accepted = self._run(lambda: self._inner.write(data))
        self._push()
        sent, self._accepted = self._accepted, None
        return sent

    @property
    def below(self) -> ssl.SSLSocket:
        """The TLS of the proxy."""
        return self._outer

    def pending(self) -> int:
        """Count the bytes that wait in memory; a selector does not tell of them."""
        return self._inner.pending() + self._incoming.pending + self._outer.pending()

    def close(self) -> None:
        """Close the socket below."""
        self._outer.close()

    def _run(self, call: Callable[[], _T]) -> _T:
        while True:
            try:
                result = call()
                self._push_quietly()
                return result
            except ssl.SSLWantReadError:
                self._push()
                self._pull()

    def _pull(self) -> None:
        data = self._outer.recv(_READ)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _push(self) -> None:
        while self._unsent or self._outgoing.pending:
            # What was offered once stays in front, as the outer layer demands.
            self._unsent += self._outgoing.read()
            self._unsent = self._unsent[self._outer.send(self._unsent) :]

    def _push_quietly(self) -> None:
        try:
            self._push()
        except OSError:
            pass  # what is left goes with the next call, which says what is wrong
