"""
The HTTP upgrade, guarded: limits, one deadline, exact checks, and nothing secret in the library's hands.

websocket-client writes the request and checks the answer; it does so on a :class:`GuardedSocket` instead of a socket.
The guard puts path, query, cookie and the caller's headers into the request after the library has traced it, reads the
answer itself with limits on lines, headers and time, holds it against RFC 6455 exactly, and hands the library only the
five lines that it validates: never a cookie (its jar is shared by the whole process), never a body, never a redirect.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import re

import attrs

from resilient_ws.connecting import Deadline, receive, send_all
from resilient_ws.deflating import Agreement, BadAnswer, Offer
from resilient_ws.dialling import DialOptions, Endpoint
from resilient_ws.exceptions import AccessDenied, HandshakeRejected
from resilient_ws.heads import Headers, read_answer, values_of
from resilient_ws.layering import Stream
from resilient_ws.treatments import Treatment, treat_status

MAX_RETRY_AFTER = 3600.0
_READ = 4 << 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"\r\nSec-WebSocket-Key: ([^\r\n]+)\r\n")
_COOKIE = re.compile(rb"\r\nCookie:[^\r\n]*")
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


# -- what an answer means (pure) --------------------------------------------------------------------------------------


def parse_retry_after(headers: Headers) -> float | None:
    """
    Read Retry-After as seconds from now.

    A date counts from the answer's own Date header, so that no clock of ours is asked. What cannot be read is ignored,
    what is longer than an hour is an hour.
    """
    values = dict(headers)
    text = values.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER)
    try:
        until = email.utils.parsedate_to_datetime(text)
        seconds = (until - email.utils.parsedate_to_datetime(values.get("date", ""))).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def rejection(endpoint: Endpoint, status: int, headers: Headers) -> HandshakeRejected:
    """Turn an answer that is not 101 into its exception; only the status reaches its text."""
    after = parse_retry_after(headers)
    if status in (401, 403):
        what = "does not know who we are" if status == 401 else "does not allow us in"
        return AccessDenied(
            f"{endpoint}: the server {what} (HTTP {status}); check access_token= or headers=",
            status=status,
            retry_after=after,
        )
    hints = {
        2: "a page instead of a WebSocket: a login portal, or the wrong path",
        3: "a redirect; redirects are never followed because credentials would go along: use the final URL",
        4: "check the URL and what the server expects of a WebSocket client",
    }
    hint = "slow down" if status == 429 else hints.get(status // 100, "the server or its balancer is in trouble")
    return HandshakeRejected(
        f"{endpoint}: the upgrade was answered with HTTP {status} ({hint})",
        status=status,
        retry_after=after,
        retryable=treat_status(status) is Treatment.RETRY,
    )


def accept_key(key: bytes) -> str:
    """Give the Sec-WebSocket-Accept that answers a key."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()


def _list(headers: Headers, name: str) -> list[str]:
    return [item.strip().lower() for value in values_of(headers, name) for item in value.split(",")]


def check_upgrade(
    endpoint: Endpoint, headers: Headers, key: bytes, options: DialOptions
) -> tuple[str | None, Agreement | None]:
    """
    Hold the headers of a 101 against RFC 6455 section 4.1, exactly.

    Returns:
        The subprotocol that the server chose, and how messages are compressed (None: not at all).

    Raises:
        HandshakeRejected: a rule was broken; retryable, except where the server does not speak what was offered.
    """

    def broken(what: str, retryable: bool = True) -> HandshakeRejected:
        return HandshakeRejected(f"{endpoint}: the server's 101 {what}", status=101, retryable=retryable)

    if _list(headers, "upgrade") != ["websocket"] or "upgrade" not in _list(headers, "connection"):
        raise broken("lacks Upgrade: websocket or Connection: Upgrade; something between is not a WebSocket proxy")
    if values_of(headers, "sec-websocket-accept") != [accept_key(key)]:
        raise broken("has a missing or wrong Sec-WebSocket-Accept; the answer is not to our request")
    agreed = _check_extensions(endpoint, headers, options.compression)
    offered, chosen = options.subprotocols, values_of(headers, "sec-websocket-protocol")
    if not offered and not chosen:
        return None, agreed
    if not chosen:
        names = ", ".join(offered)
        raise broken(
            f"chooses no subprotocol: the server does not speak {names}; see the dialect= option", retryable=False
        )
    if len(chosen) != 1 or chosen[0] not in offered:
        raise broken("names a subprotocol that was not offered; see the dialect= option", retryable=False)
    return chosen[0], agreed


def _check_extensions(endpoint: Endpoint, headers: Headers, offer: Offer | None) -> Agreement | None:
    named = values_of(headers, "sec-websocket-extensions")
    try:
        if offer is not None:
            return offer.agree(named)
        if any(_list(headers, "sec-websocket-extensions")):
            raise BadAnswer("names an extension that was not offered")
    except BadAnswer as bad:
        raise HandshakeRejected(f"{endpoint}: the server's 101 {bad}", status=101, retryable=False) from None
    return None


