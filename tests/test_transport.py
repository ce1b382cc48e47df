"""The transport where everything goes well, its pure parts, and what the caller may not say."""

from __future__ import annotations

import functools
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_ws import connecting
from resilient_ws import transport as transport_module
from resilient_ws.dialling import STAGGER
from resilient_ws.exceptions import ConnectionLost, ConnectTimeout, HandshakeRejected, NoEndpoint
from resilient_ws.framing import Decoder
from resilient_ws.transport import DialOptions, check_url, dial
from resilient_ws.upgrade import parse_retry_after
from server_fixture.link import Proxy
from server_fixture.rude import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Caller,
    RudeServer,
    accept_upgrade,
    after_upgrade,
    close_frame,
    echo,
    frame,
)
from tests.transport_tools import PATIENCE, black_hole, certified, closed_port, collect, dialled, ending

# -- one connection ---------------------------------------------------------------------------------------------------


def test_echo() -> None:
    """Texts and binaries of every size class come back as what they were, in order."""
    messages: list[str | bytes] = [
        "",
        "text \u20ac",
        b"",
        b"\x00\xff",
        "x" * 125,
        b"y" * 126,
        "z" * 65535,
        b"w" * 65536,
    ]
    with RudeServer(echo) as server, dialled(server.url) as transport:
        transport.write(messages)
        assert collect(transport, len(messages)) == messages
        assert transport.bytes_sent - 4 * len(messages) == transport.bytes_received
        assert (transport.buffered_bytes, transport.wants_write) == (0, False)


def test_upgrade_carries_what_was_said() -> None:
    """Path, query, headers, cookies, origin and subprotocols arrive as the caller gave them, each once."""
    options: dict[str, Any] = {
        "headers": {"Authorization": "Bearer b", "X-Own": "own \u20ac", "Cookie": "a=1"},
        "subprotocols": ("resilient.v1", "other"),
        "cookie": "b=2",
        "origin": "https://app.example",
    }
    with RudeServer(echo) as server:
        with dialled(f"{server.url}feed/a?token=t&x=%20", **options) as transport:
            assert transport.subprotocol == "resilient.v1"
            assert ("sec-websocket-protocol", "resilient.v1") in transport.headers
            assert transport.peer == f"127.0.0.1:{server.port}"
        request = server.requests[0]
    assert request.line == "GET /feed/a?token=t&x=%20 HTTP/1.1"
    headers = dict(request.headers)
    assert len(headers) == len(request.headers)
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert headers["authorization"] == "Bearer b"
    assert headers["x-own"] == "own \u20ac".encode().decode("latin-1")
    assert headers["cookie"] == "a=1; b=2"
    assert headers["origin"] == "https://app.example"
    assert headers["sec-websocket-version"] == "13"


def test_no_origin_unless_told() -> None:
    """Without ``origin=`` there is no Origin header: we are no browser."""
    with RudeServer(echo) as server, dialled(server.url):
        assert server.requests[0].get("origin") is None


def test_set_cookie_headers_stay_apart() -> None:
    """Two Set-Cookie headers are two entries, byte for byte, in the answer that is kept and in the callback."""
    told: list[tuple[int, list[tuple[str, str]]]] = []
    cookies = [("Set-Cookie", "AWSALB=a; Path=/"), ("set-cookie", "b=2, 3; Expires=Wed, 21 Oct 2026 07:28:00 GMT")]
    with RudeServer(lambda caller: accept_upgrade(caller, headers=cookies)) as server:
        with dialled(server.url, on_response=lambda status, headers: told.append((status, headers))) as transport:
            kept = [value for name, value in transport.headers if name == "set-cookie"]
            assert kept == [value for _, value in cookies]
            assert told == [(101, transport.headers)]


