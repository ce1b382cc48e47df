"""Endpoints and access tokens over HTTP and from functions: what is asked, what is taken, what is refused, how long."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses

from resilient_ws.advertised import Rules
from resilient_ws.discovery import MAX_BODY, Http, _Watch, fetch_token, find_endpoints
from resilient_ws.exceptions import ConnectError, ConnectTimeout
from resilient_ws.proxying import Proxies, check_proxy
from tests.transport_tools import certified

URL = "https://feed.example/endpoints?key=canary"
TOKENS = "https://auth.example/token?key=canary"
NODES = {"endpoints": [{"url": "wss://n1.feed.example/", "name": "n1", "draining": False}], "ttl": 6}


def rules(*urls: str) -> Rules:
    """Make rules with one endpoint."""
    return Rules.of(urls or ("wss://feed.example/",), (), allow_plaintext=False)


def http(*origins: str, **changes: Any) -> Http:
    """Say how to ask."""
    return Http(origins=frozenset(origins or ("https://feed.example:443",)), **changes)


def find(url: str = URL, token: str | None = None, timeout: float = 5.0, **changes: Any) -> Any:
    """Ask for endpoints."""
    return find_endpoints(url, rules(), http(**changes), token, timeout)


@pytest.fixture
def server() -> Iterator[responses.RequestsMock]:
    """Answer requests without a network."""
    with responses.RequestsMock() as mock:
        yield mock


# -- endpoints --------------------------------------------------------------------------------------------------------


def test_endpoints_over_http(server: responses.RequestsMock) -> None:
    """A GET gives JSON; who is asked at the endpoints' own place gets headers and access token."""
    server.get(URL, json=NODES)
    found = find(token="secret", headers=(("X-Key", "mine"),))
    assert (found.urls, found.ttl) == (("wss://n1.feed.example/",), 6.0)
    sent = server.calls[0].request.headers
    assert (sent["Authorization"], sent["X-Key"], sent["Accept-Encoding"]) == ("Bearer secret", "mine", "identity")


@pytest.mark.parametrize("url", ["https://feed.example:8443/e", "https://other.example/e"])
def test_credentials_go_to_the_endpoints_only(server: responses.RequestsMock, url: str) -> None:
    """Another host or port gets neither headers nor token, although the user named it for discovery."""
    server.get(url, json=NODES)
    find(url, token="secret", headers=(("X-Key", "mine"), ("Cookie", "a=b")))
    assert not {"Authorization", "X-Key", "Cookie"} & server.calls[0].request.headers.keys()


def test_a_netrc_adds_nothing(server: responses.RequestsMock, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """requests would send a password of the user's for the host."""
    (tmp_path / "netrc").write_text("machine feed.example login me password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert requests.utils.get_netrc_auth(URL) == ("me", "canary")
    server.get(URL, json=NODES)
    find()
    assert "Authorization" not in server.calls[0].request.headers


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"status": 500, "body": "canary"}, "HTTP 500"),
        ({"status": 401}, "HTTP 401"),
        ({"status": 204}, "HTTP 204"),
        ({"status": 302, "headers": {"Location": "https://evil.example/"}}, "redirects .HTTP 302."),
        ({"status": 200, "body": ""}, "not JSON"),
        ({"status": 200, "body": "<html>canary</html>"}, "not JSON"),
        ({"status": 200, "body": "[1]"}, "no object"),
        ({"status": 200, "json": {"endpoints": []}}, "names no endpoint"),
        ({"status": 200, "json": {"endpoints": [{"url": "wss://evil.example/?canary"}]}}, "somebody else"),
        ({"status": 200, "json": {"endpoints": [{"url": "ws://feed.example/"}]}}, "in the clear"),
        ({"status": 200, "body": b"x" * (MAX_BODY + 1)}, f"longer than {MAX_BODY}"),
        ({"status": 200, "json": NODES, "headers": {"Content-Encoding": "gzip"}}, "compressed"),
        ({"body": requests.ConnectionError("https://feed.example/?key=canary")}, "could not be reached"),
        ({"body": requests.exceptions.SSLError("canary")}, "certificate"),
        ({"body": requests.ReadTimeout("canary")}, "did not answer in time"),
        ({"body": requests.exceptions.ChunkedEncodingError("canary")}, "ChunkedEncodingError"),
        ({"body": UnicodeError("canary")}, "UnicodeError"),
    ],
)
def test_a_bad_answer_is_a_clear_error(server: responses.RequestsMock, said: dict[str, Any], why: str) -> None:
    """It names the place and the reason; nothing of the answer, and no query, is in it or in what it came from."""
    server.get(URL, **said)
    with pytest.raises(ConnectError, match=why) as caught:
        find()
    assert str(caught.value).startswith("Failover(discover=) https://feed.example")
    assert caught.value.retryable
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "canary" not in repr(chain)
        chain = chain.__cause__ or chain.__context__
    assert len(server.calls) == 1


