"""A dial through HTTP and HTTPS proxies over real sockets, right and wrong ones; the ids are the fault catalogue's."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import traceback
from typing import Any

import pytest

from resilient_ws import transport as transport_module
from resilient_ws.exceptions import ConnectTimeout, HandshakeRejected, NoEndpoint, ProxyError
from resilient_ws.heads import read_answer
from resilient_ws.transport import DialOptions, dial
from server_fixture import rude
from server_fixture.link import Proxy
from server_fixture.rude import TEXT, Behaviour, RudeServer, after_upgrade, echo, frame
from tests.proxy_tools import OPENED, Tunnels, through
from tests.transport_tools import PATIENCE, black_hole, certified, closed_port, collect, dialled, ending

#: In no source line, so that a traceback that shows one has it from a value.
CANARY = "".join(["cana", "ry"])
SECRETS = {"headers": {"Authorization": f"Bearer {CANARY}", "Cookie": f"a={CANARY}"}}

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """The certificate of a server whose name only the proxy can look up: (server's context, client's context)."""
    return certified(tmp_path_factory.mktemp("tls"), "node.invalid")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """The certificate of the proxy, as ``localhost``."""
    return certified(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every name that this machine looks up."""
    names: list[Any] = []
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: names.append(host) or real(host, *rest))
    return names


def at(proxy: RudeServer, login: str = "") -> dict[str, Any]:
    """Give the options of a dial through a plain proxy that listens here."""
    return through(f"http://{login}127.0.0.1:{proxy.port}")


def failed(behaviour: Behaviour, *, login: str = f"{CANARY}:{CANARY}@", **options: Any) -> ProxyError:
    """Dial through a proxy that does not do it; give why."""
    with RudeServer(behaviour) as proxy:
        with pytest.raises(ProxyError) as caught:
            dial(f"wss://node.invalid/?{CANARY}", DialOptions(**{**at(proxy, login), **SECRETS, **options}))
        assert proxy.errors == []
    text = "".join(traceback.format_exception(caught.value))
    assert CANARY not in text
    assert f"wss://node.invalid through the proxy http://127.0.0.1:{proxy.port} (proxy=)" in text
    return caught.value


# -- a proxy that does it ---------------------------------------------------------------------------------------------


def test_connect_reaches_the_server(looked_up: list[Any]) -> None:
    """The proxy gets a CONNECT with name and port and nothing else, looks up the name, and the server is reached."""
    tunnels = Tunnels()
    with RudeServer(echo) as server, RudeServer(tunnels.connect) as proxy:
        url = f"ws://node.invalid:{server.port}/path"
        with dialled(url, **at(proxy), allow_plaintext=True) as transport:
            transport.write(["text", b"bytes"])
            assert collect(transport, 2) == ["text", b"bytes"]
            assert transport.peer == f"127.0.0.1:{proxy.port}"
            transport.close(1000)
            assert ending(transport)[1].code == 1000
        target = f"node.invalid:{server.port}"
        assert proxy.requests[0].raw == f"CONNECT {target} HTTP/1.1\r\nHost: {target}".encode()
        assert server.requests[0].get("host") == target
    assert "node.invalid" not in looked_up
    assert "127.0.0.1" in looked_up  # the control: the proxy's own address went through the look-up


def test_ipv6_target_is_in_brackets() -> None:
    """An IPv6 address is named to the proxy as in a URL."""
    with RudeServer(rude.status(502)) as proxy, pytest.raises(ProxyError):
        dial("wss://[2001:db8::1]/", DialOptions(**at(proxy)))
    assert proxy.requests[0].line == "CONNECT [2001:db8::1]:443 HTTP/1.1"


def test_P3_credentials_go_to_the_proxy_only(node: Contexts) -> None:
    """The proxy gets its own credentials and nothing of the server's; the server gets nothing of the proxy's."""
    tunnels = Tunnels()
    with RudeServer(echo, tls=node[0]) as server, RudeServer(tunnels.connect) as proxy:
        url = f"wss://node.invalid:{server.port}/?{CANARY}"
        with dialled(url, ssl=node[1], **at(proxy, "user:pass%20word@"), **SECRETS) as transport:
            transport.write([CANARY])
            assert collect(transport, 1) == [CANARY]
        assert proxy.requests[0].get("proxy-authorization") == "Basic dXNlcjpwYXNzIHdvcmQ="
        assert server.requests[0].get("proxy-authorization") is None
        assert server.requests[0].get("authorization") == f"Bearer {CANARY}"
    assert len(tunnels.heard) > 500
    assert CANARY.encode() not in tunnels.heard


