"""
Which endpoint to dial next: order, failures, ejection.

Pure bookkeeping over the URLs that were given; nothing here resolves a name or dials.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

import attrs

from resilient_ws.budget import Bucket
from resilient_ws.config import Budget, Failover

MOST_FORMER = 256
"""Of so many endpoints that are gone the health is kept."""


class Rng(Protocol):
    """What :class:`EndpointPool` needs of a ``random.Random``."""

    def shuffle(self, x: Any, /) -> None: ...


def shown(url: str) -> str:
    """Return scheme, host and port of a URL, for logs: path and query may hold a secret."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}"


@attrs.define
class _Health:
    bucket: Bucket | None
    failed_at: float = -math.inf
    failures: int = 0
    ejections: int = 0
    ejected_until: float = -math.inf
    held_until: float = -math.inf
    is_unpinned: bool = False

    def ready_at(self) -> float:
        return self.held_until if self.bucket is None else max(self.held_until, self.bucket.ready_at())

    def failed(self, now: float, failover: Failover) -> bool:
        self.failed_at = max(self.failed_at, now)
        self.failures += 1
        # One that is out already was dialled because nothing better was there: that does not make it any worse.
        if self.failures < failover.eject_after or now < self.ejected_until:
            return False
        try:
            grown = math.ldexp(failover.ejection, self.ejections)
        except OverflowError:
            grown = math.inf
        self.ejections += 1
        self.is_unpinned = True
        self.ejected_until = now + max(failover.ejection, min(grown, failover.max_ejection))
        return True

    def succeeded(self) -> bool:
        was_out = self.ejections > 0
        self.failures = 0
        self.ejections = 0
        self.ejected_until = -math.inf
        return was_out


