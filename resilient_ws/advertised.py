"""
Which endpoints may be dialled that nobody gave to ``connect()``: those that discovery or a server names.

Pure: what is said is taken apart and held against the rules; nothing is looked up. Whoever is believed here is sent the
access token and the session's own, so a name that is not known is refused. Errors show no path and no query.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from resilient_ws.dialling import Endpoint, check_url
from resilient_ws.hosts import check_host, is_loopback

MAX_ENDPOINTS = 256
"""An answer that names more is refused."""
_HTTP = {"https": "wss", "http": "ws"}
_PATTERN = re.compile(r"(?P<any>\*\.)?(?P<host>[^:\[\]/@*]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?")
_FORM = "a name, an address, or *.domain for the names below a domain, with :port or without"


def check_source(url: str, what: str, *, allow_plaintext: bool = False) -> Endpoint:
    """
    Take the URL of something that is asked over HTTP apart; the rules are those of ``check_url``.

    Args:
        url: ``https://`` or, to this machine, ``http://``.
        what: The argument that it comes from, for the error's text.
        allow_plaintext: Allow ``http://`` to other hosts than this one.

    Raises:
        ValueError: It must not be asked.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _HTTP:
        raise ValueError(f"{what} takes an https:// URL (or http:// to this machine) or a function")
    try:
        return check_url(f"{_HTTP[scheme.lower()]}://{rest}", allow_plaintext=allow_plaintext)
    except ValueError as error:
        text = str(error).replace("wss://", "https://").replace("ws://", "http://")
        raise ValueError(f"{what}: {text}") from None


@attrs.frozen
class Trusted:
    """
    One of ``Failover(trusted_hosts=)``.

    Attributes:
        host: Lower case.
        is_domain: The names below it are meant, not itself.
        port: None: any.
    """

    host: str
    is_domain: bool
    port: int | None

    @classmethod
    def read(cls, written: str) -> Trusted:
        """
        Take a pattern apart.

        Raises:
            ValueError: It is none.
        """
        found = _PATTERN.fullmatch(written)
        try:
            if found is None:
                raise ValueError("it has another form")
            bare = found["host"].strip("[]")
            host = check_host(bare, is_bracketed=found["host"] != bare)
        except ValueError as error:
            raise ValueError(f"Failover(trusted_hosts=): {written!r} is not {_FORM} ({error})") from None
        if found["any"] and "." not in host:
            raise ValueError(f"Failover(trusted_hosts=): {written!r} would trust everybody; name a domain below it")
        return cls(host, found["any"] is not None, None if found["port"] is None else int(found["port"]))

    def has(self, endpoint: Endpoint) -> bool:
        """Say whether an endpoint is meant."""
        is_host = endpoint.host.endswith(f".{self.host}") if self.is_domain else endpoint.host == self.host
        return is_host and self.port in (None, endpoint.port)