# -- the guard --------------------------------------------------------------------------------------------------------


@attrs.define
class GuardedSocket:
    """
    What websocket-client takes for a socket during the upgrade.

    Attributes:
        sock: The real one, non-blocking.
        headers: Of the answer, names in lower case, in order, repeated ones apart.
        subprotocol: The one that was chosen.
        compression: What was agreed.
        rest: What came behind the answer's head: the first frames.
        failure: What went wrong, in our words; the library may have wrapped it in its own.
    """

    sock: Stream
    endpoint: Endpoint
    options: DialOptions
    deadline: Deadline
    headers: Headers = attrs.field(factory=list, init=False)
    subprotocol: str | None = attrs.field(default=None, init=False)
    compression: Agreement | None = attrs.field(default=None, init=False)
    rest: bytes = attrs.field(default=b"", init=False)
    failure: BaseException | None = attrs.field(default=None, init=False)
    _key: bytes = attrs.field(default=b"", init=False)
    _told: bytes | None = attrs.field(default=None, init=False)

    # The four methods that the library calls, in both of its supported versions.

    def gettimeout(self) -> float:
        """Say non-blocking, so that the library calls straight through; waiting is done here."""
        return 0.0

    def send(self, data: bytes) -> int:
        """Complete the library's request and send all of it."""
        try:
            self._write(self._complete(data))
        except BaseException as error:
            self.failure = error
            raise
        return len(data)

    def recv(self, size: int) -> bytes:
        """Give the library the few lines that it validates; the first call reads and checks the whole answer."""
        try:
            if self._told is None:
                self._told = self._answer()
        except BaseException as error:
            self.failure = error
            raise
        part, self._told = self._told[:size], self._told[size:]
        return part

    def close(self) -> None:
        """Close the real socket; the library does so when the upgrade fails."""
        self.sock.close()

    def _complete(self, request: bytes) -> bytes:
        found = _KEY.search(request)
        if found is None or not request.startswith(b"GET / HTTP/1.1\r\n") or not request.endswith(b"\r\n\r\n"):
            raise HandshakeRejected(
                "websocket-client wrote an unknown form of request; use a supported version", retryable=False
            )
        self._key = found[1]
        # A cookie that the library adds comes from its jar, which the whole process shares.
        head = _COOKIE.sub(b"", request)[len(b"GET / HTTP/1.1") : -2]
        lines = [f"{name}: {value}" for name, value in self.options.headers if name.lower() != "cookie"]
        if self.options.compression is not None:
            lines.append(f"Sec-WebSocket-Extensions: {self.options.compression.header}")
        if self.options.origin is not None:
            lines.append(f"Origin: {self.options.origin}")
        own = "".join(f"{line}\r\n" for line in lines)
        return f"GET {self.endpoint.path} HTTP/1.1".encode() + head + own.encode() + self._cookie_line() + b"\r\n"

    def _cookie_line(self) -> bytes:
        cookies = [value.encode() for name, value in self.options.headers if name.lower() == "cookie"]
        cookies += [] if self.options.cookie is None else [self.options.cookie.encode()]
        kept = b"" if self.options.cookies is None else self.options.cookies()
        if _UNSAFE.search(kept):
            raise ValueError("a cookie of the jar contains CR, LF, NUL or another control character")
        cookies += [kept] if kept else []
        return b"Cookie: " + b"; ".join(cookies) + b"\r\n" if cookies else b""

    def _write(self, data: bytes) -> None:
        self.deadline.stage = "sending the upgrade"
        try:
            send_all(self.sock, data, self.deadline)
        except OSError as error:
            raise self._broken(f"closed the connection in the upgrade ({_name(error)})") from None

    def _read(self) -> bytes:
        try:
            data = receive(self.sock, _READ, self.deadline)
        except OSError as error:
            raise self._broken(f"closed the connection before it answered the upgrade ({_name(error)})") from None
        if not data:
            raise self._broken("closed the connection before it answered the upgrade")
        return data

    def _broken(self, what: str) -> HandshakeRejected:
        return HandshakeRejected(f"{self.endpoint}: the server {what}")

    # -- the answer

    def _answer(self) -> bytes:
        self.deadline.stage = "waiting for the answer to the upgrade"
        status, self.headers, self.rest = read_answer(self._read, self._broken)
        if self.options.on_response is not None:
            self.options.on_response(status, list(self.headers))
        if status != 101:
            raise rejection(self.endpoint, status, self.headers)
        self.subprotocol, self.compression = check_upgrade(self.endpoint, self.headers, self._key, self.options)
        told = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        told.append(b"Sec-WebSocket-Accept: " + accept_key(self._key).encode())
        if self.subprotocol is not None:
            told.append(b"Sec-WebSocket-Protocol: " + self.subprotocol.encode())
        return b"\r\n".join(told) + b"\r\n\r\n"


def _name(error: OSError) -> str:
    return error.strerror or type(error).__name__
