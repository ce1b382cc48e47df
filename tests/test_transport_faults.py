"""The transport against a network and a server that break every rule; the ids are those of the fault catalogue."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket

from resilient_ws.exceptions import AccessDenied, ConnectionLost, ConnectTimeout, HandshakeRejected, NoEndpoint
from resilient_ws.framing import MAX_PINGS
from resilient_ws.transport import DialOptions, dial
from server_fixture import rude
from server_fixture.link import Carried, Proxy
from server_fixture.rude import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Behaviour,
    Caller,
    RudeServer,
    accept_upgrade,
    after_upgrade,
    answer,
    close_frame,
    echo,
    frame,
)
from tests.transport_tools import PATIENCE, black_hole, closed_port, collect, dialled, ending

#: In no source line, so that a traceback that shows one has it from a value.
CANARY = "-".join(["canary", "bird"])


def rejected(behaviour: Behaviour, **options: Any) -> HandshakeRejected:
    """Dial a server that must be rejected; give the exception."""
    with RudeServer(behaviour) as server:
        with pytest.raises(HandshakeRejected) as caught:
            dial(f"{server.url}?token={CANARY}", DialOptions(**{"connect_timeout": PATIENCE, **options}))
        assert server.errors == []
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return caught.value


def lost_to(behaviour: Behaviour, **options: Any) -> tuple[list[str | bytes], ConnectionLost]:
    """Connect and receive until the end; give the messages and how it ended."""
    with RudeServer(behaviour) as server, dialled(server.url, **options) as transport:
        return ending(transport)


# -- TCP --------------------------------------------------------------------------------------------------------------


def test_T1_refused() -> None:
    """A port where nobody listens is NoEndpoint at once, worth trying again."""
    started = time.monotonic()
    with pytest.raises(NoEndpoint, match="refused") as caught:
        dial(f"ws://127.0.0.1:{closed_port()}/", DialOptions())
    assert caught.value.retryable
    assert time.monotonic() - started < 1.0


def test_T2_black_hole() -> None:
    """An address that swallows the SYN ends at the deadline, and there is a default one."""
    started = time.monotonic()
    with black_hole() as port, pytest.raises(ConnectTimeout, match="connecting by TCP"):
        dial(f"ws://127.0.0.1:{port}/", DialOptions(connect_timeout=0.3))
    assert 0.3 <= time.monotonic() - started < 2.0
    assert DialOptions().connect_timeout == 10.0


def test_T4_reset_in_mid_stream() -> None:
    """An RST is one ConnectionLost with code 1006, for the reader and for the writer."""
    with RudeServer(echo) as server, Proxy("127.0.0.1", server.port) as proxy:
        with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
            transport.write(["before"])
            assert collect(transport, 1) == ["before"]
            proxy.carried[0].reset()
            lost = ending(transport)[1]
            assert (lost.code, lost.rcvd, lost.sent) == (1006, None, None)
            with pytest.raises(ConnectionLost):
                transport.write(["after"])


def test_T5_fin_in_mid_frame() -> None:
    """A FIN inside a frame is 1006; whole messages before it arrive, the part of one does not."""
    messages, lost = lost_to(
        lambda caller: accept_upgrade(caller, behind=frame(TEXT, b"whole") + frame(TEXT, b"part")[:4])
    )
    assert messages == ["whole"]
    assert (lost.code, lost.rcvd) == (1006, None)


def test_T11_peer_that_stops_reading() -> None:
    """A write into a full connection does not block; what is left goes out in order when the peer reads again."""
    messages: list[str | bytes] = [bytes([number]) * 500_000 for number in range(32)]
    with RudeServer(echo) as server, Proxy("127.0.0.1", server.port) as proxy:
        with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
            proxy.carried[0].c2s.stall()
            started = time.monotonic()
            assert not transport.write(messages)
            assert not transport.write(["last"])
            assert not transport.flush()
            assert time.monotonic() - started < 2.0
            assert transport.wants_write
            assert transport.buffered_bytes > 1_000_000
            proxy.carried[0].c2s.heal()
            assert collect(transport, len(messages) + 1) == [*messages, "last"]
            assert transport.buffered_bytes == 0


def test_T11_nothing_goes_behind_a_close_frame() -> None:
    """A close frame waits behind what was written before it, and nothing that is written later follows it."""
    frames: list[tuple[int, int]] = []

    def read_all(caller: Caller) -> None:
        accept_upgrade(caller)
        while True:
            opcode, payload = caller.read_frame()
            frames.append((opcode, len(payload)))

    with RudeServer(read_all) as server, Proxy("127.0.0.1", server.port) as proxy:
        with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
            proxy.carried[0].c2s.stall()
            assert not transport.write([bytes(16 << 20)])
            transport.close(1000)
            waiting = transport.buffered_bytes
            with pytest.raises(ConnectionLost, match="after our close frame"):
                transport.write(["too late"])
            transport.ping(b"too late")
            assert transport.buffered_bytes == waiting
            proxy.carried[0].c2s.heal()
            ending(transport)
    assert frames == [(BINARY, 16 << 20), (CLOSE, 2)]


def test_T4_why_the_server_left_is_read_after_a_failed_write() -> None:
    """A server that says why it closes and resets is heard, also when a write finds the connection dead first."""
    gone = threading.Event()

    def close_and_reset(caller: Caller) -> None:
        accept_upgrade(caller)
        caller.read_frame()
        caller.send(frame(TEXT, b"last words"), close_frame(4409, "instance"))
        caller.reset()
        gone.set()

    with RudeServer(close_and_reset) as server, dialled(server.url) as transport:
        transport.write(["go"])
        assert gone.wait(PATIENCE)
        outcomes = [transport.write(["too late"]) for _ in range(3)]
        assert not outcomes[-1]
        assert not transport.wants_write
        messages, lost = ending(transport)
        assert messages == ["last words"]
        assert (lost.code, lost.reason) == (4409, "instance")
        with pytest.raises(ConnectionLost):
            transport.write(["after the end"])


def test_T11_write_error_is_the_end() -> None:
    """After a write that failed half-way nothing more goes out, ever, and the reader hears of it."""
    with RudeServer(echo) as server, Proxy("127.0.0.1", server.port) as proxy:
        with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
            proxy.carried[0].stall()
            assert not transport.write([bytes(32 << 20)])
            sent = transport.bytes_sent
            proxy.carried[0].reset()
            assert not any(transport.flush() or transport.write(["more"]) for _ in range(3))
            assert not transport.wants_write
            assert ending(transport)[1].code == 1006
            with pytest.raises(ConnectionLost):
                transport.flush()
            assert transport.bytes_sent == sent


def test_T12_T13_one_byte_segments_and_a_pause() -> None:
    """Bytes that arrive one at a time, with a pause inside a frame, give the same messages."""
    with RudeServer(after_upgrade(frame(TEXT, b"sliced") + frame(BINARY, b"too"))) as server:
        with Proxy("127.0.0.1", server.port, on_connect=lambda carried: carried.s2c.slice(1)) as proxy:
            with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
                proxy.carried[0].s2c.stall()
                proxy.carried[0].s2c.heal()
                assert collect(transport, 2) == ["sliced", b"too"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
@pytest.mark.parametrize("spare", [0, 1])
def test_T16_no_descriptor_left(spare: int) -> None:
    """Without a free descriptor a dial is NoEndpoint, worth trying again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        taken: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(listener.fileno()))
            for _ in range(spare):
                os.close(taken.pop())
            with pytest.raises(NoEndpoint, match="Too many open files") as caught:
                dial(f"ws://127.0.0.1:{listener.getsockname()[1]}/", DialOptions())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for descriptor in taken:
                os.close(descriptor)
    assert caught.value.retryable


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_T16_no_descriptor_is_kept() -> None:
    """Dials that succeed, are refused, rejected or run out of time leave no descriptor behind."""
    behaviours = [echo, rude.html_200, rude.upgrade_never, rude.flap]
    with RudeServer(behaviours * 5) as server:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with contextlib.suppress(HandshakeRejected, ConnectTimeout), dialled(server.url, connect_timeout=0.1):
                pass
        with pytest.raises(NoEndpoint):
            dial(f"ws://127.0.0.1:{closed_port()}/", DialOptions())
    # The server's own descriptors, closed by now, are not counted: it runs in this process.
    assert len(os.listdir("/proc/self/fd")) <= before


