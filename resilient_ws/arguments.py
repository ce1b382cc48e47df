"""
What ``connect()`` was given, checked before any thread or socket exists, in one frozen value.

Errors name the argument, what was given (never a secret) and what is allowed.
"""

from __future__ import annotations

import importlib.util
import ssl as _ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, cast

import attrs

from resilient_ws.advertised import Rules, check_source
from resilient_ws.config import Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.deflating import Offer
from resilient_ws.dialects import Dialect
from resilient_ws.dialects.native import Native, wire_limit
from resilient_ws.dialling import STAGGER, DialOptions, check_url
from resilient_ws.discovery import Http
from resilient_ws.events import Event
from resilient_ws.exceptions import ResilientWSError
from resilient_ws.frames import Payload, Position, Start, check_stream_name
from resilient_ws.proxying import NEEDS_SOCKS, Proxies, check_proxy

Headers = Union[Mapping[str, str], Sequence[tuple[str, str]]]
HeadersArgument = Union[Headers, Callable[[], Headers], None]
Token = Union[str, tuple[str, Union[float, None]]]
AccessToken = Union[str, Callable[[], Token], None]
OnGap = Union[Literal["raise", "report"], Callable[[ResilientWSError], object]]
Subscribe = Union[str, Iterable[str], Mapping[str, Start]]


@attrs.frozen(kw_only=True)
class Arguments:
    """The arguments of ``connect()``; see there."""

    urls: tuple[str, ...] = attrs.field(repr=False)
    subscribe: Mapping[str, Start]
    stream: str | None
    dialect: Dialect
    headers: HeadersArgument = attrs.field(repr=False)
    access_token: AccessToken = attrs.field(repr=False)
    ssl: _ssl.SSLContext | None
    proxies: Proxies = attrs.field(repr=False)
    proxy_ssl: _ssl.SSLContext | None
    on_gap: OnGap
    on_event: Callable[[Event], object] | None
    decoder: Callable[[Payload], Any] | None
    open_timeout: float | None
    wait: bool
    retry: Retry
    failover: Failover
    keepalive: Keepalive
    outbox: Outbox
    inbox: Inbox
    wire: Wire

    @property
    def token_source(self) -> Any:
        """Who is asked for access tokens: a function or a URL; None where there is one token, or none."""
        is_token = isinstance(self.access_token, str) and not is_source(self.access_token)
        return None if is_token else self.access_token

    def token(self, fetched: str | None) -> str | None:
        """Return the access token: the one that was fetched, or the one that was given."""
        return fetched if self.token_source is not None else cast("str | None", self.access_token)

    def rules(self) -> Rules:
        """Return which endpoints are believed that were not given."""
        return Rules.of(self.urls, self.failover.trusted_hosts, allow_plaintext=self.wire.allow_plaintext)

    def http(self, source: object) -> Http:
        """Return how a source is asked over HTTP; calls ``headers`` where both are needed, which may block."""
        return Http(
            origins=frozenset(place.origin for place in self.rules().given),
            headers=self._own_headers() if isinstance(source, str) else (),
            proxies=self.proxies,
            context=self.ssl,
            allow_plaintext=self.wire.allow_plaintext,
        )

    def _own_headers(self) -> tuple[tuple[str, str], ...]:
        return _pairs(self.headers() if callable(self.headers) else self.headers)

    def dial_options(self, timeout: float, fetched: str | None = None) -> DialOptions:
        """Return how to dial, with the access token that was fetched; calls ``headers`` where that is a function."""
        pairs, token = self._own_headers(), self.token(fetched)
        if token is not None:
            pairs += (("Authorization", f"Bearer {token}"),)
        names: Any = () if self.dialect.subprotocol is None else (self.dialect.subprotocol,)
        return DialOptions(
            headers=pairs,
            subprotocols=names,
            ssl=self.ssl,
            proxies=self.proxies,
            proxy_ssl=self.proxy_ssl,
            max_message=wire_limit(self.wire.max_message),
            connect_timeout=timeout,
            stagger=self.failover.stagger or STAGGER,
            family=self.wire.family,
            allow_plaintext=self.wire.allow_plaintext,
            compression=None if self.wire.compression is None else Offer(),
            is_compressible=getattr(self.dialect, "is_compressible", _nothing),
        )


