"""
The cookie jar of one Client in use: what a dial takes along, and what its answer, or that there is none, means for it.

Dials run in several threads at once, so the jar has a lock here. What a cookie is lives in ``affinity.py``; when a dial
must go without cookies is the session's to say (``Dial.is_fresh``).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from resilient_ws.affinity import Jar, Visit, names_in
from resilient_ws.dialling import DialOptions, Endpoint, check_url
from resilient_ws.exceptions import ConnectError
from resilient_ws.heads import Headers, values_of

T = TypeVar("T")

_UPGRADED = 101
_IN_TROUBLE = 500
"""From this status on an answer says that the node, or the way to it, does not work."""


@functools.cache
def _public_suffixes() -> Any:
    try:
        from publicsuffixlist import PublicSuffixList
    except ImportError:
        return None
    return PublicSuffixList()


def is_public_suffix(domain: str) -> bool:
    """Say whether anybody may register names below a domain; without the list (extra ``cookies``) every one counts."""
    known = _public_suffixes()
    return True if known is None else bool(known.is_public(domain))


@attrs.define(eq=False)
class _Dial:
    """
    One dial, which may try several ways to the place at once, each in a thread of its own.

    Attributes:
        visits: Handshakes that were asked and have no answer yet, by the thread.
        is_answered: There was an answer, whatever it was.
        is_over: A way was upgraded, or all is given up: what is answered now is nobody's.
    """

    place: Endpoint
    own: frozenset[str]
    visits: dict[int, Visit] = attrs.field(factory=dict)
    is_answered: bool = False
    is_over: bool = False


@attrs.define(eq=False, kw_only=True)
class Pinning:
    """
    The jar of one Client; any thread may dial.

    Attributes:
        clock: Monotonic.
        wall: Seconds since 1970; asked only for what a server dates without telling its own time.
    """

    clock: Callable[[], float]
    wall: Callable[[], float] = time.time
    _jar: Jar = attrs.field(factory=lambda: Jar(is_public_suffix))
    _lock: threading.Lock = attrs.field(factory=threading.Lock, repr=False)

    def dial(self, dialer: Callable[..., T], url: str, options: DialOptions, is_fresh: bool, **rest: Any) -> T:
        """
        Call ``dialer(url, options, **rest)`` with what the jar has for the place, and learn from the answer.

        Args:
            dialer: Opens a transport.
            url: Where.
            options: How.
            is_fresh: Forget first what led to the node that served before.
            rest: Handed on.

        Raises:
            Exception: What the dialer raises. Where the request had cookies and nothing was answered, they are dropped.
        """
        place = check_url(url, allow_plaintext=options.allow_plaintext)
        if is_fresh:
            with self._lock:
                self._jar.forget(place)
        this = _Dial(place, names_in(value for name, value in options.headers if name.lower() == "cookie"))
        with_jar = attrs.evolve(
            options,
            cookies=lambda: self._ask(this),
            on_response=lambda status, headers: self._hear(this, status, headers),
        )
        try:
            return dialer(url, with_jar, **rest)
        except ConnectError:
            self._give_up(this)
            raise

    def _ask(self, this: _Dial) -> bytes:
        with self._lock:
            visit = this.visits[threading.get_ident()] = self._jar.visit(this.place)
            return self._jar.cookies(visit, self.clock(), own=this.own)

    def _hear(self, this: _Dial, status: int, headers: Headers) -> None:
        date, lines = dict(headers).get("date", ""), values_of(headers, "set-cookie")
        with self._lock:
            visit = this.visits.pop(threading.get_ident())
            this.is_answered = True
            if this.is_over:
                return
            this.is_over = status == _UPGRADED
            if status >= _IN_TROUBLE:
                # Then what the same answer sets is not taken either: some balancers renew the pin with every answer.
                self._jar.missed(visit)
            self._jar.hear(visit, lines, date=date, wall=self.wall(), now=self.clock())

    def _give_up(self, this: _Dial) -> None:
        with self._lock:
            this.is_over = True
            for visit in () if this.is_answered else this.visits.values():
                self._jar.missed(visit)