FIRST_FRAMES = frame(TEXT, b"one") + frame(PING, b"p") + frame(TEXT, b"tw", fin=False) + frame(CONTINUATION, b"o")
LAST_FRAME = close_frame(1012, "restart")


@pytest.fixture(scope="module")
def cut_sweep() -> Iterator[tuple[int, Callable[[int, str], tuple[object, list[str | bytes]]]]]:
    """A whole conversation behind a proxy that cuts one direction after k bytes; first the length of the 101."""
    cut: dict[str, int] = {}

    def prepare(carried: Carried) -> None:
        for direction, after in cut.items():
            getattr(carried, direction).cut(after=after)

    with RudeServer(after_upgrade(FIRST_FRAMES, LAST_FRAME)) as server:
        with Proxy("127.0.0.1", server.port, on_connect=prepare) as proxy:

            def run(after: int, direction: str) -> tuple[object, list[str | bytes]]:
                cut.clear()
                cut[direction] = after
                try:
                    with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
                        messages, lost = ending(transport)
                        return lost, messages
                except HandshakeRejected as error:
                    return error, []

            run(10_000, "s2c")
            assert proxy.wait_for(lambda proxy: proxy.carried[0].is_over)
            whole = proxy.carried[0].s2c.passed
            yield whole - len(FIRST_FRAMES) - len(LAST_FRAME), run


