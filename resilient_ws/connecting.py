"""
From an endpoint to a connected socket: name, TCP, TLS, all inside one deadline.

Nothing of HTTP or WebSocket is known here: the upgrade is upgrade.py's. Every address of a name is tried; the next one
starts 250 ms after the one before it without waiting for that to fail, IPv6 and IPv4 in turn (RFC 8305), so one
black-holed address does not eat the time of the others. Sockets that leave this module are non-blocking.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import queue
import selectors
import socket
import ssl
import threading
from collections.abc import Callable

import attrs

from resilient_ws.clock import monotonic
from resilient_ws.dialling import STAGGER
from resilient_ws.exceptions import ConnectTimeout, HandshakeRejected, NoEndpoint
from resilient_ws.hosts import Place
from resilient_ws.layering import LayeredTLS, Stream

#: How often a dial looks whether it was cancelled.
_GLANCE = 0.1
# macOS has the first under the second name.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPALIVE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_USER_TIMEOUT_MS = 30_000

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


@attrs.define
class Deadline:
    """
    The total time of one dial, and whether somebody has called it off.

    Attributes:
        at: Monotonic instant at which it is over.
        cancelled: Looked at ten times a second.
        stage: What the dial is doing, for the error's text.
    """

    at: float
    cancelled: Callable[[], bool]
    where: str
    stage: str = "resolving the name"

    def remaining(self) -> float:
        """
        Give the seconds left, always above 0.

        Raises:
            ConnectTimeout: nothing is left, or the dial was cancelled.
        """
        if self.cancelled():
            raise ConnectTimeout(f"{self.where}: the attempt was called off while {self.stage}")
        left = self.at - monotonic()
        if left <= 0:
            raise ConnectTimeout(
                f"{self.where}: connect_timeout passed while {self.stage}; raise it or try another endpoint"
            )
        return left

    def wait(self, sock: Stream, event: int) -> None:
        """Wait until the socket is ready; raises as :meth:`remaining` does."""
        with selectors.DefaultSelector() as selector:
            selector.register(sock.fileno(), event)
            while not selector.select(min(self.remaining(), _GLANCE)):
                pass


# -- name, TCP, TLS ---------------------------------------------------------------------------------------------------


def resolve(place: Place, family: int, deadline: Deadline) -> list[Address]:
    """
    Look up every address of a host, IPv6 and IPv4 in turn.

    The lookup runs in a daemon thread of its own: it cannot be interrupted, and may take longer than anybody waits.

    Raises:
        NoEndpoint: the name has no address.
        ConnectTimeout: the deadline passed first.
    """
    answer: queue.SimpleQueue[list[Address] | OSError | UnicodeError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(place.host, place.port, family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            answer.put([(info[0], info[4]) for info in found])  # type: ignore[misc]
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=look_up, name="resilient_ws-resolve", daemon=True).start()
    while True:
        try:
            result = answer.get(timeout=min(deadline.remaining(), _GLANCE))
            break
        except queue.Empty:
            continue
    if isinstance(result, Exception) or not result:
        raise NoEndpoint(f"{place}: the name has no address ({_said(result)}); check its spelling, or the network")
    six = [address for address in result if address[0] == socket.AF_INET6]
    four = [address for address in result if address[0] != socket.AF_INET6]
    if result[0][0] != socket.AF_INET6:
        six, four = four, six
    return [address for pair in itertools.zip_longest(six, four) for address in pair if address is not None]


def _said(result: object) -> str:
    return getattr(result, "strerror", None) or type(result).__name__ if result else "empty answer"


@attrs.define
class _Race:
    """The TCP connects of one dial that are under way."""

    selector: selectors.BaseSelector
    failures: list[str] = attrs.field(factory=list)

    def start(self, address: Address) -> None:
        family, where = address
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self.failures.append(str(error))
            return
        try:
            sock.setblocking(False)
            sock.connect(where)
        except BlockingIOError:
            pass
        except OSError as error:
            sock.close()
            self.failures.append(f"{where[0]}: {error.strerror or error}")
            return
        self.selector.register(sock, selectors.EVENT_WRITE, where)

    def wait(self, timeout: float) -> socket.socket | None:
        for key, _ in self.selector.select(timeout):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            self.selector.unregister(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                return sock
            sock.close()
            self.failures.append(f"{key.data[0]}: {os.strerror(error)}")
        return None

    @property
    def is_idle(self) -> bool:
        return not self.selector.get_map()

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self.selector.close()


def connect(
    place: Place, family: int, deadline: Deadline, address: Address | None = None, stagger: float = STAGGER
) -> socket.socket:
    """
    Reach the first address of a server or a proxy that answers; with ``address`` that one and no other.

    Raises:
        NoEndpoint: no name, or every address refused or is unreachable.
        ConnectTimeout: the deadline passed first.
    """
    waiting = resolve(place, family, deadline) if address is None else [address]
    deadline.stage = "connecting by TCP"
    race = _Race(selectors.DefaultSelector())
    next_at = 0.0
    try:
        while waiting or not race.is_idle:
            now = monotonic()
            if waiting and (now >= next_at or race.is_idle):
                race.start(waiting.pop(0))
                next_at = now + stagger
            sock = race.wait(min(deadline.remaining(), _GLANCE, max(next_at - now, 0.0) if waiting else _GLANCE))
            if sock is not None:
                _tune(sock)
                return sock
        raise NoEndpoint(f"{place}: no address answered ({'; '.join(race.failures)}); is the server running there?")
    finally:
        race.close()


def _tune(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS)):
        if hasattr(socket, name):
            with contextlib.suppress(OSError):  # a system may know the name and not the option
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@functools.cache
def default_context() -> ssl.SSLContext:
    """
    Give the process's one TLS context: system authorities, names checked, TLS 1.2 or newer.

    Built by hand: ``ssl.create_default_context`` would write the session's keys to ``SSLKEYLOGFILE``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def wrap_tls(
    sock: Stream, place: Place, context: ssl.SSLContext | None, deadline: Deadline, argument: str = "ssl"
) -> ssl.SSLSocket | LayeredTLS:
    """
    Speak TLS on a connected socket and check who answers, before a header leaves.

    Args:
        sock: TCP, or the TLS of a proxy, in which the new one is layered; closed where this fails.
        place: Who must answer.
        context: None is :func:`default_context`.
        deadline: Of the dial.
        argument: Which one of ``connect()`` the context comes from, for the error's text.

    Raises:
        HandshakeRejected: the certificate is not good (not retryable), or TLS was not spoken (retryable).
        ConnectTimeout: the deadline passed first.
    """
    deadline.stage = f"speaking TLS with {place}"
    tls = _layer(sock, place.host, context or default_context())
    try:
        _shake_hands(tls, deadline)
    except ssl.SSLCertVerificationError as error:
        tls.close()
        raise HandshakeRejected(
            f"{place}: the certificate was refused ({error.verify_message}); nothing was sent. "
            f"For an own authority pass {argument}= with a context that trusts it",
            retryable=False,
        ) from None
    except OSError as error:
        tls.close()
        raise HandshakeRejected(f"{place}: no TLS session ({error.strerror or type(error).__name__})") from None
    except BaseException:
        tls.close()
        raise
    return tls