def test_P3_control_the_proxy_hears_what_is_said_in_the_clear() -> None:
    """With ``ws://`` and ``allow_plaintext`` the same proxy hears the same secrets: the test above can fail."""
    tunnels = Tunnels()
    with RudeServer(echo) as server, RudeServer(tunnels.connect) as proxy:
        url = f"ws://node.invalid:{server.port}/"
        with dialled(url, allow_plaintext=True, **at(proxy), **SECRETS) as transport:
            transport.write(["x"])
            collect(transport, 1)
    assert CANARY.encode() in tunnels.heard


@pytest.mark.parametrize(
    "opened",
    [
        b"HTTP/1.0 200\r\n\r\n",
        b"HTTP/1.1 204 No Content\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_every_2xx_opens_the_tunnel(opened: bytes) -> None:
    """Whatever form the good answer has, headers of a body mean nothing in it (RFC 9110 section 9.3.6)."""
    with RudeServer(echo) as server, RudeServer(Tunnels(opened=opened).connect) as proxy:
        with dialled(server.url, **at(proxy)) as transport:
            transport.write(["x"])
            assert collect(transport, 1) == ["x"]


def test_wrong_certificate_behind_the_proxy_is_the_servers(node: Contexts) -> None:
    """TLS is spoken with the server, and its certificate checked against its name, not against the proxy's."""
    with RudeServer(echo, tls=node[0]) as server, RudeServer(Tunnels().connect) as proxy:
        with pytest.raises(HandshakeRejected, match=r"other.invalid.* the certificate was refused .* pass ssl="):
            dial(f"wss://other.invalid:{server.port}/", DialOptions(ssl=node[1], **at(proxy)))
        assert server.requests == []


def test_proxies_addresses_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """A black-holed address of the proxy costs a quarter of a second, not the deadline (RFC 8305)."""
    with RudeServer(echo) as server, RudeServer(Tunnels().connect) as proxy, black_hole() as hole:
        found = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port)) for port in (hole, proxy.port)]
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a: real(host, *a) if host[0] == "1" else found)
        started = time.monotonic()
        options = through("http://proxy.invalid:1", allow_plaintext=True)
        with dialled(f"ws://node.invalid:{server.port}/", **options) as transport:
            assert transport.peer == f"127.0.0.1:{proxy.port}"
        assert 0.2 < time.monotonic() - started < 5.0


# -- a proxy that refuses ---------------------------------------------------------------------------------------------

BASIC = [("Proxy-Authenticate", 'Basic realm="x"')]
FOREIGN = [("Proxy-Authenticate", "Negotiate"), ("Proxy-Authenticate", "NTLM"), ("Proxy-Authenticate", f"X{CANARY}")]


@pytest.mark.parametrize(
    ("status", "headers", "login", "is_retryable", "words"),
    [
        (407, BASIC, "", False, "asks who we are and no credentials were sent; name them: http://user:password@host"),
        (407, BASIC, "u:p@", False, "does not accept the credentials that were sent; check user name and password"),
        (407, [], "u:p@", False, "does not accept the credentials that were sent"),
        (407, FOREIGN, "u:p@", False, "asks for Negotiate, NTLM; only Basic is spoken here"),
        (407, FOREIGN[2:], "", False, "asks for a way to log in that is not known; only Basic is spoken here"),
        (403, [], "", False, "does not allow this server"),
        (405, [], "", False, "does not do CONNECT for this server and port"),
        (302, [("Location", f"http://{CANARY}/")], "", False, "a redirect, which is never followed"),
        (101, [], "", False, "no tunnel was opened"),
        (408, [], "", True, "HTTP 408"),
        (429, [], "", True, "HTTP 429"),
        (500, [], "", True, "the proxy is in trouble"),
        (502, [], "", True, "could not reach the server"),
        (503, [], "", True, "could not reach the server"),
        (504, [], "", True, "the server did not answer it in time"),
    ],
)
def test_P1_refusals(status: int, headers: Any, login: str, is_retryable: bool, words: str) -> None:
    """Each answer says what it means, whether credentials were sent, and whether trying again is worth it."""
    error = failed(rude.status(status, headers=headers, body=CANARY.encode()), login=login)
    assert words in str(error)
    assert (error.status, error.retryable, error.definite) == (status, is_retryable, True)