def test_T14_server_cut_at_every_byte(cut_sweep: tuple[int, Callable[[int, str], Any]]) -> None:
    """Cut after any byte of handshake and first frames: a typed error, the messages that were whole, never a hang."""
    head, run = cut_sweep
    whole = {head + 5: ["one"], head + len(FIRST_FRAMES): ["one", "two"]}
    expected: list[str] = []
    for after in range(head + len(FIRST_FRAMES) + len(LAST_FRAME) + 1):
        expected = whole.get(after, expected)
        error, messages = run(after, "s2c")
        assert messages == expected, after
        assert error.retryable, after
        if after < head:
            assert isinstance(error, HandshakeRejected), after
        else:
            closed = after == head + len(FIRST_FRAMES) + len(LAST_FRAME)
            assert error.code == (1012 if closed else 1006), after


def test_T14_client_cut_at_every_byte(cut_sweep: tuple[int, Callable[[int, str], Any]]) -> None:
    """Cut after any byte of the request: rejected, worth trying again, and never a hang."""
    _, run = cut_sweep
    outcomes = [run(after, "c2s")[0] for after in range(100)]
    assert all(isinstance(outcome, HandshakeRejected) and outcome.retryable for outcome in outcomes)


def test_T15_close_frame_without_fin_surfaces_at_once() -> None:
    """A server that says goodbye and keeps the TCP connection does not hold back its close frame."""
    started = time.monotonic()
    _, lost = lost_to(rude.no_close_after_close)
    assert (lost.code, lost.reason) == (1001, "going")
    assert time.monotonic() - started < 2.0


def test_T15_protocol_error_without_fin_surfaces_at_once() -> None:
    """A broken rule ends the connection for us, whatever the server does with its TCP connection."""
    server = RudeServer(
        after_upgrade(frame(TEXT, b"good") + frame(3), then=lambda caller: caller.server.stopping.wait())
    )
    started = time.monotonic()
    with server, dialled(server.url) as transport:
        messages, lost = ending(transport)
    assert (messages, lost.code) == (["good"], 1002)
    assert time.monotonic() - started < 2.0