def test_who_is_not_believed_is_counted(server: responses.RequestsMock) -> None:
    """The others are taken."""
    server.get(URL, json={"endpoints": [{"url": "wss://feed.example/"}, {"url": "wss://evil.example/"}]})
    found = find()
    assert (found.urls, found.ttl, found.refused) == (("wss://feed.example/",), None, 1)


def asked(function: Callable[[], Any]) -> Any:
    """Ask a function for endpoints."""
    return find_endpoints(function, rules(), http(), None, 1.0)


def test_endpoints_of_a_function() -> None:
    """URLs, or URLs and seconds; two URLs in a tuple are two URLs."""
    a, b = "wss://a.example/", "wss://b.example/"
    assert asked(lambda: [a, b]).urls == (a, b)
    assert asked(lambda: ((a, b), 7)).ttl == 7.0
    assert asked(lambda: (a, b)).urls == (a, b)
    assert asked(lambda: iter([a, a])).urls == (a,)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "not NoneType"),
        ("wss://a.example/", "not str"),
        ({"endpoints": []}, "not dict"),
        ([], "names no endpoint"),
        ([1], "as str"),
        (["http://a.example/"], "must start with wss"),
        ((["wss://a.example/"], "soon"), "number of seconds"),
        ((["wss://a.example/"], float("nan")), "number of seconds"),
    ],
)
def test_a_function_that_answers_something_else(said: Any, why: str) -> None:
    """The error names the argument and what came."""
    with pytest.raises(ConnectError, match=rf"Failover\(discover=\): .*{why}"):
        asked(lambda: said)


@pytest.mark.parametrize("failure", [KeyError("canary"), SystemExit(3)])
def test_a_function_that_raises(failure: BaseException) -> None:
    """Its error is the cause, and its text, which may hold a secret, is not repeated."""

    def fails() -> Any:
        raise failure

    with pytest.raises(ConnectError, match=f"failed with {type(failure).__name__}") as caught:
        asked(fails)
    assert caught.value.__cause__ is failure
    assert "canary" not in str(caught.value)


# -- access tokens ----------------------------------------------------------------------------------------------------


def test_a_token_over_http(server: responses.RequestsMock) -> None:
    """A POST as RFC 6749 has it, without the user's headers where that is another place than the endpoints'."""
    server.post(TOKENS, json={"access_token": "abc", "token_type": "bearer", "expires_in": 300})
    assert fetch_token(TOKENS, http(headers=(("X-Key", "mine"),)), 5.0) == ("abc", 300.0)
    sent = server.calls[0].request
    assert sent.body == "grant_type=client_credentials"
    assert "X-Key" not in sent.headers


