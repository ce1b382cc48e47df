"""
Names and addresses of hosts as they stand in URLs: checked, and brought into one form.

Nothing is looked up here. An error never shows what was given: beside the host a URL may hold a credential.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Protocol

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")


class Place(Protocol):
    """What can be connected to by TCP: a server or a proxy. Its ``str`` names it without path or credentials."""

    @property
    def host(self) -> str:
        """Lower case, without brackets."""
        ...

    @property
    def port(self) -> int:
        """Never 0."""
        ...


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its name alone: ``localhost`` or a loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str | None, *, is_bracketed: bool) -> str:
    """
    Return a URL's host in lower case, an international name in its ASCII form.

    Raises:
        ValueError: there is none, or it is malformed.
    """
    if not host:
        raise ValueError("the URL has no host")
    if is_bracketed:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("the URL's IPv6 address is malformed") from None
        return host
    try:
        ascii_host = host.encode("idna").decode() if not host.isascii() else host
    except UnicodeError:
        raise ValueError("the URL's host is not a valid international name") from None
    if not _HOST.fullmatch(ascii_host):
        raise ValueError("the URL's host is malformed")
    return ascii_host.lower()


def bracketed(host: str) -> str:
    """Give a host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