def test_X3_shut_wakes_a_selector_in_another_thread() -> None:
    """``shut`` ends the wait of the thread that selects on the connection, at once."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        outcome: list[tuple[float, ConnectionLost]] = []
        waiting = threading.Event()

        def read() -> None:
            waiting.set()
            lost = ending(transport)[1]
            outcome.append((time.monotonic(), lost))

        reader = threading.Thread(target=read)
        reader.start()
        assert waiting.wait(PATIENCE)
        assert not outcome
        shut_at = time.monotonic()
        transport.shut()
        reader.join(PATIENCE)
        assert outcome[0][0] - shut_at < 1.0
        assert outcome[0][1].code == 1006


# -- HTTP upgrade -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403], ids=["H1", "H2"])
def test_H1_H2_access_denied(status: int) -> None:
    """401 and 403 are AccessDenied, which says what to look at, and are not worth a blind retry."""
    error = rejected(rude.status(status, headers=[("WWW-Authenticate", f"Bearer {CANARY}")], body=CANARY.encode()))
    assert isinstance(error, AccessDenied)
    assert (error.status, error.retryable) == (status, False)
    assert "access_token=" in str(error)


@pytest.mark.parametrize("status", [404, 410, 400, 426], ids=["H3-404", "H3-410", "H4-400", "H4-426"])
def test_H3_H4_wrong_request(status: int) -> None:
    """A wrong URL or request stays wrong."""
    error = rejected(rude.status(status))
    assert (error.status, error.retryable) == (status, False)


@pytest.mark.parametrize("status", [429, 503], ids=["H5", "H6"])
def test_H5_H6_retry_after(status: int) -> None:
    """The server's Retry-After comes with the exception."""
    error = rejected(rude.status(status, headers=[("Retry-After", "7")]))
    assert (error.status, error.retryable, error.retry_after) == (status, True, 7.0)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_H7_server_errors(status: int) -> None:
    """The server's own trouble is worth trying again; without Retry-After nothing is asked for."""
    error = rejected(rude.status(status, body=CANARY.encode()))
    assert (error.status, error.retryable, error.retry_after) == (status, True, None)


def test_H8_captive_portal() -> None:
    """200 with a page is retryable, and nothing of the page is kept."""
    error = rejected(rude.html_200)
    assert (error.status, error.retryable) == (200, True)
    assert "log in" not in str(error)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_H10_redirect_is_not_followed(code: int) -> None:
    """A redirect to another host is an error, and the other host never hears of us."""
    with RudeServer(echo) as other:
        error = rejected(
            rude.redirect(f"ws://localhost:{other.port}/?{CANARY}", code),
            headers={"Authorization": CANARY, "X-Session-Token": CANARY},
            cookie=f"a={CANARY}",
        )
        assert other.connections == 0
    assert (error.status, error.retryable) == (code, False)
    assert "redirect" in str(error)


@pytest.mark.parametrize("location", [[], [("Location", "javascript:alert(1)")], [("Location", "/")]], ids=str)
def test_H11_strange_redirects(location: list[tuple[str, str]]) -> None:
    """A redirect without, or with a strange Location is the same error."""
    assert rejected(rude.status(302, headers=location)).status == 302


