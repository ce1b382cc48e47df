"""
What the caller says about a connection, checked before anything is dialled: URLs, headers, options.

No socket is opened here. What may hold a credential (path and query, headers, cookie) is in no repr and no error text.
"""

from __future__ import annotations

import re
import ssl as _ssl
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from resilient_ws.deflating import Offer
from resilient_ws.hosts import bracketed, check_host, is_loopback
from resilient_ws.proxying import Proxies

_SCHEMES = {"ws": ("http", 80), "wss": ("https", 443)}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_RESERVED = frozenset(
    {"host", "upgrade", "connection", "content-length", "transfer-encoding", "te", "trailer", "expect"}
)


STAGGER = 0.25
"""Seconds between the start of one address and of the next (RFC 8305), where nobody says another number."""


@attrs.frozen(kw_only=True)
class Endpoint:
    """
    A URL that can be dialled, taken apart.

    Attributes:
        scheme: ``ws`` or ``wss``.
        host: Lower case, without brackets.
        port: Always a number, the scheme's default where the URL has none.
        path: Path and query; the query may hold secrets, so it is in no repr.
        secure: Whether TLS is spoken.
        origin: ``scheme://host:port`` of HTTP, which an allow-list compares.
    """

    scheme: str
    host: str
    port: int
    path: str = attrs.field(repr=False)
    secure: bool
    origin: str

    @property
    def authority(self) -> str:
        """Give the value of the Host header."""
        host = bracketed(self.host)
        return host if self.port == _SCHEMES[self.scheme][1] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def _pairs(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return tuple((name, value) for name, value in pairs)


def _check_headers(_: object, __: attrs.Attribute[Any], headers: Sequence[tuple[str, str]]) -> None:
    for name, value in headers:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"header name {name!r} is not an RFC 9110 token")
        lower = name.lower()
        if lower in _RESERVED or lower.startswith("sec-websocket-"):
            raise ValueError(f"header {name} belongs to the upgrade itself and cannot be set")
        _check_value(f"the value of header {name}", value)


def _check_value(what: str, value: object) -> None:
    # Never shows the value: it may be a credential.
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a str, not {type(value).__name__}")
    if _UNSAFE.search(value):
        raise ValueError(f"{what} contains CR, LF, NUL or another control character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} contains a lone surrogate") from None


def _check_optional(_: object, field: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None:
        _check_value(field.name, value)


def _check_subprotocols(_: object, __: attrs.Attribute[Any], names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"subprotocol {name!r} is not an RFC 9110 token")
    if len(set(names)) != len(names):
        raise ValueError("a subprotocol is offered twice")


def _positive(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{field.name} must be above 0, not {value!r}")


@attrs.frozen(kw_only=True)
class DialOptions:
    """
    How one connection is made; nothing in it that may be a credential is in its repr.

    Attributes:
        headers: Sent with the upgrade as they are; those of the upgrade itself cannot be replaced.
        subprotocols: Offered in this order; when there are any the server must choose one.
        ssl: Context for ``wss``; None is one shared context with the system's authorities, TLS 1.2 or newer.
        proxies: Which way a server is reached; by default directly.
        proxy_ssl: Context for an ``https://`` proxy; None as for ``ssl``, which a proxy never gets.
        max_message: Largest message that is received, in bytes.
        connect_timeout: Seconds for everything: name, TCP, TLS, upgrade.
        stagger: Seconds after which the next address is tried beside the one before it.
        origin: Value of the Origin header; None sends none.
        cookie: Value of the Cookie header.
        cookies: Called when an upgrade is written; gives what follows in the same header, byte for byte.
        family: ``socket.AF_INET`` or ``AF_INET6`` to use one only, 0 for both.
        allow_plaintext: Allow ``ws://`` to other hosts than this one.
        compression: What is offered of permessage-deflate; None offers nothing, and compressed frames are refused.
        is_compressible: Asked for each message to be written once compression is agreed; None: all are. Says no to
            whatever holds a credential. Called by the thread that writes, outside any lock.
        on_response: Called with status and headers of every answer to an upgrade, refused ones too (cookies), by the
            thread that called ``cookies`` for it; several addresses may be tried at once.
    """

    headers: tuple[tuple[str, str], ...] = attrs.field(
        default=(), converter=_pairs, validator=_check_headers, repr=False
    )
    subprotocols: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=_check_subprotocols)
    ssl: _ssl.SSLContext | None = None
    proxies: Proxies = attrs.field(factory=Proxies, repr=False)
    proxy_ssl: _ssl.SSLContext | None = None
    max_message: int = attrs.field(default=1 << 20, validator=_positive)
    connect_timeout: float = attrs.field(default=10.0, validator=_positive)
    stagger: float = attrs.field(default=STAGGER, validator=_positive)
    origin: str | None = attrs.field(default=None, validator=_check_optional)
    cookie: str | None = attrs.field(default=None, validator=_check_optional, repr=False)
    cookies: Callable[[], bytes] | None = attrs.field(default=None, repr=False)
    family: int = 0
    allow_plaintext: bool = False
    compression: Offer | None = None
    is_compressible: Callable[[str | bytes], bool] | None = attrs.field(default=None, repr=False)
    on_response: Callable[[int, list[tuple[str, str]]], None] | None = attrs.field(default=None, repr=False)


def check_url(url: str, *, allow_plaintext: bool = False) -> Endpoint:
    """
    Take a WebSocket URL apart and refuse what must not be dialled.

    Raises:
        ValueError: wrong scheme or form, control characters, credentials, a fragment, or ``ws://`` to another host
            without ``allow_plaintext``. The text never contains path or query.
    """
    if not isinstance(url, str) or re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError("the URL is not a str, or contains spaces or control characters (CR, LF, NUL)")
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in _SCHEMES or not rest:
        instead = f", not {scheme}://" if re.fullmatch(r"[a-z]{1,10}", scheme) and rest else ""
        raise ValueError(f"the URL must start with wss:// (or ws:// for this machine){instead}")
    try:
        parts = urllib.parse.urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the URL's host or port is malformed") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL contains credentials; pass them in headers= or as access_token=")
    if "#" in rest:
        raise ValueError("the URL has a fragment, which WebSocket URLs must not have (RFC 6455 section 3)")
    http, default_port = _SCHEMES[scheme]
    host = check_host(host, is_bracketed="[" in parts.netloc)
    port = default_port if port is None else port
    if port == 0:
        raise ValueError("the URL's port is 0")
    if scheme == "ws" and not allow_plaintext and not is_loopback(host):
        raise ValueError(
            f"ws:// to {host} would send everything in the clear; use wss://, or Wire(allow_plaintext=True)"
        )
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]{}|\\^`\"<>")
    return Endpoint(
        scheme=scheme,
        host=host,
        port=port,
        path=f"{path}?{query}" if "?" in rest else path,
        secure=scheme == "wss",
        origin=f"{http}://{bracketed(host)}:{port}",
    )
