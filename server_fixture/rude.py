"""
A server that breaks every rule on request, for tests of WebSocket clients: one behaviour per rule.

Standard library only, and never resilient_ws, so that any client's tests can use it. Nothing here is a model to follow:
for a server that keeps the rules see node.py.

    with RudeServer(html_200) as server:
        ...                                   # dial server.url, look at server.requests
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from server_fixture.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Behaviour,
    Caller,
    Request,
    RudeServer,
    accept_upgrade,
    accept_value,
    answer,
    close_frame,
    first_offered,
    frame,
)

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Behaviour",
    "Caller",
    "Request",
    "RudeServer",
    "accept_upgrade",
    "accept_value",
    "accept_wrong_case",
    "after_upgrade",
    "answer",
    "bad_utf8",
    "close_frame",
    "cut_101",
    "drip",
    "echo",
    "endless_fragments",
    "endless_header_line",
    "endless_headers",
    "first_offered",
    "flap",
    "fragmented_control",
    "frame",
    "garbage_frames",
    "html_200",
    "http",
    "huge_body",
    "length_2_62",
    "masked_frame",
    "no_close_after_close",
    "ping_flood",
    "redirect",
    "ssh_banner",
    "status",
    "stop_reading",
    "truncated_utf8",
    "unasked_extension",
    "unasked_subprotocol",
    "upgrade_never",
    "wrong_accept",
]


def after_upgrade(*parts: bytes, then: Behaviour | None = None) -> Behaviour:
    """Make a behaviour that upgrades rightly, sends these bytes one call each, and waits, or goes on with ``then``."""

    def behave(caller: Caller) -> None:
        accept_upgrade(caller)
        for part in parts:
            caller.send(part)
        (then or Caller.wait_gone)(caller)

    return behave


def echo(caller: Caller) -> None:
    """Upgrade and send every message back; answer pings and the close frame as a good server does."""
    accept_upgrade(caller)
    while True:
        opcode, payload = caller.read_frame()
        caller.send(frame(PONG if opcode == PING else opcode, payload) if opcode != PONG else b"")
        if opcode == CLOSE:
            return


# -- behaviours: HTTP -------------------------------------------------------------------------------------------------


def upgrade_never(caller: Caller) -> None:
    """Read the request and never answer."""
    caller.read_request()
    caller.wait_gone()


def status(code: int, *, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> Behaviour:
    """Answer with a status, headers and a body."""
    lines = [f"HTTP/1.1 {code} Rude", f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers)]
    return http("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)


def http(*parts: bytes) -> Behaviour:
    """Answer with these very bytes, one call each."""

    def behave(caller: Caller) -> None:
        caller.read_request()
        for part in parts:
            caller.send(part)

    return behave


def redirect(url: str, code: int = 302) -> Behaviour:
    """Answer with a redirect."""
    return status(code, headers=[("Location", url)])


#: A captive portal: 200 and a page.
html_200 = status(200, headers=[("Content-Type", "text/html")], body=b"<html>Please log in</html>")

#: Not HTTP at all.
ssh_banner = http(b"SSH-2.0-OpenSSH_9.6\r\n")


def _upgrade_with(change: Callable[[Request], bytes]) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.send(change(caller.read_request()))
        caller.wait_gone()

    return behave


#: A Sec-WebSocket-Accept that answers another key.
wrong_accept = _upgrade_with(lambda request: answer(request, accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))

#: The right one with upper and lower case exchanged, which Base64 makes a wrong one.
accept_wrong_case = _upgrade_with(lambda request: answer(request, accept=accept_value(request).swapcase()))

#: A subprotocol that nobody offered.
unasked_subprotocol = _upgrade_with(lambda request: answer(request, headers=[("Sec-WebSocket-Protocol", "unasked")]))

#: An extension that nobody offered.
unasked_extension = _upgrade_with(
    lambda request: answer(request, headers=[("Sec-WebSocket-Extensions", "permessage-deflate")])
)


def cut_101(count: int) -> Behaviour:
    """Send so many bytes of a right 101, then FIN."""

    def behave(caller: Caller) -> None:
        request = caller.read_request()
        caller.send(answer(request, headers=first_offered(request))[:count])

    return behave


def drip(interval: float = 0.05) -> Behaviour:
    """Send a 101 that never ends, one byte at a time."""

    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.send(b"HTTP/1.1 101 Switching Protocols\r\nX-Slow: ")
        while not caller.server.stopping.wait(interval):
            caller.send(b"s")

    return behave


def _for_ever(start: bytes, again: bytes) -> Behaviour:
    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.send(start)
        while not caller.server.stopping.is_set():
            caller.send(again)

    return behave


#: A header line without an end.
endless_header_line = _for_ever(b"HTTP/1.1 101 Switching Protocols\r\nX-Long: ", b"x" * 4096)

#: Headers without an end.
endless_headers = _for_ever(b"HTTP/1.1 101 Switching Protocols\r\n", b"X-Again: and again\r\n" * 10)

#: An error whose body does not end, with a Content-Length that says so.
huge_body = _for_ever(b"HTTP/1.1 500 Rude\r\nContent-Length: 400000000000\r\n\r\n", b"x" * 65536)


# -- behaviours: frames -----------------------------------------------------------------------------------------------

masked_frame = after_upgrade(frame(TEXT, b"masked", mask=b"abcd"))
fragmented_control = after_upgrade(frame(PONG, b"part", fin=False))
length_2_62 = after_upgrade(frame(BINARY, length=1 << 62))
bad_utf8 = after_upgrade(frame(TEXT, b"\xff\xfe"))
truncated_utf8 = after_upgrade(frame(TEXT, "euro \u20ac".encode()[:-1]))
garbage_frames = after_upgrade(bytes(range(0x70, 0xF0)))


def endless_fragments(caller: Caller) -> None:
    """Upgrade and send fragments without an end."""
    accept_upgrade(caller)
    caller.send(frame(BINARY, b"x" * 4096, fin=False))
    while not caller.server.stopping.is_set():
        caller.send(frame(CONTINUATION, b"x" * 4096, fin=False))


def ping_flood(count: int) -> Behaviour:
    """Upgrade, send so many pings, numbered, and one text ``over`` behind them; read nothing before it is out."""

    def behave(caller: Caller) -> None:
        accept_upgrade(caller)
        for number in range(count):
            caller.send(frame(PING, b"%d" % number))
        caller.send(frame(TEXT, b"over"))
        caller.wait_gone()

    return behave


def flap(caller: Caller) -> None:
    """Upgrade and close at once."""
    accept_upgrade(caller)


def no_close_after_close(caller: Caller) -> None:
    """Upgrade, send a close frame, and keep the TCP connection for ever."""
    accept_upgrade(caller, behind=close_frame(1001, "going"))
    caller.wait_gone()
    caller.server.stopping.wait()


def stop_reading(caller: Caller) -> None:
    """Upgrade and never read again; the client's send buffer fills."""
    accept_upgrade(caller)
    caller.server.stopping.wait()