NO_ACCEPT = rude.http(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")


@pytest.mark.parametrize(
    "behaviour", [rude.wrong_accept, rude.accept_wrong_case, NO_ACCEPT], ids=["wrong", "case", "none"]
)
def test_H12_accept_key(behaviour: Behaviour) -> None:
    """A Sec-WebSocket-Accept that is missing or wrong is refused, also where only the case differs."""
    error = rejected(behaviour)
    assert (error.status, "Sec-WebSocket-Accept" in str(error)) == (101, True)


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: Upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
        b"Upgrade: websocket\r\nConnection: keep-alive\r\n",
    ],
    ids=["no-upgrade", "no-connection", "other-upgrade", "keep-alive"],
)
def test_H12_upgrade_and_connection(lines: bytes) -> None:
    """A 101 that is not the upgrade to websocket is refused."""

    def behave(caller: Caller) -> None:
        accept = rude.accept_value(caller.read_request()).encode()
        caller.send(b"HTTP/1.1 101 Odd\r\n" + lines + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")

    assert rejected(behave).status == 101


def test_H13_unasked_subprotocol() -> None:
    """A subprotocol that was not offered is refused, with and without an offer."""
    for offered in ((), ("resilient.v1",)):
        error = rejected(rude.unasked_subprotocol, subprotocols=offered)
        assert (error.retryable, "not offered" in str(error)) == (False, True)


def answer_with_subprotocol(name: str) -> Behaviour:
    """Make a behaviour that chooses this subprotocol, whatever was offered."""
    return lambda caller: accept_upgrade(caller, subprotocol=name)


def test_H13_subprotocol_is_exact() -> None:
    """Another case, or two of the offered ones, is no choice."""
    offered = ("resilient.v1", "other")
    for chosen in ("Resilient.v1", "resilient.v1, other"):
        wrong = answer_with_subprotocol(chosen)
        assert not rejected(wrong, subprotocols=offered).retryable


def test_H13_missing_subprotocol_names_the_option() -> None:
    """A server that chooses none does not speak it: the error says so and names ``dialect=``."""
    error = rejected(lambda caller: caller.send(answer(caller.read_request())), subprotocols=("resilient.v1",))
    assert not error.retryable
    assert "resilient.v1" in str(error)
    assert "dialect=" in str(error)


def test_H14_unasked_extension() -> None:
    """An extension that was not offered is refused."""
    assert "extension" in str(rejected(rude.unasked_extension))


@pytest.mark.parametrize("count", [0, 5, 40, 100])
def test_H15_cut_101(count: int) -> None:
    """A 101 that is cut off is worth trying again."""
    error = rejected(rude.cut_101(count))
    assert (error.status, error.retryable) == (None, True)


def test_H15_reset_before_the_answer() -> None:
    """An RST in place of the answer is worth trying again, and is no bare ConnectionResetError."""

    def behave(caller: Caller) -> None:
        caller.read_request()
        caller.reset()

    error = rejected(behave)
    assert (error.status, error.retryable) == (None, True)


@pytest.mark.parametrize(
    "banner",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        bytes(range(128, 256)),
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 1010 No\r\n\r\n",
        b"HTTP/2 101 Odd\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nBad Name: x\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 \xff\xfe\r\nX: \xff\r\n\r\n",
    ],
    ids=str,
)
def test_H16_garbage(banner: bytes) -> None:
    """Whatever is not HTTP is a typed error at once, while the server waits."""

    def behave(caller: Caller) -> None:
        rude.http(banner)(caller)
        caller.wait_gone()

    started = time.monotonic()
    assert rejected(behave).retryable
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    ("behaviour", "limit"),
    [
        pytest.param(rude.endless_header_line, "a header line of more than 8192 bytes", id="line"),
        pytest.param(rude.endless_headers, "more than 100 headers", id="headers"),
    ],
)
def test_H17_endless_head(behaviour: Behaviour, limit: str) -> None:
    """A header line, or headers, without an end are cut off at the limit, in little time and memory."""
    tracemalloc.start()
    try:
        started = time.monotonic()
        error = rejected(behaviour)
        assert time.monotonic() - started < 3.0
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert limit in str(error)


def test_H17_many_bytes_in_few_headers() -> None:
    """The total is limited too: 64 KiB, whatever the lines are."""
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 8000) for number in range(9))
    assert "65536" in str(rejected(rude.http(b"HTTP/1.1 101 OK\r\n" + lines)))


def test_H18_slowloris() -> None:
    """A byte now and then does not prolong the deadline: it is a total."""
    started = time.monotonic()
    with RudeServer(rude.drip(0.02)) as server:
        with pytest.raises(ConnectTimeout, match="waiting for the answer"):
            dial(server.url, DialOptions(connect_timeout=0.4))
    assert 0.4 <= time.monotonic() - started < 2.0


def test_H19_huge_body_is_not_read() -> None:
    """An error's endless body is not read: the status is enough."""
    started = time.monotonic()
    assert rejected(rude.huge_body).status == 500
    assert time.monotonic() - started < 2.0


def test_H22_upgrade_that_is_never_answered() -> None:
    """Silence after the request ends at the deadline."""
    with RudeServer(rude.upgrade_never) as server:
        with pytest.raises(ConnectTimeout, match="waiting for the answer"):
            dial(server.url, DialOptions(connect_timeout=0.3))


