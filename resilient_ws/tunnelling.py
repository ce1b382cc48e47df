"""
The way to a server, through a proxy where there is one: HTTP CONNECT, spoken here, or SOCKS, spoken by python-socks.

All inside the dial's deadline, on non-blocking sockets: python-socks (the extra ``socks``) gets a connection of ours
and never opens, resolves or waits by itself; only this module imports it. The proxy's credentials go to the proxy and
nowhere else, and of what the caller means for the server nothing is known here but its name and port.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any

import attrs

from resilient_ws.connecting import Address, Deadline, connect, receive, resolve, send_all, wrap_tls
from resilient_ws.dialling import DialOptions, Endpoint
from resilient_ws.exceptions import HandshakeRejected, NoEndpoint, ProxyError
from resilient_ws.heads import Headers, read_answer, values_of
from resilient_ws.hosts import bracketed
from resilient_ws.layering import Stream
from resilient_ws.proxying import NEEDS_SOCKS, Proxy
from resilient_ws.treatments import Treatment, treat_status

_READ = 4 << 10
#: Ways to log in that proxies ask for and that are not spoken here; nothing else of their answers is shown.
_FOREIGN = ("Negotiate", "NTLM", "Kerberos", "Digest", "Bearer")
#: SOCKS5 replies that another attempt will not change: not allowed, no such command, no such kind of address.
_FINAL_REPLIES = (2, 7, 8)


def addresses_of(endpoint: Endpoint, options: DialOptions, deadline: Deadline) -> list[Address]:
    """
    Look up the addresses that a direct way to the server has; none where a proxy leads there.

    Raises:
        ValueError, NoEndpoint, ConnectTimeout: as :func:`reach`.
    """
    if options.proxies.choose(endpoint, allow_plaintext=options.allow_plaintext) is not None:
        return []
    return list(dict.fromkeys(resolve(endpoint, options.family, deadline)))


def reach(endpoint: Endpoint, options: DialOptions, deadline: Deadline, address: Address | None = None) -> Stream:
    """
    Connect to the server, directly or through the proxy that the options name for it, and by TLS where its URL says so.

    Args:
        address: Where a direct connection goes; None: wherever the name leads.

    Raises:
        ValueError: the way must not be taken; see ``Proxies.choose``.
        NoEndpoint, ProxyError, HandshakeRejected, ConnectTimeout: see ``connect``, ``tunnel`` and ``wrap_tls``.
    """
    proxy = options.proxies.choose(endpoint, allow_plaintext=options.allow_plaintext)
    if proxy is None:
        sock: Stream = connect(endpoint, options.family, deadline, address)
    else:
        sock = tunnel(endpoint, proxy, options, deadline)
    try:
        return wrap_tls(sock, endpoint, options.ssl, deadline) if endpoint.secure else sock
    except BaseException:
        sock.close()
        raise


def tunnel(endpoint: Endpoint, proxy: Proxy, options: DialOptions, deadline: Deadline) -> Stream:
    """
    Reach the server through the proxy.

    Returns:
        A connection that ends at the server: what is written to it, the server reads.

    Raises:
        ProxyError: the proxy was not reached, or did not do what it was asked for.
        NoEndpoint: the server's name, which this machine has to look up for ``socks5`` and ``socks4``, has no address.
        ConnectTimeout: the deadline passed first.
    """
    deadline.where = f"{endpoint} through the proxy {proxy} ({proxy.source})"
    if not proxy.is_socks:
        return _through(proxy, options, deadline, functools.partial(_connect, endpoint, proxy, deadline))
    failed = None
    for host in _targets(endpoint, proxy, options, deadline):
        try:
            return _through(proxy, options, deadline, functools.partial(_socks, (host, endpoint.port), proxy, deadline))
        except ProxyError as error:
            # Only where the proxy said that it cannot reach this address is there a point in naming the next one.
            if error.status is None or not error.retryable:
                raise
            failed = error
    raise failed or ProxyError(f"{deadline.where}: the name has no address that the proxy can be told")


def _through(proxy: Proxy, options: DialOptions, deadline: Deadline, ask: Callable[[Stream], None]) -> Stream:
    deadline.stage = "resolving the proxy's name"
    try:
        sock: Stream = connect(proxy, options.family, deadline, stagger=options.stagger)
    except NoEndpoint as error:
        raise ProxyError(f"{deadline.where}: the proxy was not reached: {error}") from None
    try:
        if proxy.scheme == "https":
            sock = _secured(sock, proxy, options, deadline)
        ask(sock)
        return sock
    except BaseException:
        sock.close()
        raise


def _secured(sock: Stream, proxy: Proxy, options: DialOptions, deadline: Deadline) -> Stream:
    try:
        return wrap_tls(sock, proxy, options.proxy_ssl, deadline, "proxy_ssl")
    except HandshakeRejected as error:
        raise ProxyError(f"{deadline.where}: {error}", retryable=error.retryable) from None


@attrs.define
class _Line:
    """One connection to a proxy, as python-socks takes a socket; every error is a ProxyError."""

    sock: Stream
    deadline: Deadline
    heard: bytes = b""

    def sendall(self, data: bytes) -> None:
        try:
            send_all(self.sock, data, self.deadline)
        except OSError as error:
            raise self.broken(f"closed the connection ({_name(error)})") from None

    def recv(self, size: int) -> bytes:
        try:
            self.heard = receive(self.sock, size, self.deadline)
        except OSError as error:
            raise self.broken(f"closed the connection before it answered ({_name(error)})") from None
        if not self.heard:
            raise self.broken("closed the connection before it answered")
        return self.heard

    def close(self) -> None:
        self.sock.close()

    def connect(self, **_: Any) -> _Line:
        """Be the way to the proxy that python-socks would otherwise open itself."""
        return self

    def broken(self, what: str) -> ProxyError:
        return ProxyError(f"{self.deadline.where}: the proxy {what}")


def _name(error: OSError) -> str:
    return error.strerror or type(error).__name__


# -- HTTP CONNECT -----------------------------------------------------------------------------------------------------


def _connect(endpoint: Endpoint, proxy: Proxy, deadline: Deadline, sock: Stream) -> None:
    line = _Line(sock, deadline)
    target = f"{bracketed(endpoint.host)}:{endpoint.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.basic is not None:
        lines.append(f"Proxy-Authorization: {proxy.basic}")
    deadline.stage = "asking the proxy for the server"
    line.sendall("".join(f"{text}\r\n" for text in [*lines, ""]).encode())
    deadline.stage = "waiting for the proxy's answer to CONNECT"
    status, headers, rest = read_answer(lambda: line.recv(_READ), line.broken)
    if not 200 <= status < 300:
        raise refusal(deadline.where, status, headers, has_credentials=proxy.basic is not None)
    if rest:
        # The server speaks second, in TLS and in the upgrade: whoever said this is not the server.
        raise line.broken("sent something behind its answer before anything was asked of the server")


def refusal(where: str, status: int, headers: Headers, *, has_credentials: bool) -> ProxyError:
    """Turn the answer to a CONNECT that is not 2xx into its exception; of the answer only the status is shown."""
    hints = {
        403: "it does not allow this server; ask who runs it",
        407: _who_are_we(headers, has_credentials),
        502: "it could not reach the server",
        503: "it could not reach the server",
        504: "the server did not answer it in time",
    }
    general = {1: "no tunnel was opened", 3: "a redirect, which is never followed", 5: "the proxy is in trouble"}
    hint = hints.get(status) or general.get(status // 100, "it does not do CONNECT for this server and port")
    text = f"{where}: the proxy answered HTTP {status} ({hint})"
    return ProxyError(text, status=status, retryable=status >= 200 and treat_status(status) is Treatment.RETRY)


def _who_are_we(headers: Headers, has_credentials: bool) -> str:
    offered = [value.partition(" ")[0].lower() for value in values_of(headers, "proxy-authenticate")]
    if offered and "basic" not in offered:
        names = ", ".join(name for name in _FOREIGN if name.lower() in offered) or "a way to log in that is not known"
        return f"it asks for {names}; only Basic is spoken here"
    if has_credentials:
        return "it does not accept the credentials that were sent; check user name and password in the proxy's URL"
    return "it asks who we are and no credentials were sent; name them: http://user:password@host:port"


# -- SOCKS ------------------------------------------------------------------------------------------------------------


def _targets(endpoint: Endpoint, proxy: Proxy, options: DialOptions, deadline: Deadline) -> list[str]:
    is_four = proxy.scheme.startswith("socks4")
    if is_four and ":" in endpoint.host:
        raise ProxyError(f"{deadline.where}: SOCKS4 knows no IPv6 addresses; use socks5://", retryable=False)
    if proxy.resolves:
        return [endpoint.host]
    found = resolve(endpoint, socket.AF_INET if is_four else options.family, deadline)
    return list(dict.fromkeys(where[0] for _, where in found))


def _socks(target: tuple[str, int], proxy: Proxy, deadline: Deadline, sock: Stream) -> None:
    try:
        import python_socks.sync as library
        from python_socks import ProxyError as Refused
        from python_socks import ProxyType
    except ImportError:
        raise ProxyError(f"{deadline.where}: {NEEDS_SOCKS}", retryable=False) from None
    line: Any = _Line(sock, deadline)
    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    deadline.stage = "asking the proxy for the server"
    named = (proxy.host, proxy.port, proxy.username, proxy.password or None)
    speaker = library.Proxy(kind, *named, rdns=True, forward=line)
    try:
        speaker.connect(*target)
    except Refused as error:
        raise _socks_refusal(line, proxy, error.error_code) from None
    except (UnicodeError, ValueError, OSError) as error:
        # Never its text: what could not be put into bytes may be a password.
        what = "could not be asked for the server, or gave an answer that nobody can read"
        raise line.broken(f"{what} ({type(error).__name__})") from None


def _socks_refusal(line: _Line, proxy: Proxy, code: int | None) -> ProxyError:
    sent = "credentials were sent" if proxy.username is not None else "no credentials were sent"
    if code is not None and proxy.scheme.startswith("socks4"):
        is_final = code in (0x5C, 0x5D)
        what = f"does not know who we are ({sent})" if is_final else "refused, or could not reach the server"
        return ProxyError(f"{line.broken(what)} (reply {code})", status=code, retryable=not is_final)
    if code is not None:
        what = "does not allow this server" if code == 2 else "could not reach the server"
        if code in (7, 8):
            what = "cannot do this kind of connection or address; try socks5h://"
        return ProxyError(f"{line.broken(what)} (reply {code})", status=code, retryable=code not in _FINAL_REPLIES)
    if line.heard[:1] in (b"\x05", b"\x01") and len(line.heard) == 2:
        what = f"does not let us log in ({sent}); name user and password: socks5://user:password@host:port"
        return ProxyError(str(line.broken(what)), retryable=False)
    return line.broken(f"does not speak {proxy.scheme.upper()[:6]}; is this the right port?")