def _nothing(message: str | bytes) -> bool:
    # What holds a credential is for the dialect to say; where it does not, nothing is compressed on the way out.
    return False


def _pairs(headers: Headers | None) -> tuple[tuple[str, str], ...]:
    if headers is None:
        return ()
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value) for name, value in pairs)


_GROUPS = {"retry": Retry, "failover": Failover, "keepalive": Keepalive, "outbox": Outbox, "inbox": Inbox, "wire": Wire}


def check_arguments(
    urls: object, *, proxy: object, subscribe: object, stream: object, dialect: object, **rest: Any
) -> Arguments:
    """
    Check everything that ``connect()`` was given.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument has a value that is not allowed.
        ImportError: A SOCKS proxy would be used, and python-socks is not installed.
    """
    for name, group in _GROUPS.items():
        if not isinstance(rest[name], group):
            raise TypeError(f"{name}= takes a resilient_ws.{group.__name__}(...), not {type(rest[name]).__name__}")
    _check_functions(rest)
    _check_sizes(rest["inbox"], rest["wire"])
    _check_timeout(rest["open_timeout"])
    if not isinstance(rest["wait"], bool):
        raise TypeError(f"wait= is True or False, not {rest['wait']!r}")
    _check_credentials(rest["headers"], rest["access_token"])
    for name in ("ssl", "proxy_ssl"):
        if rest[name] is not None and not isinstance(rest[name], _ssl.SSLContext):
            raise TypeError(f"{name}= takes an ssl.SSLContext or None, not {type(rest[name]).__name__}")
    checked = check_urls(urls, rest["wire"], may_be_empty=rest["failover"].discover is not None)
    check_sources(checked, rest["access_token"], rest["failover"], rest["wire"])
    return Arguments(
        urls=checked,
        proxies=check_proxies(proxy, checked, rest["wire"]),
        subscribe=check_subscribe(subscribe),
        stream=None if stream is None else check_outbound(stream),
        dialect=check_dialect(dialect),
        **rest,
    )


def is_source(token: str) -> bool:
    """Say whether a str is the URL of who gives access tokens: no token has a colon in it (RFC 6750)."""
    return token.lower().startswith(("https://", "http://"))


def check_sources(urls: tuple[str, ...], token: object, failover: Failover, wire: Wire) -> None:
    """
    Check who is asked for endpoints and access tokens, and which of the former are believed.

    Raises:
        ValueError: A URL must not be asked, or a host is no pattern.
    """
    plain = wire.allow_plaintext
    if isinstance(token, str) and is_source(token):
        check_source(token, "access_token=", allow_plaintext=plain)
    if isinstance(failover.discover, str):
        check_source(failover.discover, "Failover(discover=)", allow_plaintext=plain)
    Rules.of(urls, failover.trusted_hosts, allow_plaintext=plain)