def test_H23_nothing_is_dialled_with_an_injection() -> None:
    """CR and LF in the URL are refused before a connection is made (headers: see test_transport.py)."""
    with RudeServer(echo) as server:
        with pytest.raises(ValueError, match="CR, LF"):
            dial(f"{server.url}?a\r\nX-Injected: b", DialOptions())
        assert server.connections == 0


HEADER, COOKIE, QUERY, SET_COOKIE, BODY, MESSAGE = CANARIES = [f"{CANARY}-{number}" for number in range(6)]


@pytest.fixture
def trace() -> Iterator[list[str]]:
    """Everything that the library logs with its trace on."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep()
    websocket.enableTrace(True, handler)
    yield lines
    websocket.enableTrace(False)
    logging.getLogger("websocket").removeHandler(handler)


def secret_options() -> DialOptions:
    """Options with a canary wherever a secret may be."""
    return DialOptions(headers={"Authorization": f"Bearer {HEADER}"}, cookie=f"sid={COOKIE}")


SECRET_COOKIE = [("Set-Cookie", f"sid={SET_COOKIE}; Domain=127.0.0.1")]


def test_H24_no_secret_in_errors_or_trace(trace: list[str]) -> None:
    """With the library's trace on, neither its log nor our errors show a header, cookie, query, body or message."""
    bad = rude.status(401, headers=SECRET_COOKIE, body=BODY.encode())

    def good(caller: Caller) -> None:
        accept_upgrade(caller, headers=SECRET_COOKIE, behind=frame(TEXT, MESSAGE.encode()))

    with RudeServer([good, bad]) as server:
        transport = dial(f"{server.url}?token={QUERY}", secret_options())
        assert collect(transport, 1) == [MESSAGE]
        transport.write([MESSAGE])
        lost = ending(transport)[1]
        transport.release()
        with pytest.raises(AccessDenied) as caught:
            dial(f"{server.url}?token={QUERY}", secret_options())
        assert HEADER.encode() in server.requests[1].raw
    errors = [caught.value, lost]
    shown = [*trace, *map(str, errors), *map(repr, errors), repr(secret_options()), repr(transport)]
    shown += ["".join(traceback.format_exception(error)) for error in errors]
    assert trace
    assert [(canary, text) for canary in CANARIES for text in shown if canary in text] == []


def test_H24_control_the_bare_library_shows_secrets(trace: list[str]) -> None:
    """The check above can fail: used bare, the library logs header, cookie, query and body, or throws them."""
    with RudeServer(rude.status(401, headers=[("Set-Cookie", SET_COOKIE)], body=BODY.encode())) as server:
        bare: Any = websocket.WebSocket()
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            bare.connect(f"{server.url}?{QUERY}", header=[f"Authorization: {HEADER}"], cookie=COOKIE)
    shown = "\n".join([*trace, str(caught.value)])
    assert [canary for canary in CANARIES if canary not in shown] == [MESSAGE]