def test_endless_body_of_a_refusal_is_not_read() -> None:
    """A refusal is over with its head."""

    def refuse(caller: rude.Caller) -> None:
        caller.read_request()
        caller.send(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        while not caller.server.stopping.is_set():
            caller.send(bytes(1 << 16))

    started = time.monotonic()
    assert failed(refuse).status == 502
    assert time.monotonic() - started < 5.0


BROKEN: dict[str, tuple[Behaviour, str]] = {
    "closes": (lambda caller: caller.read_request(), "closed the connection before it answered"),
    "resets": (lambda caller: (caller.read_request(), caller.reset()), "closed the connection before it answered"),
    "ssh": (rude.ssh_banner, "does not speak HTTP/1.1; is this the right port"),
    "garbage": (rude.http(b"\x15\x03\x01\x00\x02\x02"), "does not speak HTTP/1.1"),
    "bad_status": (rude.http(b"HTTP/1.1 9999 Odd\r\n\r\n"), "malformed status line"),
    "bad_header": (rude.http(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "malformed header"),
    "endless_line": (rude.endless_header_line, "header line of more than 8192 bytes"),
    "endless_headers": (rude.endless_headers, "more than 100 headers"),
    "endless_1xx": (rude.http(b"HTTP/1.1 100 Continue\r\n\r\n" * 9000), "more than 65536 bytes of headers"),
    "speaks_first": (rude.http(OPENED + b"HTTP/1.1 101"), "behind its answer before anything was asked of the server"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers(name: str) -> None:
    """What is no answer to a CONNECT is a ProxyError within limits, worth another try, without what was said."""
    behaviour, words = BROKEN[name]
    error = failed(behaviour)
    assert words in str(error)
    assert (error.status, error.retryable) == (None, True)


@pytest.mark.parametrize("end", range(len(OPENED)))
def test_answer_that_is_cut(end: int) -> None:
    """A proxy that goes after any byte of its answer did not open a tunnel."""
    assert "closed the connection before it answered" in str(failed(rude.http(OPENED[:end])))


def test_answer_in_any_pieces() -> None:
    """An answer that comes in two pieces, cut anywhere, or byte by byte, is the same answer."""
    answer = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    for pieces in [[answer[:n], answer[n:]] for n in range(1, len(answer))] + [[bytes([byte]) for byte in answer]]:
        assert read_answer(iter(pieces).__next__, ProxyError) == (200, [("a", "b")], b"")


# -- a proxy that is slow, or not there -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "stage"),
    [
        (lambda caller: caller.wait_gone(), "waiting for the proxy's answer to CONNECT"),
        (rude.drip(0.02), "waiting for the proxy's answer to CONNECT"),
        (Tunnels().connect, "speaking TLS with wss://node.invalid"),
    ],
    ids=["accepts", "drips", "server_hangs"],
)
def test_P2_a_proxy_that_hangs_is_inside_the_deadline(behaviour: Behaviour, stage: str) -> None:
    """The dial ends at its deadline, and the error says with whom it was talking about what."""
    with RudeServer(lambda caller: caller.wait_gone()) as server, RudeServer(behaviour) as proxy:
        started = time.monotonic()
        with pytest.raises(ConnectTimeout, match=f"through the proxy http://127.0.0.1.* while {stage}"):
            dial(f"wss://node.invalid:{server.port}/", DialOptions(connect_timeout=0.4, **at(proxy)))
        assert 0.4 <= time.monotonic() - started < 3.0


def test_cancelled_dial_ends_soon() -> None:
    """A dial that nobody wants any more does not wait for the proxy."""
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    started = time.monotonic()
    with RudeServer(lambda caller: caller.wait_gone()) as proxy, pytest.raises(ConnectTimeout, match="called off"):
        dial("wss://node.invalid/", DialOptions(connect_timeout=PATIENCE, **at(proxy)), cancelled.is_set)
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    ("proxy", "words"),
    [("http://127.0.0.1:{port}", "no address answered .*refused"), ("http://proxy.invalid", "the name has no address")],
)
def test_proxy_that_is_not_there(proxy: str, words: str) -> None:
    """A proxy that is not reached is a ProxyError, not a NoEndpoint: it is not the server that is to be looked for."""
    with pytest.raises(ProxyError, match=f"the proxy was not reached: http://.*: {words}") as caught:
        dial("wss://node.invalid/", DialOptions(**through(proxy.format(port=closed_port()))))
    assert caught.value.retryable
    assert not isinstance(caught.value, NoEndpoint)


# -- an https:// proxy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_secure", [True, False], ids=["wss", "ws"])
def test_https_proxy(node: Contexts, local: Contexts, is_secure: bool) -> None:
    """Through TLS to the proxy, messages small and large go both ways, and the close handshake is done."""
    tunnels = Tunnels()
    messages: list[str | bytes] = [b"x" * 700_000, *(f"small {number}" for number in range(100)), b"y" * 70_000]
    tls, options = (node[0], {"ssl": node[1]}) if is_secure else (None, {"allow_plaintext": True})
    with RudeServer(echo, tls=tls) as server, RudeServer(tunnels.connect, tls=local[0]) as proxy:
        way = through(f"https://u:p@localhost:{proxy.port}", proxy_ssl=local[1], **options)
        with dialled(f"ws{'s' * is_secure}://node.invalid:{server.port}/", **way, **SECRETS) as transport:
            writer = threading.Thread(target=lambda: [transport.write([message]) for message in messages])
            writer.start()
            assert collect(transport, len(messages)) == messages
            writer.join(PATIENCE)
            transport.close(1000)
            assert ending(transport)[1].code == 1000
        assert proxy.requests[0].get("proxy-authorization") == "Basic dTpw"
        assert proxy.errors == server.errors == []
    assert (CANARY.encode() in tunnels.heard) is not is_secure


def test_layered_bytes_that_wait_in_memory_are_announced(
    node: Contexts, local: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both layers have decrypted and nobody has read shows in ``has_buffered``, and no longer than it is there."""
    monkeypatch.setattr(transport_module, "READ_SIZE", 7)
    parts = frame(TEXT, b"first") + frame(TEXT, b"other")
    with RudeServer(after_upgrade(parts), tls=node[0]) as server:
        with RudeServer(Tunnels().connect, tls=local[0]) as proxy:
            way = through(f"https://localhost:{proxy.port}", proxy_ssl=local[1], ssl=node[1])
            with dialled(f"wss://node.invalid:{server.port}/", **way) as transport:
                assert collect(transport, 1) == ["first"]
                assert transport.has_buffered
                assert transport.receive() == ["other"]
                assert not transport.has_buffered


def test_layered_partial_write_goes_on(node: Contexts, local: Contexts) -> None:
    """A write that the system did not take whole is finished by ``flush``, in order, pings before the rest."""
    messages: list[str | bytes] = [bytes([i]) * 1_000_000 for i in range(12)]
    with RudeServer(echo, tls=node[0]) as server, RudeServer(Tunnels().connect, tls=local[0]) as proxy:
        with Proxy("127.0.0.1", proxy.port) as wire:
            way = through(f"https://localhost:{wire.port}", proxy_ssl=local[1], ssl=node[1])
            with dialled(f"wss://node.invalid:{server.port}/", **way) as transport:
                wire.carried[0].c2s.stall()
                assert not transport.write(messages)
                transport.ping(b"between")
                assert transport.wants_write
                assert not transport.flush()
                wire.carried[0].c2s.heal()
                assert collect(transport, len(messages)) == messages
                assert transport.last_pong == b"between"


def test_layered_shut_never_speaks_in_the_clear(node: Contexts, local: Contexts) -> None:
    """After ``shut`` a write fails, and both layers are still there."""
    tunnels = Tunnels()
    with RudeServer(echo, tls=node[0]) as server, RudeServer(tunnels.connect, tls=local[0]) as proxy:
        way = through(f"https://localhost:{proxy.port}", proxy_ssl=local[1], ssl=node[1])
        with dialled(f"wss://node.invalid:{server.port}/", **way) as transport:
            transport.shut()
            assert not transport.write([CANARY])
            assert ending(transport)[1].code == 1006
    assert CANARY.encode() not in tunnels.heard


@pytest.mark.parametrize("given", ["none", "ssl", "other"])
def test_https_proxy_with_a_bad_certificate(node: Contexts, local: Contexts, given: str) -> None:
    """A proxy that nobody vouches for, as the context for the server does not, is refused before a header leaves."""
    way = {"none": {}, "ssl": {"ssl": local[1]}, "other": {"proxy_ssl": node[1]}}[given]
    with RudeServer(Tunnels().connect, tls=local[0]) as proxy:
        with pytest.raises(ProxyError, match=r"the certificate was refused .* pass proxy_ssl= with") as caught:
            dial("wss://node.invalid/", DialOptions(**through(f"https://u:p@localhost:{proxy.port}"), **way))
        assert not caught.value.retryable
        assert proxy.requests == []


def test_https_to_a_plain_proxy() -> None:
    """A proxy that does not speak TLS is said so."""
    with RudeServer(lambda caller: caller.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as proxy:
        with pytest.raises(ProxyError, match="no TLS session"):
            dial("wss://node.invalid/", DialOptions(**through(f"https://127.0.0.1:{proxy.port}")))