def _layer(sock: Stream, host: str, context: ssl.SSLContext) -> ssl.SSLSocket | LayeredTLS:
    if isinstance(sock, ssl.SSLSocket):
        return LayeredTLS(sock, context, host)
    assert isinstance(sock, socket.socket)
    return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)


def _shake_hands(tls: ssl.SSLSocket | LayeredTLS, deadline: Deadline) -> None:
    while True:
        try:
            return tls.do_handshake()
        except ssl.SSLWantReadError:
            deadline.wait(tls, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            deadline.wait(tls, selectors.EVENT_WRITE)


# -- bytes, inside the deadline ---------------------------------------------------------------------------------------


def send_all(sock: Stream, data: bytes, deadline: Deadline) -> None:
    """
    Send everything.

    Raises:
        OSError: the connection broke.
        ConnectTimeout: the deadline passed first.
    """
    left = memoryview(data)
    while left:
        try:
            left = left[sock.send(left) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            deadline.wait(sock, selectors.EVENT_WRITE)
        except ssl.SSLWantReadError:
            deadline.wait(sock, selectors.EVENT_READ)


def receive(sock: Stream, size: int, deadline: Deadline) -> bytes:
    """
    Receive at most so many bytes; none at the end of the connection.

    Raises:
        OSError: the connection broke.
        ConnectTimeout: the deadline passed first.
    """
    while True:
        try:
            return sock.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            deadline.wait(sock, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            deadline.wait(sock, selectors.EVENT_WRITE)