def check_urls(urls: object, wire: Wire, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """Return the endpoints, each one checked; none twice."""
    if isinstance(urls, str):
        urls = (urls,)
    if isinstance(urls, (bytes, Mapping)) or not isinstance(urls, Iterable):
        raise TypeError(f"urls takes a str or several of them, not {type(urls).__name__}")
    found = tuple(dict.fromkeys(urls))
    if not found and not may_be_empty:
        raise ValueError("urls is empty: at least one wss:// URL is needed, or Failover(discover=)")
    for url in found:
        if not isinstance(url, str):
            raise TypeError(f"a URL is a str, not {type(url).__name__}")
        try:
            check_url(url, allow_plaintext=wire.allow_plaintext)
        except ValueError as error:
            which = f"number {found.index(url) + 1} of the {len(found)} URLs: " if len(found) > 1 else ""
            raise ValueError(f"{which}{error}") from None
    return found


def check_proxies(proxy: object, urls: Iterable[str], wire: Wire) -> Proxies:
    """
    Return the way to the endpoints; the environment is read here, once.

    Raises:
        TypeError, ValueError: The proxy cannot be used; the text shows no user name and no password.
        ImportError: It speaks SOCKS, and python-socks is not installed.
    """
    if proxy is True:
        proxies = Proxies.from_environment()
    else:
        proxies = Proxies() if proxy is None else Proxies(named=check_proxy(proxy))
    for url in urls:
        endpoint = check_url(url, allow_plaintext=wire.allow_plaintext)
        chosen = proxies.choose(endpoint, allow_plaintext=wire.allow_plaintext)
        if chosen is not None and chosen.is_socks and importlib.util.find_spec("python_socks") is None:
            raise ImportError(f"{chosen.source}: {NEEDS_SOCKS}", name="python_socks")
    return proxies


def check_subscribe(subscribe: object) -> dict[str, Start]:
    """Return {stream: start}; a name alone starts at ``now``."""
    if isinstance(subscribe, str):
        raise TypeError(f"subscribe= takes a list of names or a dict; did you mean subscribe=[{subscribe[:140]!r}]?")
    if isinstance(subscribe, Mapping):
        return {check_stream_name(name): check_start(start) for name, start in subscribe.items()}
    if isinstance(subscribe, bytes) or not isinstance(subscribe, Iterable):
        raise TypeError(f"subscribe= takes a list of names or a dict, not {type(subscribe).__name__}")
    return {check_stream_name(name): "now" for name in subscribe}


def check_start(start: object) -> Start:
    """Return ``start`` if a subscription may begin there."""
    if isinstance(start, Position) or start == "now" or start == "earliest":
        return start
    raise ValueError(f"a subscription starts at 'now', 'earliest' or a Position, not at {start!r}")


def check_outbound(stream: object) -> str:
    """Return ``stream`` if a client may send to it."""
    name = check_stream_name(stream)
    if name.startswith("~"):
        raise ValueError(f"stream {name!r} is a private stream: only the server writes to it")
    return name


def check_dialect(dialect: object) -> Dialect:
    """Return the dialect that is meant."""
    if dialect is None or dialect == "native":
        return Native()
    if isinstance(dialect, str):
        raise ValueError(f"dialect {dialect!r} is not known; there is 'native'")
    if all(hasattr(dialect, name) for name in ("client", "capabilities", "subprotocol")):
        return cast("Dialect", dialect)
    raise TypeError(f"dialect= takes 'native' or a dialect object, not {type(dialect).__name__}")


def _check_functions(rest: Mapping[str, Any]) -> None:
    if rest["on_gap"] not in ("raise", "report") and not callable(rest["on_gap"]):
        raise ValueError(f"on_gap= takes 'raise', 'report' or a function of one argument, not {rest['on_gap']!r}")
    for name in ("on_event", "decoder"):
        if rest[name] is not None and not callable(rest[name]):
            raise TypeError(f"{name}= takes a function of one argument or None, not {type(rest[name]).__name__}")


def _check_sizes(inbox: Inbox, wire: Wire) -> None:
    if inbox.max_bytes < wire.max_message:
        raise ValueError(
            f"Inbox(max_bytes={inbox.max_bytes}) is below Wire(max_message={wire.max_message}): "
            "the largest message would never fit; raise the one or lower the other"
        )


def _check_timeout(timeout: object) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"open_timeout= takes seconds or None, not {type(timeout).__name__}")
    if not timeout > 0:
        raise ValueError(f"open_timeout={timeout!r}: must be above 0, or None for no limit")


def _check_credentials(headers: object, token: object) -> None:
    if token is not None and not isinstance(token, str) and not callable(token):
        raise TypeError(f"access_token= takes a token, a URL, a function, or None, not {type(token).__name__}")
    if headers is not None and not callable(headers):
        if isinstance(headers, (str, bytes)) or not isinstance(headers, (Mapping, Iterable)):
            given = type(headers).__name__
            raise TypeError(f"headers= takes a mapping, pairs, or a function that returns them, not {given}")
        DialOptions(headers=_pairs(headers))  # type: ignore[arg-type]
    if isinstance(token, str) and not is_source(token):
        DialOptions(headers=(("Authorization", f"Bearer {token}"),))
