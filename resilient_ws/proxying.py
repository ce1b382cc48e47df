"""
Which proxy a server is reached through: the caller's, one of the environment's, or none.

No socket is opened here. User name and password of a proxy are in no repr and no error text.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import urllib.parse
from collections.abc import Mapping
from typing import Protocol

import attrs

from resilient_ws.hosts import Place, bracketed, check_host, is_loopback

NEEDS_SOCKS = "a SOCKS proxy needs python-socks, which is not installed: pip install 'resilient-ws[socks]'"
#: Whether the system has proxies in its settings, beside the environment.
HAS_SETTINGS = sys.platform in ("darwin", "win32")
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080, "socks4a": 1080}
_FORM = "scheme://user:password@host:port with http, https, socks5, socks5h, socks4 or socks4a"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_SOCKS = 255


class Server(Place, Protocol):
    """What is reached through a proxy or directly."""

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken with it."""
        ...


@attrs.frozen(kw_only=True)
class Proxy:
    """
    A proxy's URL, taken apart; its ``str`` and ``repr`` are without user name and password.

    Attributes:
        scheme: ``http``, ``https``, ``socks5``, ``socks5h``, ``socks4`` or ``socks4a``.
        host: Lower case, without brackets.
        port: The scheme's default where the URL has none.
        username: None where the URL has no credentials.
        password: Likewise; may be empty.
        source: Where it was named, for the errors' text.
    """

    scheme: str
    host: str
    port: int
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    source: str = "proxy="

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS."""
        return self.scheme.startswith("socks")

    @property
    def resolves(self) -> bool:
        """Whether the proxy looks up the server's name, and not this machine."""
        return self.scheme not in ("socks5", "socks4")

    @property
    def basic(self) -> str | None:
        """The value of Proxy-Authorization (RFC 7617), or None where there are no credentials."""
        if self.username is None:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password or ''}".encode()).decode()

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


def check_proxy(url: object, source: str = "proxy=") -> Proxy:
    """
    Take a proxy's URL apart.

    Raises:
        TypeError: it is not a str.
        ValueError: it is malformed, of another scheme, or with credentials that cannot be sent; the text never shows
            what was given.
    """
    if not isinstance(url, str):
        raise TypeError(f"{source} takes True, None or a URL, not {type(url).__name__}")
    try:
        return _take_apart(url, source)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _take_apart(url: str, source: str) -> Proxy:
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in _PORTS or not rest or re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(f"a proxy's URL is {_FORM}")
    try:
        parts = urllib.parse.urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("host or port is malformed; are / ? # in user name and password %-encoded?") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment or "?" in rest or "#" in rest:
        raise ValueError("nothing follows host and port; are / ? # in user name and password %-encoded?")
    if port == 0:
        raise ValueError("the URL's port is 0")
    username, password = _credentials(scheme, parts.username, parts.password)
    return Proxy(
        scheme=scheme,
        host=check_host(host, is_bracketed="[" in parts.netloc.rpartition("@")[2]),
        port=port or _PORTS[scheme],
        username=username,
        password=password,
        source=source,
    )


def _credentials(scheme: str, user: str | None, secret: str | None) -> tuple[str | None, str | None]:
    if user is None:
        return None, None
    try:
        username = urllib.parse.unquote(user, errors="strict")
        password = urllib.parse.unquote(secret or "", errors="strict")
    except UnicodeDecodeError:
        raise ValueError("user name or password is not UTF-8 in %-encoding") from None
    if _CONTROL.search(username + password):
        raise ValueError("user name or password contains a control character")
    if scheme in ("http", "https") and ":" in username:
        raise ValueError("a user name with a colon cannot be sent to an HTTP proxy (RFC 7617)")
    if scheme.startswith("socks"):
        _check_socks(scheme, username, password)
    return username, password


def _check_socks(scheme: str, username: str, password: str) -> None:
    if not (username + password).isascii() or len(username) > _MAX_SOCKS or len(password) > _MAX_SOCKS:
        raise ValueError("a SOCKS proxy takes user name and password in ASCII, of at most 255 characters each")
    if scheme.startswith("socks4") and password:
        raise ValueError("SOCKS4 knows a user name only, no password; is it a socks5:// proxy?")
    if scheme.startswith("socks5") and not (username and password):
        raise ValueError("a SOCKS5 proxy takes both a user name and a password, or neither")


# -- which one --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Proxies:
    """
    The way to every server; without arguments: the direct one.

    Attributes:
        named: The caller's proxy, for every server.
        found: {scheme: URL} of the environment or the system, with ``no`` for those that are reached directly, as
            ``urllib.request.getproxies`` gives it.
        is_system: Whether ``found`` comes from the system's settings (macOS, Windows), which have rules of their own
            for who is reached directly.
    """

    named: Proxy | None = None
    found: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    is_system: bool = False

    @classmethod
    def from_environment(cls) -> Proxies:
        """Read the environment, or the system's settings where that names no proxy, as of now."""
        if not HAS_SETTINGS and not any(name.lower().endswith("_proxy") for name in os.environ):
            return cls()  # what is below costs tens of milliseconds to import
        from urllib.request import getproxies, getproxies_environment

        found = getproxies_environment()
        return cls(found=found) if found else cls(found=getproxies(), is_system=True)

    def choose(self, server: Server, *, allow_plaintext: bool = False) -> Proxy | None:
        """
        Return the proxy for a server, or None where it is reached directly.

        Raises:
            ValueError: the environment's proxy is malformed, or what is said to the server would cross the network in
                the clear on its way to the proxy.
        """
        proxy = self.named or self._found(server)
        if proxy is not None and not (server.secure or allow_plaintext or is_loopback(proxy.host)):
            raise ValueError(
                f"{server} through the proxy {proxy} would send everything in the clear; "
                "use wss://, or Wire(allow_plaintext=True)"
            )
        return proxy

    def _found(self, server: Server) -> Proxy | None:
        if is_loopback(server.host):
            return None
        for scheme in ("wss", "socks", "https") if server.secure else ("ws", "socks", "https", "http"):
            url = self.found.get(scheme)
            if url:
                return None if self._is_bypassed(server) else self._read(scheme, url)
        return None

    def _read(self, scheme: str, url: str) -> Proxy:
        source = f"the system's {scheme} proxy" if self.is_system else f"{scheme}_proxy in the environment"
        if scheme == "socks" and url.startswith("http://"):  # how the system's settings name a SOCKS proxy
            url = "socks5h" + url[len("http") :]
        return check_proxy(url if "://" in url else f"http://{url}", source)

    def _is_bypassed(self, server: Server) -> bool:
        from urllib.request import proxy_bypass, proxy_bypass_environment  # type: ignore[attr-defined]

        forms = {f"{host}:{server.port}" for host in (server.host, bracketed(server.host))}
        if self.is_system:
            return any(proxy_bypass(form) for form in forms)
        return any(proxy_bypass_environment(form, self.found) for form in forms)