def test_interim_answers_are_skipped() -> None:
    """A 103 before the 101 is not the answer."""

    def early_hints(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        accept_upgrade(caller)

    with RudeServer(early_hints) as server, dialled(server.url) as transport:
        assert dict(transport.headers)["upgrade"] == "websocket"


def test_H20_frames_behind_the_101_are_kept() -> None:
    """What arrives in the same segment as the 101 is received, without waiting for more bytes."""
    behind = frame(TEXT, b"first") + frame(BINARY, b"second") + frame(TEXT, b"third")[:4]

    def behave(caller: Caller) -> None:
        accept_upgrade(caller, behind=behind)
        caller.wait_gone()

    with RudeServer(behave) as server, dialled(server.url) as transport:
        if transport.has_buffered:  # the kernel may still have split them
            assert transport.receive() == ["first", b"second"]
            assert not transport.has_buffered
        else:
            assert collect(transport, 2) == ["first", b"second"]


def test_receive_never_waits() -> None:
    """With nothing there ``receive`` gives an empty list at once."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        started = time.monotonic()
        assert transport.receive() == []
        assert time.monotonic() - started < 1.0


def test_ping_is_answered_and_pong_is_kept() -> None:
    """A server's ping gets its pong without anybody asking; our ping's answer shows in ``last_pong``."""
    seen: list[tuple[int, bytes]] = []

    def ping_first(caller: Caller) -> None:
        accept_upgrade(caller, behind=frame(PING, b"are you there"))
        seen.append(caller.read_frame())
        seen.append(caller.read_frame())
        caller.send(frame(PONG, dict(seen)[PING]), frame(TEXT, b"over"))
        caller.wait_gone()

    with RudeServer(ping_first) as server, dialled(server.url) as transport:
        assert transport.last_pong is None
        transport.ping(b"and you")
        assert collect(transport, 1) == ["over"]
        assert transport.last_pong == b"and you"
    assert sorted(seen) == [(PING, b"and you"), (PONG, b"are you there")]


def test_close_is_answered_with_both_frames_kept() -> None:
    """Our close frame goes out behind the messages, and the server's answer ends the connection."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        transport.write(["last"])
        transport.close(4000, "done \u20ac" * 30)
        messages, lost = ending(transport)
        assert messages == ["last"]
        assert lost.sent is not None
        assert lost.sent[0] == 4000
        assert len(lost.sent[1].encode()) <= 123
        assert (lost.code, lost.rcvd) == (4000, lost.sent)
        with pytest.raises(ConnectionLost):
            transport.write(["too late"])
        with pytest.raises(ConnectionLost):
            transport.receive()


def test_close_shuts_our_side() -> None:
    """After our close frame the server sees FIN, also when it never answers."""
    ended = threading.Event()

    def read_to_end(caller: Caller) -> None:
        accept_upgrade(caller)
        while caller.read_frame()[0] != CLOSE:
            pass
        with pytest.raises(EOFError):
            caller.read(1)
        ended.set()

    with RudeServer(read_to_end) as server, dialled(server.url) as transport:
        transport.close(1000)
        assert ended.wait(PATIENCE)
        assert server.errors == []


def test_server_close_is_reported_after_the_messages() -> None:
    """Messages before the close frame come first; then code and reason, control characters removed; then nothing."""
    parts = frame(TEXT, b"first") + close_frame(4409, "by\tinstance") + frame(TEXT, b"ignored")
    with RudeServer(after_upgrade(parts)) as server, dialled(server.url) as transport:
        messages, lost = ending(transport)
        assert messages == ["first"]
        assert (lost.code, lost.reason) == (4409, "byinstance")
        assert lost.rcvd == (4409, "by\tinstance")
        assert lost.sent == (4409, "")
        assert transport.has_buffered


def test_empty_close_frame_is_1005() -> None:
    """A close frame without a code is 1005, and its answer is empty too."""
    answers: list[tuple[int, bytes]] = []

    def close_empty(caller: Caller) -> None:
        accept_upgrade(caller, behind=frame(CLOSE))
        answers.append(caller.read_frame())

    with RudeServer(close_empty) as server:
        with dialled(server.url) as transport:
            assert ending(transport)[1].code == 1005
    assert answers == [(CLOSE, b"")]


def test_release_is_idempotent() -> None:
    """Released twice, the connection has no descriptor, and using it is an error of the connection, not of Python."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        transport.release()
        transport.release()
        transport.shut()
        assert transport.fileno() == -1
        with pytest.raises(ConnectionLost):
            transport.receive()
        with pytest.raises(ConnectionLost):
            transport.write(["x"])


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_close_refuses_codes_that_no_frame_carries(code: int) -> None:
    """A code that must not be sent is a ValueError, and the connection goes on."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        with pytest.raises(ValueError, match=str(code)):
            transport.close(code)
        transport.write(["still open"])
        assert collect(transport, 1) == ["still open"]


def test_lone_surrogate_is_refused_before_anything_is_queued() -> None:
    """A text that is not Unicode is a ValueError, and nothing of its batch goes out."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        with pytest.raises(ValueError, match="surrogates"):
            transport.write(["fine", "\ud800"])
        assert transport.buffered_bytes == 0
        transport.write(["next"])
        assert collect(transport, 1) == ["next"]


def test_ping_payload_is_bounded() -> None:
    """A ping carries at most 125 bytes."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        with pytest.raises(ValueError, match="126"):
            transport.ping(bytes(126))


def test_two_threads_write_while_one_receives() -> None:
    """Frames of concurrent writers never mix, with a reader at work at the same time."""
    count = 200
    with RudeServer(echo) as server, dialled(server.url) as transport:
        writers = [
            threading.Thread(target=lambda name=name: [transport.write([f"{name}{i}"]) for i in range(count)])
            for name in "ab"
        ]
        for writer in writers:
            writer.start()
        received = collect(transport, 2 * count)
        for writer in writers:
            writer.join(PATIENCE)
    for name in "ab":
        assert [text for text in received if str(text).startswith(name)] == [f"{name}{i}" for i in range(count)]


def test_socket_options() -> None:
    """Nagle is off, TCP keepalive on, and unacked bytes end the connection after 30 s where the system can do that."""
    with RudeServer(echo) as server, dialled(server.url) as transport:
        sock = socket.socket(fileno=socket.dup(transport.fileno()))
        with sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not sock.get_inheritable()
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


# -- reaching ---------------------------------------------------------------------------------------------------------


def addresses(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have these ports of this machine as its addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)


def test_D4_next_address_is_tried_without_waiting_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first address that swallows the SYN costs 250 ms, not the whole time."""
    with RudeServer(echo) as server, black_hole() as dead:
        addresses(monkeypatch, dead, server.port)
        started = time.monotonic()
        with dialled("ws://localhost/"):
            assert STAGGER * 0.9 < time.monotonic() - started < 3.0


def test_refused_address_moves_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first address that refuses costs no stagger."""
    with RudeServer(echo) as server:
        addresses(monkeypatch, closed_port(), server.port)
        started = time.monotonic()
        with dialled("ws://localhost/"):
            assert time.monotonic() - started < STAGGER


def test_D1_name_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is NoEndpoint, worth trying again."""

    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NoEndpoint, match="Temporary failure") as caught:
        dial("wss://no.example/?token=canary", DialOptions())
    assert caught.value.retryable
    assert "canary" not in str(caught.value)


def test_D2_resolver_that_hangs_is_inside_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline holds while ``getaddrinfo`` blocks."""
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: release.wait(PATIENCE) and [])
    started = time.monotonic()
    try:
        with pytest.raises(ConnectTimeout, match="resolving the name"):
            dial("wss://slow.example/", DialOptions(connect_timeout=0.2))
        assert time.monotonic() - started < 2.0
    finally:
        release.set()


