"""
One WebSocket connection by websocket-client, on a guarded socket of ours; the only importer of ``websocket``.

``dial`` blocks, inside one deadline, and belongs in a short thread. After it nothing blocks: a selector says when to
call ``receive`` and ``flush``. One thread may receive while another writes. No thread lives here, and no session: what
the messages mean is a dialect's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

import websocket

from resilient_ws.clock import monotonic
from resilient_ws.connecting import Address, Deadline
from resilient_ws.deflating import COMPRESSED, Deflater, Inflater
from resilient_ws.dialling import DialOptions, Endpoint, check_url
from resilient_ws.exceptions import ConnectionLost, HandshakeRejected, NoEndpoint
from resilient_ws.framing import BINARY, CLOSE, MAX_PINGS, PING, PONG, TEXT, Decoder, is_close_code
from resilient_ws.heads import Headers
from resilient_ws.layering import LayeredTLS, pending, shut
from resilient_ws.masking import KEY, framed
from resilient_ws.outgoing import Outgoing
from resilient_ws.racing import first
from resilient_ws.tunnelling import reach
from resilient_ws.upgrade import GuardedSocket

__all__ = ["DialOptions", "Endpoint", "Transport", "check_url", "dial"]

#: Size of one read, and of the largest where a server keeps them full. A TLS record holds 16 KiB at most.
READ_SIZE, MOST_READ = 64 << 10, 512 << 10
_TLS_RECORD = 16 << 10

def dial(url: str, options: DialOptions, cancelled: Callable[[], bool] = lambda: False) -> Transport:
    """
    Resolve, connect, pass the proxy, wrap in TLS and upgrade, within ``options.connect_timeout`` seconds in all.

    Args:
        url: A ``wss://`` URL, or ``ws://`` as :func:`check_url` allows it.
        options: How.
        cancelled: Looked at ten times a second; when it says True the dial ends with ConnectTimeout.

    Returns:
        An upgraded connection; the caller must call ``release`` when no thread uses it any more.

    Raises:
        ValueError: the URL must not be dialled.
        ConnectTimeout: the time passed, or the dial was cancelled.
        NoEndpoint: no address answered.
        ProxyError: the proxy was not reached, or refused.
        HandshakeRejected: TLS or the upgrade failed; its subclass AccessDenied: 401 or 403.
    """
    endpoint = check_url(url, allow_plaintext=options.allow_plaintext)
    deadline = Deadline(monotonic() + options.connect_timeout, cancelled, str(endpoint))
    try:
        return first(endpoint, options, deadline, functools.partial(_open, endpoint, options))
    except (OSError, RuntimeError) as error:
        # No descriptor, no port, no memory, no thread: this machine's trouble, and it may pass.
        raise NoEndpoint(f"{endpoint}: no connection could be opened ({_name(error)})") from None


def _open(endpoint: Endpoint, options: DialOptions, deadline: Deadline, address: Address | None) -> Transport:
    sock = reach(endpoint, options, deadline, address)
    try:
        peer = sock.getpeername()
        guard = GuardedSocket(sock, endpoint, options, deadline)
        _upgrade(guard)
    except BaseException:
        sock.close()
        raise
    return Transport(guard, f"{peer[0]}:{peer[1]}", options.max_message)


def _upgrade(guard: GuardedSocket) -> None:
    # A fixed name in place of the host keeps the library's process-wide cookie jar empty for us; with the secrets left
    # out, its trace log has nothing to tell. The guard puts the real ones in.
    library: Any = websocket.WebSocket(enable_multithread=False)
    try:
        library.connect(
            "ws://upgrade.invalid/",
            socket=guard,
            host=guard.endpoint.authority,
            suppress_origin=True,
            subprotocols=list(guard.options.subprotocols),
            redirect_limit=0,
        )
    except Exception as error:
        if guard.failure is not None:
            raise guard.failure from None
        raise HandshakeRejected(f"{guard.endpoint}: the upgrade failed ({type(error).__name__})") from None


class Transport:
    """
    An upgraded connection.

    Attributes:
        subprotocol: The one that the server chose, or None where none was offered.
        compression: How messages are compressed, or None: not at all.
        headers: Of the server's 101, names in lower case, every Set-Cookie apart.
        peer: Address and port of the other side; of the proxy where there is one.
        last_pong: Payload of the newest pong.
        bytes_received: Read since the upgrade, frames' headers included, TLS not.
        bytes_sent: Written since the upgrade, likewise.
    """

    def __init__(self, guard: GuardedSocket, peer: str, max_message: int) -> None:
        self.subprotocol = guard.subprotocol
        self.compression = guard.compression
        self.headers: Headers = guard.headers
        self.peer = peer
        self.last_pong: bytes | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self._sock = guard.sock
        self._is_tls = isinstance(guard.sock, (ssl.SSLSocket, LayeredTLS))
        agreed = guard.compression
        self._decoder = Decoder(max_message, None if agreed is None else Inflater(agreed))
        self._is_compressible = guard.options.is_compressible
        self._early = guard.rest
        self._read_size = READ_SIZE
        self._lost: ConnectionLost | None = None
        # Guards everything below, and on TLS the socket itself: OpenSSL objects take one thread at a time.
        self._lock = threading.Lock()
        self._out = Outgoing()
        self._deflater = None if agreed is None else Deflater(agreed)
        self._sent_close: tuple[int, str] | None = None
        self._is_half_closed = False
        self._write_error: str | None = None

    def fileno(self) -> int:
        """Give the file descriptor for a selector; -1 after ``release``."""
        return self._sock.fileno()

    @property
    def has_buffered(self) -> bool:
        """Say that ``receive`` has something to give or to raise without another byte from the network."""
        if self._lost is not None or self._early:
            return True
        if not self._is_tls:
            return False
        with self._lock:
            return self._sock.fileno() >= 0 and pending(self._sock) > 0

    def receive(self) -> list[str | bytes]:
        """
        Read once, without waiting, and give every message that is whole.

        Returns:
            Messages in order; empty where none is whole yet.

        Raises:
            ConnectionLost: the connection is over; what was received before has been returned by earlier calls.
        """
        if self._lost is not None:
            raise self._lost
        data = self._read()
        if data is None:
            return []
        self.bytes_received += len(data)
        decoder = self._decoder
        messages = decoder.feed(data)
        if not data:
            self._lost = self._ended(self._write_error or "the server closed the TCP connection without a close frame")
        elif decoder.pings or decoder.pong is not None or decoder.is_over:
            self._answer(decoder)
        if self._lost is not None and not messages:
            raise self._lost
        return messages

    def _read(self) -> bytes | None:
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            if self._is_tls:
                with self._lock:
                    data = self._read_records()
            else:
                data = self._sock.recv(self._read_size)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError) as error:
            self._lost = self._ended(f"the connection broke ({_name(error)})")
            raise self._lost from None
        if len(data) >= self._read_size:
            self._read_size = min(2 * self._read_size, MOST_READ)
        elif len(data) < self._read_size >> 2:
            self._read_size = max(self._read_size >> 1, READ_SIZE)
        return data

    def _read_records(self) -> bytes:
        # One TLS read gives one record; a full one is seldom alone.
        size = min(self._read_size, _TLS_RECORD)
        data = self._sock.recv(size)
        if len(data) < _TLS_RECORD:
            return data
        records = [data]
        with contextlib.suppress(OSError):
            while len(data) == _TLS_RECORD and len(records) * _TLS_RECORD < self._read_size:
                data = self._sock.recv(size)
                records.append(data)
        return b"".join(records)

    def _answer(self, decoder: Decoder) -> None:
        if decoder.pong is not None:
            self.last_pong, decoder.pong = decoder.pong, None
        with self._lock:
            if self._sent_close is None:
                for payload in decoder.pings:
                    self._out.urgent(PONG, _frame(payload, PONG), MAX_PINGS)
            decoder.pings.clear()
            if decoder.failure is not None:
                self._queue_close(*decoder.failure)
            elif decoder.closed is not None:
                self._queue_close(decoder.closed[0], "")
            with contextlib.suppress(ConnectionLost):
                self._push()
        if decoder.failure is not None:
            self._lost = self._ended(f"the server broke RFC 6455: {decoder.failure[1]}")
        elif decoder.closed is not None:
            self._lost = self._ended("the server closed the connection")

    def _ended(self, what: str) -> ConnectionLost:
        rcvd, sent = self._decoder.closed, self._sent_close
        code, reason = rcvd or sent or (1006, "")
        reason = "".join(char for char in reason if char.isprintable())
        said = f": {reason}" if rcvd is not None and reason else ""
        text = f"{self.peer}: {what} (close code {code}{said})"
        return ConnectionLost(text, code=code, reason=reason, rcvd=rcvd, sent=sent)

    # -- writing

    @property
    def wants_write(self) -> bool:
        """Say that something is left to write; call ``flush`` when the selector says writable."""
        return self._out.size > 0 and self._write_error is None

    @property
    def buffered_bytes(self) -> int:
        """Count the bytes that were accepted and not yet handed to the system."""
        return self._out.size

    def write(self, messages: Sequence[str | bytes]) -> bool:
        """
        Frame the messages, each a text or a binary one, and send what goes out without waiting.

        Where compression was agreed, those that ``DialOptions.is_compressible`` allows are compressed.

        Returns:
            True when all is out; False when ``flush`` must be called later, or when the connection turned out dead:
            then ``receive`` gives what the server still said, its close frame with it, and raises.

        Raises:
            ConnectionLost: the connection is closing, or ``receive`` has said that it is over.
        """
        if self._deflater is not None:
            return self._write_deflated(self._deflater, messages)
        parts = [(TEXT, message.encode()) if isinstance(message, str) else (BINARY, message) for message in messages]
        frames = _framed(parts)
        with self._lock:
            return self._queue(frames)

    def _queue(self, frames: list[bytes]) -> bool:
        if self._sent_close is not None:
            raise self._ended("nothing can be written after our close frame")
        if self._lost is not None:
            raise self._lost
        if self._write_error is None:
            self._out.extend(frames)
        return self._push()

    def _write_deflated(self, deflater: Deflater, messages: Sequence[str | bytes]) -> bool:
        allowed = self._is_compressible
        parts: list[tuple[bytes, int, bool]] = []
        for message in messages:
            opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
            parts.append((payload, opcode, allowed is None or allowed(message)))
        with self._lock:  # the order in which messages are compressed is the order in which the server inflates them
            try:
                return self._queue(_framed([_packed(deflater, *part) for part in parts]))
            except BaseException:
                deflater.forget()  # what is compressed and does not go out must not be referred to
                raise

    def flush(self) -> bool:
        """
        Write what is left, without waiting.

        Returns:
            True when nothing is left; otherwise as :meth:`write`.

        Raises:
            ConnectionLost: ``receive`` has said that the connection is over.
        """
        with self._lock:
            return self._push()

    def ping(self, payload: bytes = b"") -> None:
        """
        Send a WebSocket ping, before what waits; an earlier one that is not out yet is replaced.

        The answer shows in ``last_pong``. A dead connection shows in ``receive``.
        """
        if len(payload) > 125:
            raise ValueError(f"a ping carries at most 125 bytes, not {len(payload)}")
        with self._lock:
            if self._sent_close is None:
                self._out.urgent(PING, _frame(payload, PING))
                with contextlib.suppress(ConnectionLost):
                    self._push()

    def _push(self) -> bool:
        if self._write_error is not None:
            if self._lost is not None:
                raise self._lost
            return False
        try:
            while piece := self._out.piece():
                sent = self._sock.send(piece)
                self.bytes_sent += sent
                self._out.advance(sent)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError) as error:
            # Nobody knows how much of the last frame is out: nothing may follow it. What the server said before, why
            # it left perhaps, is still to be read; the shutdown makes sure that the reading side comes to the end.
            self._write_error = f"the connection broke in a write ({_name(error)})"
            self._shutdown(socket.SHUT_RDWR)
            return False
        if self._sent_close is not None and not self._is_half_closed:
            self._is_half_closed = True
            self._shutdown(socket.SHUT_WR)
        return True

    # -- ending

    def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Queue a close frame behind what waits; never blocks.

        When the frame is out our side of the TCP connection is shut. Go on calling ``flush`` while ``wants_write``, and
        ``receive`` until it raises; a server that never answers needs a deadline and ``shut``.

        Args:
            code: 1000, or another that a close frame may carry.
            reason: Cut to 123 bytes of UTF-8.
        """
        if not is_close_code(code):
            raise ValueError(f"{code} is not a code that a close frame may carry")
        with self._lock:
            self._queue_close(code, reason)
            with contextlib.suppress(ConnectionLost):
                self._push()

    def _queue_close(self, code: int, reason: str) -> None:
        if self._sent_close is not None:
            return
        text = reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore")
        self._sent_close = (code, text)
        # 1005 is what we call an empty close frame; its answer is empty too.
        payload = b"" if code == 1005 else code.to_bytes(2, "big") + text.encode()
        self._out.extend([_frame(payload, CLOSE)])

    def shut(self) -> None:
        """End the connection at once; safe, and wakes a selector, while other threads use it."""
        self._shutdown(socket.SHUT_RDWR)

    def _shutdown(self, how: int) -> None:
        with contextlib.suppress(OSError):
            shut(self._sock, how)

    def release(self) -> None:
        """Close the file descriptor; only when no thread uses the connection any more. May be called again."""
        self._sock.close()


def _framed(messages: Sequence[tuple[int, bytes]]) -> list[bytes]:
    return framed(messages, os.urandom(KEY * len(messages)))


def _frame(payload: bytes, opcode: int) -> bytes:
    return _framed([(opcode, payload)])[0]


def _packed(deflater: Deflater, payload: bytes, opcode: int, is_compressible: bool) -> tuple[int, bytes]:
    small = deflater.deflate(payload) if is_compressible else None
    return (opcode, payload) if small is None else (opcode | COMPRESSED, small)


def _name(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
