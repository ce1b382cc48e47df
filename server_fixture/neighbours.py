"""
What a node says of itself to the others of its store, what it hears of them, and the advice to clients that follows.

Here live the sums and the lists. When a node says something is in ``host.py``, how they are kept is the backplane's. A
loop or a clock never lives here: ``now`` comes in, in seconds.
"""

from __future__ import annotations

import math

import attrs

from server_fixture.backplane import Announce, LivingNode

ACCEPT_RATE = 100
"""Hellos per second that a node says it can take, unless told otherwise; ``docs/measurements.md`` has what it takes."""
LIVES = 3
"""A node that has missed so many announcements is taken for dead."""
MAX_SPREAD = 300.0
"""Longest window in seconds that is advised."""
MAX_PEERS = 64
"""Most URLs in one welcome (section 5 of the protocol)."""


@attrs.define
class Neighbours:
    """
    One node among the others of its store.

    Args:
        name: The node's own.
        url: Where clients reach it.
        accept_rate: Hellos that it can take per second.
        interval: Seconds between two announcements.
        advertises: Whether clients are told where the others are.
        peers: URLs that clients are told in any case.
        spread: The window that clients are told in any case; None: it is computed.
    """

    name: str
    url: str
    accept_rate: int = ACCEPT_RATE
    interval: float = 2.0
    advertises: bool = False
    given_peers: tuple[str, ...] = attrs.field(default=(), alias="peers")
    given_spread: float | None = attrs.field(default=None, alias="spread")
    _others: tuple[LivingNode, ...] = ()
    _heard_at: float = -math.inf

    @property
    def ttl(self) -> float:
        """Seconds that a node lives after it announced itself."""
        return LIVES * self.interval

    def announcement(self, sessions: int, is_draining: bool) -> Announce:
        """Say that this node lives, with so many sessions."""
        return Announce(node=self._itself(sessions, is_draining), ttl=self.ttl)

    def farewell(self) -> Announce:
        """Say that this node ends."""
        return Announce(node=self._itself(0, True), ttl=0.0)

    def heard(self, others: tuple[LivingNode, ...], now: float) -> None:
        """Take note of who lives."""
        self._others, self._heard_at = others, now

    def is_informed(self, now: float) -> bool:
        """Say whether what was heard is fresh enough to be true."""
        return now - self._heard_at < self.ttl

    def others(self, now: float) -> tuple[LivingNode, ...]:
        """Return the other nodes that live, none where nothing fresh is known."""
        return self._others if self.is_informed(now) else ()

    def living(self, sessions: int, is_draining: bool, now: float) -> tuple[LivingNode, ...]:
        """Return every node that lives, this one first."""
        return (self._itself(sessions, is_draining), *self.others(now))

    def spread(self, sessions: int, now: float) -> float:
        """
        Return the seconds over which so many sessions should come back elsewhere: as many as the others can take.

        It is 0 where nobody else would take them, because nothing is known then; else whole milliseconds, rounded up.
        """
        if self.given_spread is not None:
            return self.given_spread
        rate = sum(other.accept_rate for other in self.others(now) if not other.is_draining)
        return min(MAX_SPREAD, math.ceil(1000 * sessions / rate) / 1000) if rate else 0.0

    def peers(self, now: float) -> tuple[str, ...]:
        """Return where else clients may go: what the operator named, then, where they are advertised, the others."""
        others = [other for other in self.others(now) if not other.is_draining] if self.advertises else []
        # Each node begins with the one after itself, so that not all of them send their clients to the same few.
        others.sort(key=lambda other: (other.name < self.name, other.name))
        urls = dict.fromkeys((*self.given_peers, *(other.url for other in others)))
        return tuple(url for url in urls if url != self.url)[:MAX_PEERS]

    def _itself(self, sessions: int, is_draining: bool) -> LivingNode:
        return LivingNode(
            name=self.name, url=self.url, sessions=sessions, accept_rate=self.accept_rate, is_draining=is_draining
        )