class EndpointPool:
    """
    Order the endpoints of one Client.

    They are shuffled once, so that a herd of Clients does not walk through them in step. An endpoint that failed
    ``eject_after`` times in a row is out for a while that doubles with each ejection; when it is back, its next
    failure ejects it again, so that it gets one probe. While all would be out, none is: the one that failed longest ago
    is tried. One that asked not to be dialled for a while (``Retry-After``), or that was dialled as often as the budget
    allows, is held off: left alone until then; where all are, :meth:`rest` says for how long.

    Args:
        urls: The endpoints that were given; repeated ones count once. :meth:`take` adds others.
        failover: When and for how long to eject.
        rng: Shuffles.
        budget: How often one endpoint may be dialled; None: as often as asked for.
    """

    def __init__(self, urls: Sequence[str], failover: Failover, rng: Rng, budget: Budget | None = None) -> None:
        self._failover = failover
        self._budget = budget
        self._rng = rng
        self._named: dict[str, frozenset[str]] = {}
        self._health: dict[str, _Health] = {}
        self._former: dict[str, _Health] = {}
        self.take("given", urls)

    def take(self, source: str, urls: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
        """
        Take the endpoints that a source names, in place of those that it named before; the others' stay.

        Endpoints that were there keep their health. One that nobody names any more is not dialled again, and a
        connection to it may go on; its health is kept for when it is named again, so that none is forgiven by oblivion.

        Returns:
            Which are new, and which are gone.
        """
        self._named[source] = frozenset(urls)
        wanted = frozenset().union(*self._named.values())
        added, removed = wanted - self._health.keys(), self._health.keys() - wanted
        order = [url for url in dict.fromkeys([*self._health, *urls]) if url in wanted]
        if added:
            self._rng.shuffle(order)
        self._former |= {url: self._health[url] for url in removed}
        self._health = {url: self._health.get(url) or self._former.pop(url, None) or self._fresh() for url in order}
        for url in list(self._former)[:-MOST_FORMER]:
            del self._former[url]
        return added, frozenset(removed)

    def _fresh(self) -> _Health:
        return _Health(None if self._budget is None else Bucket(self._budget.burst, self._budget.refill))

    def _of(self, url: str) -> _Health:
        return self._health.get(url) or self._former.get(url) or self._fresh()

    @property
    def is_failing(self) -> bool:
        """Whether none is left that works as far as is known; an empty pool has none."""
        return all(health.failures for health in self._health.values())

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints in this Client's order."""
        return tuple(self._health)

    def next(self, now: float, *, avoid: Collection[str] = ()) -> str:
        """
        Choose the endpoint of the next attempt.

        Args:
            now: The present.
            avoid: Endpoints to pass over where there is another (already being dialled, or draining). An ejected one is
                not preferred to them.

        Returns:
            The least recently failed of the best group: not held off before held off, not ejected before ejected, then
            not avoided before avoided.
        """
        held, ejected = self.held(now), self.ejected(now)

        def badness(url: str) -> tuple[bool, bool, bool, float]:
            return url in held, url in ejected, url in avoid, self._health[url].failed_at

        return min(self._health, key=badness)

    def hold(self, url: str, until: float) -> None:
        """Note that the endpoint asked not to be dialled before then."""
        self._of(url).held_until = until

    def dialled(self, url: str, now: float) -> None:
        """Count an attempt against the endpoint's budget."""
        bucket = self._of(url).bucket
        if bucket is not None:
            bucket.spend(now)

    def held(self, now: float) -> frozenset[str]:
        """Return the endpoints that are not to be dialled yet."""
        return frozenset(url for url, health in self._health.items() if now < health.ready_at())

    def rest(self, now: float) -> float:
        """Return the seconds until one of them may be dialled; 0 where one may be at once."""
        return max(0.0, min((health.ready_at() for health in self._health.values()), default=now) - now)

    def failed(self, url: str, now: float) -> float | None:
        """
        Count an attempt that failed there, or a connection to it that was lost.

        Returns:
            Seconds for which the endpoint is left out, where this failure ejects it; else None.
        """
        health = self._of(url)
        return health.ejected_until - now if health.failed(now, self._failover) else None

    def succeeded(self, url: str, now: float) -> bool:
        """
        Note that the endpoint works: its failures and ejections are forgotten, its place in the order is not.

        Returns:
            Whether it had been ejected.
        """
        return self._of(url).succeeded()

    def state(self, url: str, now: float) -> Literal["good", "failing", "ejected", "on probation", "held off"]:
        """
        Say how an endpoint stands.

        Returns:
            ``held off``: it asked not to be dialled yet (``Retry-After``), or its budget is used up. ``ejected``: it is
            left out now. ``on probation``: its time is over, its next failure ejects it again. ``failing``: it failed
            since it worked last. Else ``good``.
        """
        health = self._health[url]
        if now < health.ready_at():
            return "held off"
        if now < health.ejected_until:
            return "ejected"
        if health.ejections:
            return "on probation"
        return "failing" if health.failures else "good"

    def unpin(self, url: str) -> None:
        """Note that the node behind an endpoint that served, or was tried, is not to be dialled again (affinity)."""
        self._of(url).is_unpinned = True

    def take_unpinned(self, url: str) -> bool:
        """Say, to the next dial only, whether :meth:`unpin` was called or the endpoint was ejected."""
        health = self._health[url]
        is_unpinned, health.is_unpinned = health.is_unpinned, False
        return is_unpinned

    def ejected(self, now: float) -> frozenset[str]:
        """Return the endpoints that are out; never all of them: a pool that is out as a whole has nobody to prefer."""
        out = frozenset(url for url, health in self._health.items() if now < health.ejected_until)
        return frozenset() if len(out) == len(self._health) else out

    def has_spare(self, now: float, busy: Collection[str]) -> bool:
        """Say whether an endpoint is there that is neither ejected, held off nor ``busy``: one to hedge with."""
        return not self._health.keys() <= self.ejected(now) | self.held(now) | set(busy)

    def has_other(self, url: str, now: float) -> bool:
        """Say whether an endpoint other than ``url`` is there that is neither ejected nor held off."""
        return not self._health.keys() <= self.ejected(now) | self.held(now) | {url}
