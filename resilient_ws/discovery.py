"""
Endpoints and access tokens, from a function of the user's or over HTTP; the only importer of ``requests``.

Everything here blocks, and is called in a thread of its own. An answer over HTTP is bounded in size and in its whole
time, redirects are not followed, and no error shows what was answered, or more of a URL than scheme, host and port.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, Union, cast

import attrs

from resilient_ws.advertised import Found, Rules, check_source, choose, read_endpoints, read_object, read_seconds
from resilient_ws.connecting import default_context
from resilient_ws.dialling import Endpoint
from resilient_ws.endpoints import shown
from resilient_ws.exceptions import ConnectError, ConnectTimeout
from resilient_ws.proxying import Proxies

MAX_BODY = 256 << 10
"""Bytes of an answer that are read at most."""
_TOKEN = re.compile(r"[!-~]{1,16384}")
_CHUNK = 16 << 10

Pairs = tuple[tuple[str, str], ...]
T = TypeVar("T")
TokenSource = Union[str, Callable[[], Any]]


@attrs.frozen(kw_only=True)
class Http:
    """
    How something is asked over HTTP: as the endpoints are reached.

    Attributes:
        origins: ``scheme://host:port`` of the endpoints: only there ``headers`` and an access token are sent.
        headers: The user's own.
        proxies: The way there.
        context: For TLS; None: the system's authorities.
        allow_plaintext: As in ``Wire``.
    """

    origins: frozenset[str]
    headers: Pairs = attrs.field(default=(), repr=False)
    proxies: Proxies = attrs.field(factory=Proxies, repr=False)
    context: ssl.SSLContext | None = None
    allow_plaintext: bool = False


# -- endpoints --------------------------------------------------------------------------------------------------------


def find_endpoints(
    source: TokenSource, rules: Rules, http: Http, token: str | None, timeout: float
) -> Found:
    """
    Ask ``Failover(discover=)``.

    Args:
        source: A URL, or a function that returns URLs, or (URLs, seconds that they are good for).
        rules: What is believed of the answer.
        http: How a URL is asked.
        token: Access token, sent where the URL is at one of the endpoints.
        timeout: Seconds that a server has.

    Raises:
        ConnectError: There is no answer, or it is not to be believed.
    """
    what = "Failover(discover=)"
    if not isinstance(source, str):
        return _judged(what, lambda: choose(*_listed(_called(what, source)), rules, None))
    place = check_source(source, what, allow_plaintext=http.allow_plaintext)
    bearer: Pairs = () if token is None else (("Authorization", f"Bearer {token}"),)
    body = _fetch("GET", source, place, http, bearer, None, timeout, what)
    return _judged(f"{what} {shown(source)}", lambda: choose(*read_endpoints(body), rules, place))


def _listed(answer: object) -> tuple[list[str], float | None]:
    ttl = None
    if isinstance(answer, tuple) and len(answer) == 2 and not isinstance(answer[0], str):
        answer, ttl = answer
    if isinstance(answer, (str, bytes, Mapping)) or not isinstance(answer, Iterable):
        raise ValueError(f"it returns a list of URLs, or (URLs, seconds), not {type(answer).__name__}")
    urls = list(answer)
    if not all(isinstance(url, str) for url in urls):
        raise ValueError("it returns URLs as str")
    return urls, read_seconds(ttl, "the second part of its answer")


# -- access tokens ----------------------------------------------------------------------------------------------------


def fetch_token(source: TokenSource, http: Http, timeout: float) -> tuple[str, float | None]:
    """
    Ask ``access_token=``.

    Args:
        source: A URL, or a function that returns a token, or (token, seconds that it is good for or None).
        http: How a URL is asked: ``POST``, ``grant_type=client_credentials``; the answer is that of RFC 6749.
        timeout: Seconds that a server has.

    Returns:
        The token, and the seconds that it is good for; None where nobody says.

    Raises:
        ConnectError: There is none, or what came is no access token.
    """
    what = "access_token="
    if not isinstance(source, str):
        return _judged(what, lambda: _paired(_called(what, source)))
    place = check_source(source, what, allow_plaintext=http.allow_plaintext)
    form = {"grant_type": "client_credentials"}
    body = _fetch("POST", source, place, http, (), form, timeout, what)
    return _judged(f"{what} {shown(source)}", lambda: _issued(read_object(body)))


def _paired(answer: object) -> tuple[str, float | None]:
    token, seconds = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    if not isinstance(token, str):
        raise ValueError(f"it returns a str, or (str, seconds), not {type(token).__name__}")
    return _checked(token), read_seconds(seconds, "the second part of its answer")


def _issued(answer: Mapping[str, Any]) -> tuple[str, float | None]:
    token, kind = answer.get("access_token"), answer.get("token_type", "Bearer")
    if not isinstance(token, str):
        raise ValueError("it has no string `access_token`")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise ValueError("its `token_type` is not Bearer")
    return _checked(token), read_seconds(answer.get("expires_in"), "`expires_in`")


def _checked(token: str) -> str:
    if _TOKEN.fullmatch(token) is None:
        raise ValueError("the access token is empty, longer than 16384 characters, or not printable ASCII (CR, LF?)")
    return token


# -- asking -----------------------------------------------------------------------------------------------------------


def _called(what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except BaseException as error:  # sys.exit() too: the session has to know
        failed = ConnectError(f"{what} failed with {type(error).__name__}; look at the function that it names")
        failed.__cause__ = error
        raise failed from error


def _judged(what: str, judge: Callable[[], T]) -> T:
    try:
        return judge()
    except ValueError as error:
        why = str(error)
    raise ConnectError(f"{what}: the answer cannot be used: {why}")


def _fetch(
    method: str, url: str, place: Endpoint, http: Http, bearer: Pairs, form: Any, timeout: float, what: str
) -> bytes:
    """Make one request; returns the body of a 200."""
    where = f"{what} {shown(url)}"
    own = (*http.headers, *bearer) if place.origin in http.origins else ()
    import requests  # only for those who ask over HTTP

    with _watched(timeout) as watch, _session(http, watch) as session:
        try:
            asked = {"timeout": timeout, "allow_redirects": False, "stream": True}
            proxies = _through(place, http, where)
            with session.request(method, url, headers=dict(own), data=form, proxies=proxies, **asked) as response:
                why, body = _read(response)
        except (requests.RequestException, OSError, ValueError) as error:
            why, body = _why(error, requests), b""
    if watch.is_over:
        raise ConnectTimeout(f"{where}: no whole answer within {timeout:g} s")
    if why:
        raise ConnectError(f"{where}: {why}")
    return body


def _read(response: Any) -> tuple[str, bytes]:
    if 300 <= response.status_code < 400:
        return f"it redirects (HTTP {response.status_code}), which is not followed; name the right URL", b""
    if response.status_code != 200:
        return f"it answers with HTTP {response.status_code}", b""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return "it answers compressed, which was not asked for", b""
    body = b""
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > MAX_BODY:
            return f"its answer is longer than {MAX_BODY} bytes", b""
    return "", body


def _why(error: Exception, requests: Any) -> str:
    # Never its own text: that has the URL with its query.
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate was refused, or TLS was not spoken; for an own authority pass ssl="
    if isinstance(error, requests.exceptions.Timeout):
        return "it did not answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "it could not be reached, or broke off; is it running there?"
    return f"it could not be asked ({type(error).__name__})"


def _through(place: Endpoint, http: Http, where: str) -> dict[str, str]:
    proxy = http.proxies.choose(place, allow_plaintext=http.allow_plaintext)
    if proxy is None:
        return {}
    if proxy.is_socks:
        raise ConnectError(f"{where}: it is not asked through a SOCKS proxy ({proxy.source}); name a function")
    login = ""
    if proxy.username is not None:
        login = f"{urllib.parse.quote(proxy.username, '')}:{urllib.parse.quote(proxy.password or '', '')}@"
    url = str(proxy).replace("://", f"://{login}", 1)
    return {"http": url, "https": url}


@attrs.define
class _Watch:
    """Sockets of one request, to be cut when its time is over: requests itself bounds only the time between bytes."""

    sockets: list[socket.socket] = attrs.field(factory=list)
    is_over: bool = False

    def add(self, sock: socket.socket) -> None:
        self.sockets.append(sock.dup())  # TLS takes the first one away
        if self.is_over:
            self.cut()

    def cut(self) -> None:
        self.is_over = True
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _watched(timeout: float) -> Iterator[_Watch]:
    watch = _Watch()
    timer = threading.Timer(timeout, watch.cut)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()
        for sock in watch.sockets:
            sock.close()


def _session(http: Http, watch: _Watch) -> Any:
    """Make a session of requests that trusts what the endpoints' TLS trusts, and nothing of the environment."""
    import requests
    from requests.adapters import HTTPAdapter

    kinds = _pools(watch)
    context = http.context or default_context()

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **more: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **more)
            self.poolmanager.pool_classes_by_scheme = kinds

        def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
            manager = super().proxy_manager_for(proxy, ssl_context=context, **more)
            manager.pool_classes_by_scheme = kinds
            return manager

        def cert_verify(self, conn: Any, *args: Any) -> None:
            """The context says whom to trust; nothing is added to it, or changed in it."""
            conn.cert_reqs = context.verify_mode

        def build_connection_pool_key_attributes(self, *args: Any, **more: Any) -> Any:
            return super().build_connection_pool_key_attributes(*args, **more)[0], {}

    session = requests.Session()
    session.trust_env = False  # .netrc would add credentials
    session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "resilient-ws"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=0))
    return session


def _pools(watch: _Watch) -> dict[str, Any]:
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def watched(kind: Any) -> Any:
        class Watched(kind):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                sock = cast("socket.socket", super()._new_conn())
                watch.add(sock)
                return sock

        return Watched

    class Plain(HTTPConnectionPool):
        ConnectionCls = watched(HTTPConnection)

    class Secure(HTTPSConnectionPool):
        ConnectionCls = watched(HTTPSConnection)

    return {"http": Plain, "https": Secure}