def test_H21_the_shared_cookie_jar_is_neither_read_nor_written() -> None:
    """What other users of the library have in its jar is not sent, and our cookies do not get there."""
    jar = websocket._handshake.CookieJar
    before = dict(jar.jar)
    try:
        for domain in ("127.0.0.1", "upgrade.invalid"):
            jar.add(f"foreign=canary; Domain={domain}")
        filled = {domain: str(cookie) for domain, cookie in jar.jar.items()}
        with RudeServer(lambda caller: accept_upgrade(caller, headers=SECRET_COOKIE)) as server:
            with dialled(server.url, cookie="own=1"):
                pass
        assert server.requests[0].get("cookie") == "own=1"
        assert b"canary" not in server.requests[0].raw
        assert {domain: str(cookie) for domain, cookie in jar.jar.items()} == filled
    finally:
        jar.jar.clear()
        jar.jar.update(before)


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(frame(TEXT, b"masked", mask=b"abcd"), 1002, id="F1-text"),
        pytest.param(frame(PING, b"masked", mask=b"abcd"), 1002, id="F1-ping"),
        pytest.param(frame(TEXT, b"x", rsv=4), 1002, id="F2-rsv1"),
        pytest.param(frame(BINARY, b"x", rsv=2), 1002, id="F2-rsv2"),
        pytest.param(frame(PONG, b"x", rsv=1), 1002, id="F2-rsv3"),
        pytest.param(frame(3, b"x"), 1002, id="F3-data"),
        pytest.param(frame(11, b"x"), 1002, id="F3-control"),
        pytest.param(frame(PING, b"x", fin=False), 1002, id="F4-ping"),
        pytest.param(frame(PONG, b"x", fin=False), 1002, id="F4-pong"),
        pytest.param(frame(CLOSE, b"\x03\xe8", fin=False), 1002, id="F4-close"),
        pytest.param(frame(PONG, bytes(126)), 1002, id="F5-pong"),
        pytest.param(frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002, id="F5-close"),
        pytest.param(frame(BINARY, length=1 << 62), 1009, id="F6-binary"),
        pytest.param(frame(TEXT, length=(1 << 20) + 1), 1009, id="F6-just-above"),
        pytest.param(frame(BINARY, length=1 << 63), 1002, id="F7"),
        pytest.param(frame(CONTINUATION, b"x"), 1002, id="F10-no-start"),
        pytest.param(frame(CONTINUATION, b"", fin=False), 1002, id="F10-empty"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002, id="F10-interleaved"),
        pytest.param(frame(TEXT, b"a", fin=False) + frame(BINARY, b"b" * 200)[:20], 1002, id="F10-before-it-is-whole"),
        pytest.param(frame(TEXT, b"\xff\xfe"), 1007, id="F11"),
        pytest.param(frame(TEXT, b"\xed\xa0\x80"), 1007, id="F11-surrogate"),
        pytest.param(frame(TEXT, b"\xc0\xaf"), 1007, id="F11-overlong"),
        pytest.param(frame(TEXT, "\u20ac".encode()[:-1]), 1007, id="F12"),
        pytest.param(frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x82"), 1007, id="F12-fragments"),
        pytest.param(frame(CLOSE, b"x"), 1002, id="F16-one-byte"),
        pytest.param(close_frame(1005), 1002, id="F16-1005"),
        pytest.param(close_frame(1006), 1002, id="F16-1006"),
        pytest.param(close_frame(1015), 1002, id="F16-1015"),
        pytest.param(close_frame(999), 1002, id="F16-999"),
        pytest.param(close_frame(1016), 1002, id="F16-1016"),
        pytest.param(close_frame(2999), 1002, id="F16-2999"),
        pytest.param(close_frame(5000), 1002, id="F16-5000"),
        pytest.param(frame(CLOSE, b"\x03\xe8\xff"), 1007, id="F16-utf8"),
    ],
)
def test_F_broken_rule_is_answered(wire: bytes, code: int) -> None:
    """The message before arrives, the server gets a close frame with the right code, and what follows is ignored."""
    answers: list[tuple[int, bytes]] = []

    def behave(caller: Caller) -> None:
        accept_upgrade(caller, behind=frame(TEXT, b"before"))
        caller.send(wire, frame(TEXT, b"after"))
        answers.append(caller.read_frame())

    messages, lost = lost_to(behave)
    assert messages == ["before"]
    assert (lost.code, lost.rcvd) == (code, None)
    assert lost.sent is not None
    assert lost.sent[0] == code
    assert [(opcode, int.from_bytes(payload[:2], "big")) for opcode, payload in answers] == [(CLOSE, code)]
    assert answers[0][1][2:].decode() == lost.sent[1]


