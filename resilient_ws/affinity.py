"""
The cookies by which a balancer leads a client back to the same node: a small jar after RFC 6265, one for each Client.

Pure: wall time and monotonic time come in. No socket and no thread is here, and no header is read or written; who dials
and what its answers mean is in ``pinning.py``. Cookies are secrets: no value and no path is in any repr.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import attrs

MAX_SIZE = 4096
"""Bytes of one cookie's name and value together; what is larger is ignored."""
MAX_COOKIES = 50
"""How many one server may have in the jar; the one that was set longest ago goes first."""
MAX_TOTAL = 8 << 10
"""Bytes of them all together, as the Cookie header has them; likewise."""
MAX_AGE = 400 * 86_400.0
"""Seconds that a cookie lives at the longest."""
_MAX_ATTRIBUTE = 1024

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SECONDS = re.compile(r"(-?)([0-9]+)")
_DELIMITERS = re.compile(r"[\t\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
_DAY = re.compile(r"([0-9]{1,2})(?![0-9])")
_YEAR = re.compile(r"([0-9]{2,4})(?![0-9])")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Place(Protocol):
    """What is dialled, as an ``Endpoint`` says it."""

    @property
    def host(self) -> str:
        """Lower case, without brackets."""
        ...

    @property
    def port(self) -> int:
        """Always a number."""
        ...

    @property
    def path(self) -> str:
        """Begins with a slash; path and query."""
        ...

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        ...


# -- reading what a server says ---------------------------------------------------------------------------------------


def parse_date(text: str) -> float | None:
    """Read a date as forgivingly as RFC 6265 section 5.1.1 says; returns seconds since 1970, None where it is none."""
    clock: re.Match[str] | None = None
    day = month = year = None
    for token in _DELIMITERS.split(text):
        if clock is None and (found := _TIME.match(token)):
            clock = found
        elif day is None and (found := _DAY.match(token)):
            day = int(found[1])
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (found := _YEAR.match(token)):
            year = int(found[1])
    if clock is None or day is None or month is None or year is None:
        return None
    if year < 100:
        year += 1900 if year >= 70 else 2000
    if year < 1601:
        return None
    try:
        hour, minute, second = map(int, clock.groups())
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    return moment.timestamp()


def names_in(cookies: Iterable[str]) -> frozenset[str]:
    """Return the names of the cookies in some Cookie headers."""
    return frozenset(pair.partition("=")[0].strip(" \t") for value in cookies for pair in value.split(";"))


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def domain_matches(host: str, domain: str) -> bool:
    """Tell whether a host is this domain or lies in it (RFC 6265 section 5.1.3)."""
    return host == domain or (host.endswith(f".{domain}") and not is_address(host))


def path_matches(path: str, given: str) -> bool:
    """Tell whether a cookie with the path ``given`` goes with a request for ``path`` (RFC 6265 section 5.1.4)."""
    return path == given or (path.startswith(given) and (given.endswith("/") or path[len(given)] == "/"))


def _path_of(place: Place) -> str:
    return place.path.partition("?")[0]


def _default_path(place: Place) -> str:
    return _path_of(place).rpartition("/")[0] or "/"


@attrs.frozen(kw_only=True)
class _Line:
    """A Set-Cookie header, taken apart: attributes by their names in lower case, the last one of a name."""

    name: str
    value: str = attrs.field(repr=False)
    attributes: dict[str, str] = attrs.field(repr=False)

    def lifetime(self, date: float) -> float:
        """Return for how many seconds it is good; 0 or less: it is deleted, infinite: nothing was said."""
        found = _SECONDS.fullmatch(self.attributes.get("max-age", ""))
        if found is not None:
            return 0.0 if found[1] else min(float(found[2][:12]), MAX_AGE)
        until = parse_date(self.attributes.get("expires", ""))
        return math.inf if until is None else min(until - date, MAX_AGE)


def _parse_line(text: str) -> _Line | None:
    """Take a Set-Cookie header apart; None where it is not fit to be kept."""
    if _CONTROL.search(text) or any(ord(char) > 0xFF for char in text):
        return None
    pair, *rest = text.split(";")
    name, equals, value = (part.strip(" \t") for part in pair.partition("="))
    if not equals or not name or len(name) + len(value) > MAX_SIZE:
        return None
    attributes = {}
    for attribute in rest:
        key, _, said = attribute.partition("=")
        if len(said) <= _MAX_ATTRIBUTE:
            attributes[key.strip(" \t").lower()] = said.strip(" \t")
    return _Line(name=name, value=value, attributes=attributes)


# -- the jar ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Cookie:
    """
    What is kept; ``port`` is None where it goes to every host of ``domain``, else it goes to this very server only.

    ``given_by`` (host and port) answers for its room in the jar.
    """

    name: str
    value: str = attrs.field(repr=False)
    domain: str
    port: int | None
    path: str = attrs.field(repr=False)
    is_secure: bool
    expires_at: float
    given_by: tuple[str, int]
    created: int

    @property
    def key(self) -> tuple[str, str, int | None, str]:
        return self.name, self.domain, self.port, self.path

    @property
    def size(self) -> int:
        return len(self.name) + len(self.value) + 3

    def reaches(self, host: str, port: int) -> bool:
        if self.port is not None:
            return (host, port) == (self.domain, self.port)
        return domain_matches(host, self.domain)

    def goes_with(self, place: Place) -> bool:
        """Say whether a request for this place carries it."""
        return (
            self.reaches(place.host, place.port)
            and (place.secure or not self.is_secure)
            and path_matches(_path_of(place), self.path)
        )


@attrs.define(eq=False)
class Visit:
    """
    One handshake, from the jar's side.

    Attributes:
        place: Where.
        generation: How often the cookies of the place had been dropped when it began.
        has_sent: Whether it took cookies along.
    """

    place: Place = attrs.field(repr=False)
    generation: int
    has_sent: bool = attrs.field(default=False, init=False)


class Jar:
    """
    Keep what servers set, and say what goes back.

    A cookie without ``Domain`` goes back to the host and port that set it. One with ``Domain`` goes to every endpoint
    of that domain where ``is_public_suffix`` can say that the domain is somebody's own; else it is kept like one
    without. What is malformed, or for a foreign domain, is ignored, and what was kept stays.

    Args:
        is_public_suffix: Says whether anybody may register names below a domain (``co.uk``); None: nobody knows.
    """

    def __init__(self, is_public_suffix: Callable[[str], bool] | None = None) -> None:
        self._is_public_suffix = is_public_suffix
        # In the order in which they were set the last time.
        self._cookies: dict[tuple[str, str, int | None, str], _Cookie] = {}
        self._generations: dict[tuple[str, int], int] = {}
        self._created = 0

    def __len__(self) -> int:
        return len(self._cookies)

    def __repr__(self) -> str:
        return f"<Jar of {len(self)} cookies>"

    def visit(self, place: Place) -> Visit:
        """Begin a handshake there."""
        return Visit(place, self._generation(place))

    def _generation(self, place: Place) -> int:
        return self._generations.get((place.host, place.port), 0)

    def cookies(self, visit: Visit, now: float, *, own: Collection[str] = ()) -> bytes:
        """
        Return what the handshake's Cookie header holds, byte for byte as it was set; empty: nothing.

        Args:
            visit: The handshake.
            now: Monotonic, in seconds.
            own: Names that the user's own header has: those are left to it.
        """
        self._cookies = {key: cookie for key, cookie in self._cookies.items() if now < cookie.expires_at}
        found = [c for c in self._cookies.values() if c.goes_with(visit.place) and c.name not in own]
        found.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        visit.has_sent = bool(found)
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in found).encode("latin-1")

    def hear(self, visit: Visit, lines: Sequence[str], *, date: str, wall: float, now: float) -> None:
        """
        Take what the answer to a handshake sets, or deletes.

        What a handshake brings that took cookies along which were dropped meanwhile is not taken: it would lead back.

        Args:
            visit: The handshake.
            lines: The values of its Set-Cookie headers.
            date: Its Date header, from which ``Expires`` counts; where it is none, ``wall`` takes its place.
            wall: Seconds since 1970.
            now: Monotonic, in seconds.
        """
        if visit.has_sent and visit.generation != self._generation(visit.place):
            return
        said = parse_date(date)
        for text in lines:
            line = _parse_line(text)
            if line is not None:
                self._take(visit.place, line, wall if said is None else said, now)

    def missed(self, visit: Visit) -> None:
        """The handshake failed where its cookies led: drop them, unless others have taken their place since."""
        if visit.has_sent and visit.generation == self._generation(visit.place):
            self.forget(visit.place)

    def forget(self, place: Place) -> None:
        """Drop every cookie that goes to this host and port, whatever its path."""
        where = place.host, place.port
        self._generations[where] = self._generation(place) + 1
        self._cookies = {key: cookie for key, cookie in self._cookies.items() if not cookie.reaches(*where)}

    def _take(self, place: Place, line: _Line, date: float, now: float) -> None:
        domain, path = line.attributes.get("domain", "").removeprefix(".").lower(), line.attributes.get("path", "")
        if domain and not domain_matches(place.host, domain):
            return
        is_wide = self._is_wide(domain)
        lifetime, is_secure = line.lifetime(date), "secure" in line.attributes
        cookie = _Cookie(
            name=line.name,
            value=line.value,
            domain=domain if is_wide else place.host,
            port=None if is_wide else place.port,
            path=path if path.startswith("/") else _default_path(place),
            is_secure=is_secure,
            expires_at=now + lifetime,
            given_by=(place.host, place.port),
            created=self._created,
        )
        before = self._cookies.get(cookie.key)
        # What was said over TLS cannot be replaced, nor claimed, by who speaks in the clear.
        if not place.secure and (is_secure or (before is not None and before.is_secure)):
            return
        self._cookies.pop(cookie.key, None)
        if lifetime > 0:
            self._created += 1
            self._cookies[cookie.key] = cookie if before is None else attrs.evolve(cookie, created=before.created)
            self._make_room(cookie.given_by)

    def _is_wide(self, domain: str) -> bool:
        """Say whether a cookie may go to all of a domain, which the server that sets it lies in."""
        if self._is_public_suffix is None or "." not in domain or is_address(domain):
            return False
        return not self._is_public_suffix(domain)

    def _make_room(self, given_by: tuple[str, int]) -> None:
        theirs = [cookie for cookie in self._cookies.values() if cookie.given_by == given_by]
        size = sum(cookie.size for cookie in theirs)
        while len(theirs) > MAX_COOKIES or size > MAX_TOTAL:
            oldest = theirs.pop(0)
            size -= oldest.size
            del self._cookies[oldest.key]