def test_a_token_where_the_endpoints_are(server: responses.RequestsMock) -> None:
    """There the user's headers say who asks; a token without a time has none."""
    server.post("https://feed.example/token", json={"access_token": "abc"})
    assert fetch_token("https://feed.example/token", http(headers=(("X-Key", "mine"),)), 5.0) == ("abc", None)
    assert server.calls[0].request.headers["X-Key"] == "mine"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "no string `access_token`"),
        ({"access_token": ""}, "empty"),
        ({"access_token": "canary\r\nX: y"}, "printable ASCII"),
        ({"access_token": "c" * 16385}, "longer"),
        ({"access_token": "canary", "token_type": "mac"}, "not Bearer"),
        ({"access_token": "canary", "token_type": 1}, "not Bearer"),
        ({"access_token": "canary", "expires_in": 0}, "`expires_in`"),
        ({"access_token": "canary", "expires_in": "300"}, "`expires_in`"),
    ],
)
def test_what_is_no_token(server: responses.RequestsMock, said: dict[str, Any], why: str) -> None:
    """The error says what is wrong with the answer and never shows it."""
    server.post(TOKENS, json=said)
    with pytest.raises(ConnectError, match=why) as caught:
        fetch_token(TOKENS, http(), 5.0)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "why"), [(None, "not NoneType"), (b"abc", "not bytes"), (("a", "b"), "seconds"), ("a b", "printable")]
)
def test_a_function_that_gives_no_token(said: Any, why: str) -> None:
    """The same for a function."""
    with pytest.raises(ConnectError, match=f"access_token=: .*{why}"):
        fetch_token(lambda: said, http(), 5.0)
    assert fetch_token(lambda: ("abc", 3), http(), 5.0) == ("abc", 3.0)
    assert fetch_token(lambda: ("abc", None), http(), 5.0) == ("abc", None)
    assert fetch_token(lambda: "abc", http(), 5.0) == ("abc", None)


# -- the way there ----------------------------------------------------------------------------------------------------


def test_a_socks_proxy_is_not_spoken() -> None:
    """It is said, before anything is sent."""
    proxies = Proxies(named=check_proxy("socks5h://127.0.0.1:1"))
    with pytest.raises(ConnectError, match="not asked through a SOCKS proxy"):
        find(proxies=proxies)


@contextlib.contextmanager
def rude(
    serve: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """Serve every connection by a function that writes what it likes; gives the URL and what was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []
    done: list[threading.Thread] = []

    def speak(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            sock = stack.enter_context(sock if tls is None else tls.wrap_socket(sock, server_side=True))
            heard.append(sock.recv(65536))
            serve(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                done.append(threading.Thread(target=speak, args=(listener.accept()[0],)))
                done[-1].start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/endpoints", heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in (thread, *done):
            one.join(10)


def drip(head: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    """Write something, and then a little of something else for as long as anybody listens."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(head)
        sock.settimeout(0.02)
        while True:
            sock.sendall(drop)
            with contextlib.suppress(TimeoutError):
                if sock.recv(1) == b"":
                    return

    return serve


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "serve",
    [
        drip(b"", b"H"),
        drip(OK + b"X: ", b"x"),
        drip(OK + b"Content-Length: 1000000\r\n\r\n", b" "),
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drip(OK + b"\r\n", b" "),
    ],
    ids=["status", "header", "length", "chunks", "end"],
)
def test_a_slow_answer_is_cut(serve: Callable[[socket.socket], None]) -> None:
    """The time is that of the whole answer, not of the next byte."""
    with rude(serve) as (url, _):
        begun = time.monotonic()
        with pytest.raises(ConnectTimeout, match=r"no whole answer within 0\.3 s"):
            find_endpoints(url, rules("ws://127.0.0.1:1/"), http(), None, 0.3)
        assert time.monotonic() - begun < 3.0


def test_an_endless_answer_is_cut() -> None:
    """Of a body that never ends no more is read than may be one."""
    with rude(drip(OK + b"\r\n", b" " * 65536)) as (url, _), pytest.raises(ConnectError, match="longer than"):
        find_endpoints(url, rules("ws://127.0.0.1:1/"), http(), None, 20.0)