@pytest.mark.parametrize(
    ("wire", "messages"),
    [
        pytest.param(rude.frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x82\xac"), ["\u20ac"], id="F13"),
        pytest.param(b"\x81\x7e\x00\x05hello", ["hello"], id="F8-16-bit"),
        pytest.param(b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x02hi", [b"hi"], id="F8-64-bit"),
        pytest.param(frame(BINARY, bytes(1 << 20)), [bytes(1 << 20)], id="F6-just-allowed"),
        pytest.param(
            frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b"), ["ab"], id="F4-between"
        ),
        pytest.param(frame(PONG, b"unasked") + frame(TEXT, b"x"), ["x"], id="F15"),
        pytest.param(frame(TEXT, b"", fin=False) + frame(CONTINUATION) + frame(TEXT), ["", ""], id="F19-empty"),
    ],
)
def test_F_what_is_allowed_is_taken(wire: bytes, messages: list[str | bytes]) -> None:
    """Frames that look odd and keep the rules are messages."""
    with RudeServer(after_upgrade(wire)) as server, dialled(server.url) as transport:
        assert collect(transport, len(messages)) == messages


def test_F6_nothing_is_allocated_for_a_length() -> None:
    """An announced length of 2^62, or of just too much, is refused at the header: no memory is taken for it."""
    tracemalloc.start()
    try:
        assert lost_to(rude.length_2_62)[1].code == 1009
        assert lost_to(after_upgrade(frame(BINARY, length=1 << 30)), max_message=1 << 20)[1].code == 1009
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_F9_endless_fragments() -> None:
    """Fragments without an end are refused when their sum is above the limit, and memory stays near it."""
    tracemalloc.start()
    try:
        messages, lost = lost_to(rude.endless_fragments, max_message=256 << 10)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert (messages, lost.code) == ([], 1009)


def test_F14_ping_flood_is_bounded_and_newest_wins() -> None:
    """Pings whose pongs nobody reads are received at full speed, and at most a few frames wait to go out."""
    count = 20_000
    with RudeServer(rude.ping_flood(count)) as server, Proxy("127.0.0.1", server.port) as proxy:
        with dialled(f"ws://127.0.0.1:{proxy.port}/") as transport:
            proxy.carried[0].c2s.stall()
            assert not transport.write([bytes(8 << 20)])
            before = transport.bytes_sent + transport.buffered_bytes
            assert collect(transport, 1) == ["over"]
            assert transport.buffered_bytes > 1_000_000
            accepted = transport.bytes_sent + transport.buffered_bytes - before
            assert accepted == MAX_PINGS * (2 + 4 + len(str(count - 1)))


def test_F14_pong_goes_before_what_waits() -> None:
    """The pongs of two pings overtake messages that wait, at a frame's end."""
    opcodes: list[tuple[int, bytes]] = []

    def behave(caller: Caller) -> None:
        accept_upgrade(caller)
        caller.send(frame(PING, b"first"), frame(PING, b"newest"), frame(TEXT, b"asked"))
        caller.server.asked.wait(PATIENCE)  # type: ignore[attr-defined]
        opcodes.extend((opcode, payload[:6]) for opcode, payload in (caller.read_frame() for _ in range(5)))

    with RudeServer(behave) as server:
        server.asked = threading.Event()  # type: ignore[attr-defined]
        with dialled(server.url) as transport:
            assert not transport.write([bytes(16 << 20), bytes(16 << 20), "last"])
            assert collect(transport, 1) == ["asked"]
            server.asked.set()  # type: ignore[attr-defined]
            ending(transport)
    assert [opcode for opcode, _ in opcodes] == [BINARY, PONG, PONG, BINARY, TEXT]
    assert [payload for _, payload in opcodes[1:3]] == [b"first", b"newest"]


def test_F17_data_after_close_is_ignored() -> None:
    """What comes behind a close frame is not received, in the same segment or later."""
    messages, lost = lost_to(after_upgrade(frame(TEXT, b"a"), close_frame(1000) + frame(TEXT, b"b"), frame(TEXT, b"c")))
    assert (messages, lost.code) == (["a"], 1000)


def test_C11_flap_is_a_loss_after_a_success() -> None:
    """A server that upgrades and ends at once gives a connection and then its loss, 1006."""
    assert lost_to(rude.flap)[1].code == 1006


def test_garbage_frames_end_the_connection() -> None:
    """Bytes that are no frames end the connection by a rule."""
    assert lost_to(rude.garbage_frames)[1].code == 1002
