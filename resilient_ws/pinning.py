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
from resilient_ws.dialling import DialOptions, check_url
from resilient_ws.exceptions import ConnectError
from resilient_ws.heads import Headers, values_of

T = TypeVar("T")

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
class _Handshake:
    """One dial: whether its request went out, and what was answered."""

    visit: Visit
    is_asked: bool = False
    is_answered: bool = False


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
        with self._lock:
            if is_fresh:
                self._jar.forget(place)
            handshake = _Handshake(self._jar.visit(place))
        own = names_in(value for name, value in options.headers if name.lower() == "cookie")
        with_jar = attrs.evolve(
            options,
            cookies=lambda: self._ask(handshake, own),
            on_response=lambda status, headers: self._hear(handshake, status, headers),
        )
        try:
            return dialer(url, with_jar, **rest)
        except ConnectError:
            if handshake.is_asked and not handshake.is_answered:
                with self._lock:
                    self._jar.missed(handshake.visit)
            raise

    def _ask(self, handshake: _Handshake, own: frozenset[str]) -> bytes:
        handshake.is_asked = True
        with self._lock:
            return self._jar.cookies(handshake.visit, self.clock(), own=own)

    def _hear(self, handshake: _Handshake, status: int, headers: Headers) -> None:
        handshake.is_answered = True
        date = dict(headers).get("date", "")
        with self._lock:
            if status >= _IN_TROUBLE:
                # Then what the same answer sets is not taken either: some balancers renew the pin with every answer.
                self._jar.missed(handshake.visit)
            lines = values_of(headers, "set-cookie")
            self._jar.hear(handshake.visit, lines, date=date, wall=self.wall(), now=self.clock())