@pytest.mark.parametrize(
    "head", [b"", b"SSH-2.0\r\n\r\n", OK + b"X: " + b"x" * 70_000, OK + b"a: b\r\n" * 200 + b"\r\n"]
)
def test_an_answer_that_is_no_http(head: bytes) -> None:
    """Nothing, garbage, a header without end, a thousand headers: a clear error."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(head)

    with rude(serve) as (url, _), pytest.raises(ConnectError, match=r"could not be (reached|asked)"):
        find_endpoints(url, rules("ws://127.0.0.1:1/"), http(), None, 5.0)


def test_a_real_answer_comes_through() -> None:
    """The control of the tests above: a server that is quick and right is heard."""

    def serve(sock: socket.socket) -> None:
        body = json.dumps({"endpoints": [{"url": "ws://127.0.0.1:7/"}]}).encode()
        sock.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    with rude(serve) as (url, heard):
        found = find_endpoints(url, rules("ws://127.0.0.1:1/"), http(), None, 5.0)
        assert found.urls == ("ws://127.0.0.1:7/",)
        assert b"\r\nUser-Agent: resilient-ws\r\n" in heard[0]


def test_a_proxy_is_asked() -> None:
    """An HTTP proxy gets the whole request, and its own password and nobody else's."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(OK + b'Content-Length: 39\r\n\r\n{"endpoints":[{"url":"ws://127.0.0.1:7"}')

    with rude(serve) as (url, heard):
        proxies = Proxies(named=check_proxy(url.replace("http://", "http://me:p%40w@").replace("/endpoints", "")))
        with pytest.raises(ConnectError, match="not JSON"):
            find_endpoints("http://127.0.0.1:9/e", rules("ws://127.0.0.1:1/"), http(proxies=proxies), None, 5.0)
    assert heard[0].startswith(b"GET http://127.0.0.1:9/e HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6cEB3\r\n" in heard[0]


def test_a_proxy_without_a_password() -> None:
    """It is told none."""
    with rude(lambda sock: None) as (url, heard):
        proxies = Proxies(named=check_proxy(url.replace("/endpoints", "")))
        with pytest.raises(ConnectError, match="could not be reached"):
            find_endpoints("http://127.0.0.1:9/e", rules("ws://127.0.0.1:1/"), http(proxies=proxies), None, 5.0)
    assert b"Proxy-Authorization" not in heard[0]


def test_what_is_connected_too_late_is_cut() -> None:
    """The time was over while the name was looked up."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch = _Watch(is_over=True)
        watch.add(ours)
        assert theirs.recv(1) == b""
        for sock in watch.sockets:
            sock.close()


def test_tls_is_spoken_with_whom_the_users_context_trusts(tmp_path: Any) -> None:
    """A certificate of the user's own authority is good with ``ssl=``, and nothing is sent where it is not."""
    theirs, ours = certified(tmp_path, "localhost")
    body = json.dumps({"endpoints": [{"url": "wss://localhost:7/"}]}).encode()

    def serve(sock: socket.socket) -> None:
        sock.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    for context, name, is_good in ((ours, "localhost", True), (None, "localhost", False), (ours, "127.0.0.1", False)):
        with rude(serve, theirs) as (url, heard):
            place = url.replace("http:", "https:").replace("127.0.0.1", name)
            given = rules("wss://localhost:1/", "wss://127.0.0.1:1/")
            if is_good:
                assert find_endpoints(place, given, http(context=context), None, 5.0).urls == ("wss://localhost:7/",)
                assert heard[0].startswith(b"GET /endpoints HTTP/1.1\r\n")
                continue
            with pytest.raises(ConnectError, match="certificate was refused"):
                find_endpoints(place, given, http(context=context), None, 5.0)
            assert heard == []


def test_the_users_context_is_left_alone() -> None:
    """Whom ``ssl=`` trusts is asked, and no authority is added to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with rude(lambda sock: None) as (url, heard), pytest.raises(ConnectError, match="certificate was refused, or TLS"):
        find_endpoints(url.replace("http:", "https:"), rules("ws://127.0.0.1:1/"), http(context=context), None, 5.0)
    assert heard[0][:1] == b"\x16"
    assert context.cert_store_stats()["x509"] == 0