@attrs.frozen(kw_only=True)
class Rules:
    """
    What is believed.

    Attributes:
        given: The endpoints that ``connect()`` was given.
        trusted: Further ones.
        allow_plaintext: As in ``Wire``.
    """

    given: tuple[Endpoint, ...]
    trusted: tuple[Trusted, ...]
    allow_plaintext: bool

    @classmethod
    def of(cls, urls: Iterable[str], trusted_hosts: Iterable[str], *, allow_plaintext: bool) -> Rules:
        """
        Make the rules of one ``connect()``.

        Raises:
            ValueError: One of the hosts is no pattern.
        """
        given = tuple(check_url(url, allow_plaintext=allow_plaintext) for url in urls)
        return cls(given=given, trusted=tuple(map(Trusted.read, trusted_hosts)), allow_plaintext=allow_plaintext)

    def check_peer(self, url: str, told_by: Endpoint) -> None:
        """
        Check what a server said: scheme, host and port are those of an endpoint that was given, or of a trusted host.

        Raises:
            ValueError: It is not to be dialled.
        """
        endpoint = check_url(url, allow_plaintext=self.allow_plaintext)
        if told_by.secure and not endpoint.secure:
            raise ValueError(f"{endpoint} was named by a server that is reached by TLS, and would be reached without")
        if endpoint.origin not in {known.origin for known in self.given} and not self._trusts(endpoint):
            raise ValueError(f"{endpoint} is neither one of the given endpoints nor in Failover(trusted_hosts=)")

    def vet(self, peers: Sequence[str], told_by: str) -> list[str]:
        """Return those of the URLs that a server named which may be dialled; ``told_by`` is the server's own URL."""
        teller = check_url(told_by, allow_plaintext=True)
        return _split(peers, lambda url: self.check_peer(url, teller))[0]

    def check_found(self, url: str, source: Endpoint | None) -> None:
        """
        Check what discovery said: of a URL the host is its own or a given endpoint's, or a name below one of them, or
        trusted; a function (None) may name whatever ``connect()`` might be given.

        Raises:
            ValueError: It is not to be dialled.
        """
        endpoint = check_url(url, allow_plaintext=self.allow_plaintext)
        if source is None:
            return
        if source.secure and not endpoint.secure and not is_loopback(endpoint.host):
            raise ValueError(f"{endpoint} was found by https:// and would be reached without TLS")
        known = {source.host, *(given.host for given in self.given)}
        is_own = any(endpoint.host == host or endpoint.host.endswith(f".{host}") for host in known)
        if not is_own and not self._trusts(endpoint):
            raise ValueError(f"{endpoint} belongs to somebody else as far as is known; see Failover(trusted_hosts=)")

    def _trusts(self, endpoint: Endpoint) -> bool:
        return any(trusted.has(endpoint) for trusted in self.trusted)


@attrs.frozen(kw_only=True)
class Found:
    """
    What discovery found.

    Attributes:
        urls: What may be dialled; at least one.
        ttl: Seconds that it is good for; None where nobody says.
        refused: How many were named that may not be.
        why: What is wrong with the first of these.
    """

    urls: tuple[str, ...]
    ttl: float | None
    refused: int = 0
    why: str = ""


def _split(urls: Iterable[str], check: Callable[[str], None]) -> tuple[list[str], list[str]]:
    good, bad = [], []
    for url in dict.fromkeys(urls):
        try:
            check(url)
        except ValueError as error:
            bad.append(str(error))
        else:
            good.append(url)
    return good, bad


def choose(urls: Sequence[str], ttl: float | None, rules: Rules, source: Endpoint | None) -> Found:
    """
    Hold what discovery named against the rules.

    Raises:
        ValueError: Nothing is left, or it is too much.
    """
    urls = list(dict.fromkeys(urls))
    if not urls:
        raise ValueError("it names no endpoint")
    if len(urls) > MAX_ENDPOINTS:
        raise ValueError(f"it names {len(urls)} endpoints, at most {MAX_ENDPOINTS} are taken")
    good, bad = _split(urls, lambda url: rules.check_found(url, source))
    if not good:
        raise ValueError(f"none of the endpoints that it names may be dialled: {bad[0]}")
    return Found(urls=tuple(good), ttl=ttl, refused=len(bad), why=bad[0] if bad else "")


def read_endpoints(body: bytes) -> tuple[list[str], float | None]:
    """
    Read ``{"endpoints": [{"url": ..., "draining": false}, ...], "ttl": seconds}``; what else is there is ignored.

    Returns:
        The URLs of those that do not drain, of all where all do, and the ttl.

    Raises:
        ValueError: It is something else; the text says what.
    """
    answer = read_object(body)
    entries = answer.get("endpoints")
    if not isinstance(entries, list):
        raise ValueError("it has no list `endpoints`")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
            raise ValueError("an entry of `endpoints` is no object with a string `url`")
    staying = [entry["url"] for entry in entries if entry.get("draining") is not True]
    return staying or [entry["url"] for entry in entries], read_seconds(answer.get("ttl"), "ttl")


def read_object(body: bytes) -> dict[str, Any]:
    """
    Read a JSON object.

    Raises:
        ValueError: It is something else; the text never quotes it.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is JSON, but no object")
    return found


def read_seconds(value: object, what: str) -> float | None:
    """
    Read a number of seconds, above 0; None is none.

    Raises:
        ValueError: It is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{what} is not a number of seconds above 0")
    return float(value)