def test_cancelled_dial_ends_soon() -> None:
    """A dial that nobody wants any more ends within a glance, long before its deadline."""
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    started = time.monotonic()
    with black_hole() as port, pytest.raises(ConnectTimeout, match="called off"):
        dial(f"ws://127.0.0.1:{port}/", DialOptions(connect_timeout=PATIENCE), cancelled.is_set)
    assert time.monotonic() - started < 2.0


def test_ipv6_loopback() -> None:
    """``ws://[::1]`` is this machine, and the Host header keeps the brackets."""
    try:
        server = RudeServer(echo, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with server, dialled(f"ws://[::1]:{server.port}/") as transport:
        assert server.requests[0].get("host") == f"[::1]:{server.port}"
        assert transport.fileno() >= 0


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certify(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[ssl.SSLContext, ssl.SSLContext]]:
    """A maker of (server's context, context that trusts it) for a name."""
    return functools.partial(certified, tmp_path_factory.mktemp("tls"))


Certify = Callable[[str], tuple[ssl.SSLContext, ssl.SSLContext]]


def test_tls_echo(certify: Certify) -> None:
    """Over TLS large and small messages come back, written by one thread and read by another."""
    server_context, client_context = certify("localhost")
    messages: list[str | bytes] = [b"x" * 300_000, *(f"small {i}" for i in range(100)), b"y" * 300_000]
    with RudeServer(echo, tls=server_context) as server, dialled(server.url, ssl=client_context) as transport:
        writer = threading.Thread(target=lambda: [transport.write([message]) for message in messages])
        writer.start()
        assert collect(transport, len(messages)) == messages
        writer.join(PATIENCE)
        transport.close(1000)
        assert ending(transport)[1].code == 1000


def test_tls_bytes_that_openssl_holds_are_announced(certify: Certify, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenSSL has decrypted and nobody has read shows in ``has_buffered``: no selector would tell."""
    monkeypatch.setattr(transport_module, "READ_SIZE", 7)
    server_context, client_context = certify("localhost")
    parts = frame(TEXT, b"first") + frame(TEXT, b"other")
    with RudeServer(after_upgrade(parts), tls=server_context) as server:
        with dialled(server.url, ssl=client_context) as transport:
            assert collect(transport, 1) == ["first"]
            assert transport.has_buffered
            assert transport.receive() == ["other"]
            assert not transport.has_buffered


def test_tls_partial_write_goes_on(certify: Certify) -> None:
    """Over TLS a write that the system did not take whole is finished by ``flush``, in order, pings before the rest."""
    server_context, client_context = certify("localhost")
    messages: list[str | bytes] = [bytes([i]) * 1_000_000 for i in range(16)]
    with RudeServer(echo, tls=server_context) as server:
        with Proxy("127.0.0.1", server.port) as proxy:
            with dialled(f"wss://localhost:{proxy.port}/", ssl=client_context) as transport:
                proxy.carried[0].c2s.stall()
                assert not transport.write(messages)
                transport.ping(b"between")
                assert transport.wants_write
                assert not transport.flush()
                proxy.carried[0].c2s.heal()
                assert collect(transport, len(messages)) == messages
                assert transport.last_pong == b"between"


def test_tls_shut_never_speaks_in_the_clear(certify: Certify) -> None:
    """After ``shut`` a write fails; it does not go out without TLS, as ``SSLSocket.shutdown`` would have it."""
    server_context, client_context = certify("localhost")
    with RudeServer(echo, tls=server_context) as server, dialled(server.url, ssl=client_context) as transport:
        transport.shut()
        assert not transport.write(["secret"])
        assert ending(transport)[1].code == 1006
        assert getattr(transport._sock, "_sslobj") is not None  # noqa: B009 - None would mean plain text


@pytest.mark.parametrize(("name", "trusts"), [("other.example", True), ("localhost", False)], ids=["L2", "L3"])
def test_L2_L3_bad_certificate_is_refused_before_a_header(certify: Certify, name: str, trusts: bool) -> None:
    """A certificate for another name, or of an unknown authority, is refused; nothing is sent, and again is no use."""
    server_context, client_context = certify(name)
    with RudeServer(echo, tls=server_context) as server:
        with pytest.raises(HandshakeRejected, match="certificate was refused") as caught:
            dial(server.url, DialOptions(ssl=client_context if trusts else None, headers={"Authorization": "canary"}))
        assert not caught.value.retryable
        assert server.requests == []


def test_L4_tls_that_is_never_spoken_is_inside_the_deadline() -> None:
    """A server that accepts and says nothing ends at the deadline."""
    with RudeServer(lambda caller: caller.wait_gone()) as server:
        with pytest.raises(ConnectTimeout, match="speaking TLS"):
            dial(server.url.replace("ws:", "wss:"), DialOptions(connect_timeout=0.2))


def test_default_context_is_shared_and_strict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One context per process: names checked, TLS 1.2 or newer, and no keys written to SSLKEYLOGFILE."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    connecting.default_context.cache_clear()
    context = connecting.default_context()
    assert context is connecting.default_context()
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.keylog_filename is None
    assert ssl.create_default_context().keylog_filename is not None  # what would have happened


# -- what the caller says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("wss://Example.COM/feed?a=b", ("wss", "example.com", 443, "/feed?a=b", "https://example.com:443")),
        ("wss://example.com", ("wss", "example.com", 443, "/", "https://example.com:443")),
        ("WS://localhost:81?x", ("ws", "localhost", 81, "/?x", "http://localhost:81")),
        ("ws://127.9.9.9/", ("ws", "127.9.9.9", 80, "/", "http://127.9.9.9:80")),
        ("ws://[::1]:8080/", ("ws", "::1", 8080, "/", "http://[::1]:8080")),
        ("wss://b\u00fccher.example/\u20ac", ("wss", "xn--bcher-kva.example", 443, "/%E2%82%AC", None)),
    ],
)
def test_check_url_takes_apart(url: str, parts: tuple[Any, ...]) -> None:
    """Scheme and host in lower case, the port filled in, path with query, and the origin for allow-lists."""
    endpoint = check_url(url)
    found = (endpoint.scheme, endpoint.host, endpoint.port, endpoint.path, endpoint.origin)
    assert found[:4] == parts[:4]
    assert parts[4] in (None, found[4])
    assert endpoint.secure == (endpoint.scheme == "wss")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "wss://"),
        ("example.com", "wss://"),
        ("wss://", "wss://"),
        ("wss:///path", "no host"),
        ("wss://exa mple.com/", "control"),
        ("wss://example.com/a\r\nX: canary", "control"),
        ("wss://example.com/\x00", "control"),
        ("wss://user:canary@example.com/", "credentials"),
        ("wss://example.com/#canary", "fragment"),
        ("wss://example.com:99999/", "malformed"),
        ("wss://example.com:0/", "port is 0"),
        ("wss://[::1/", "malformed"),
        ("wss://[zz]/", "malformed"),
        ("wss://exa<mple/", "malformed"),
        ("ws://example.com/?canary", "allow_plaintext"),
        ("ws://127.0.0.1.evil.example/", "allow_plaintext"),
        ("ws://localhost.evil.example/", "allow_plaintext"),
    ],
)
def test_check_url_refuses(url: str, why: str) -> None:
    """What must not be dialled is a ValueError that says why and shows neither credentials nor query."""
    with pytest.raises(ValueError, match=why) as caught:
        check_url(url)
    assert "canary" not in str(caught.value)


def test_plaintext_by_explicit_wish() -> None:
    """``allow_plaintext`` opens ``ws://`` to other hosts."""
    assert check_url("ws://example.com/", allow_plaintext=True).port == 80


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"X-A": "canary\r\nX-B: b"}},
        {"headers": {"X-A": "canary\x00"}},
        {"headers": {"X-A": "canary\n"}},
        {"headers": {"X-A\r\nX-B": "b"}},
        {"headers": {"X A": "b"}},
        {"headers": [("", "b")]},
        {"headers": {"X-A": "\ud800"}},
        {"cookie": "canary=1\r\nX: y"},
        {"origin": "https://a\r\nX: y"},
        {"subprotocols": ("a\r\nX: y",)},
        {"subprotocols": ("a,b",)},
        {"subprotocols": ("a", "a")},
        {"headers": {"Host": "evil"}},
        {"headers": {"UPGRADE": "x"}},
        {"headers": {"Connection": "close"}},
        {"headers": {"Sec-WebSocket-Key": "x"}},
        {"headers": {"sec-websocket-protocol": "x"}},
        {"headers": {"Content-Length": "1"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"connect_timeout": 0},
        {"max_message": 0},
    ],
    ids=str,
)
def test_H23_injection_and_overriding_are_refused(options: dict[str, Any]) -> None:
    """CR, LF, NUL and headers of the upgrade itself are a ValueError that does not show the value."""
    with pytest.raises(ValueError) as caught:
        DialOptions(**options)
    assert "canary" not in str(caught.value)


def test_options_show_no_secret() -> None:
    """The repr of options and endpoint has neither headers nor cookie nor query."""
    shown = repr(DialOptions(headers={"Authorization": "canary"}, cookie="canary")) + repr(check_url("wss://a/?canary"))
    assert "canary" not in shown + str(check_url("wss://a/?canary"))


# -- pure parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        ("99999999999999999999", 3600.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2099 07:27:00 GMT", 3600.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0661", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds and dates are read against the answer's own Date, kept between 0 and an hour; the rest is ignored."""
    assert parse_retry_after([("date", "Wed, 21 Oct 2026 07:28:00 GMT"), ("retry-after", value)]) == seconds


def test_retry_after_date_without_a_date() -> None:
    """Without the answer's Date a date says nothing; no clock of ours is asked."""
    assert parse_retry_after([("retry-after", "Wed, 21 Oct 2099 07:28:00 GMT")]) is None


Part = tuple[bytes, list[Any]]


@st.composite
def server_messages(draw: st.DrawFn) -> Part:
    """Draw one message with its frames: maybe in fragments, with control frames between them."""
    text = draw(st.booleans())
    message: str | bytes = draw(st.text(max_size=40)) if text else draw(st.binary(max_size=200))
    payload: bytes = message.encode() if isinstance(message, str) else message
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = [payload[start:end] for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    wire = b""
    for index, piece in enumerate(pieces):
        opcode = (TEXT if text else BINARY) if index == 0 else CONTINUATION
        wire += frame(opcode, piece, fin=index == len(pieces) - 1)
        if draw(st.booleans()):
            wire += frame(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)))
    return wire, [message]


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(server_messages(), max_size=8), data=st.data())
def test_frames_split_anywhere_decode_as_whole(parts: list[Part], data: st.DataObject) -> None:
    """Messages, fragments and control frames give the same however the bytes are cut into reads."""
    wire = b"".join(part for part, _ in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    decoder = Decoder(1 << 20)
    received: list[Any] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        received += decoder.feed(wire[start:end])
    assert decoder.failure is None
    assert received == [message for _, messages in parts for message in messages]
    assert not decoder.has_partial


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_header_split_anywhere(size: int) -> None:
    """A header of two, four or ten bytes that arrives one byte at a time is the same header."""
    wire, decoder = frame(TEXT, b"x" * size) + frame(BINARY, b"next"), Decoder(1 << 20)
    received = [message for byte in wire[:12] for message in decoder.feed(bytes([byte]))]
    received += decoder.feed(wire[12:])
    assert received == ["x" * size, b"next"]
    assert not decoder.has_partial


@settings(max_examples=300, deadline=None)
@given(reads=st.lists(st.binary(max_size=60), max_size=10), limit=st.integers(1, 100))
def test_any_bytes_end_in_messages_or_a_failure(reads: list[bytes], limit: int) -> None:
    """Bytes of any kind never raise, and no message is above the limit."""
    decoder = Decoder(limit)
    for read in reads:
        for message in decoder.feed(read):
            assert len(message.encode() if isinstance(message, str) else message) <= limit
    if decoder.failure is not None:
        assert decoder.failure[0] in (1002, 1007, 1009)
        assert decoder.feed(frame(TEXT, b"x")) == []


def test_small_fragments_take_linear_time() -> None:
    """A megabyte in fragments of one byte is joined in seconds at most, where joining by copies takes minutes."""
    wire = frame(BINARY, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * ((1 << 20) - 2)
    decoder = Decoder(1 << 20)
    started = time.process_time()
    assert decoder.feed(wire) == []
    assert decoder.feed(frame(CONTINUATION, b"x")) == [b"x" * (1 << 20)]
    assert time.process_time() - started < 10


def test_large_message_in_small_reads_takes_linear_time() -> None:
    """A message of 16 MiB that arrives in reads of 4 KiB is put together without copying it at every read."""
    wire = frame(BINARY, bytes(16 << 20))
    decoder = Decoder(16 << 20)
    started = time.process_time()
    received = [message for start in range(0, len(wire), 4096) for message in decoder.feed(wire[start : start + 4096])]
    assert received == [bytes(16 << 20)]
    assert time.process_time() - started < 2


def test_only_the_transport_imports_websocket() -> None:
    """Everything below the transport is importable without websocket-client."""
    code = (
        "import sys; sys.modules['websocket'] = None; "
        "import resilient_ws.dialling, resilient_ws.connecting, resilient_ws.upgrade, resilient_ws.framing"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
