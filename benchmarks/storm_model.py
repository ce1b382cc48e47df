"""
A storm in simulated time: every client of a dead node wants a connection at once, and the others accept only so many.

The rules, all of them:

- At 0 the node dies. Each client notices between 0 and ``NOTICE`` seconds later, evenly, as resets arrive.
- A client dials when its policy says. An attempt reaches the servers in no time.
- The servers that live are one queue. It takes ``capacity`` attempts a second, one after the other, in the order in
  which they came, and ``backlog`` of them may be in it. An attempt that finds it full is refused; the client knows that
  ``REFUSAL`` seconds later.
- A client waits in the queue for as long as its policy's connect timeout says. Where its turn comes in that time it is
  welcomed, and stays. Else it has failed, and the servers do its work nevertheless, for nobody: a policy whose
  timeout is shorter than the queue never gets anybody in.
- An attempt at the dead node itself is refused at once, and is no work for anybody: it is not counted.
- A client whose policy gives up is gone. After ``until`` seconds nothing more is looked at.

Simulated time only: the same seed gives the same storm. Nothing of a policy lives here (``storm_policies.py``).
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import math
import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs

NOTICE = 0.02
"""Seconds after which the last client has noticed."""
REFUSAL = 0.001
"""Seconds until a client knows that it was refused."""
SLICES = 10
"""Attempts are counted in tenths of a second, and a second is any ten of them in a row."""


class Policy(Protocol):
    """When the clients of one kind dial; it keeps what each of them (``client``: 0 and up) has gone through."""

    @property
    def name(self) -> str: ...

    def ready(self, clients: int, rng: random.Random) -> None:
        """Begin a storm of so many clients; everything that is drawn comes from ``rng``."""

    def lost(self, client: int, now: float) -> float:
        """Its node is gone; returns when it dials."""

    def dial(self, client: int, now: float) -> float | None:
        """It dials; returns after how many seconds it gives this attempt up, None where it dials the dead node."""

    def failed(self, client: int, now: float) -> float | None:
        """The attempt failed; returns when it dials next, None where it never does."""

    def welcomed(self, client: int) -> None:
        """It is back."""


@attrs.frozen(kw_only=True)
class Servers:
    """
    Those that live.

    Attributes:
        capacity: Attempts that they accept per second.
        backlog: Attempts that may wait.
    """

    capacity: int = 2_000
    backlog: int = 4_096


@attrs.frozen(kw_only=True)
class Storm:
    """
    What became of the clients of one policy.

    Attributes:
        policy: Its name.
        clients: How many there are.
        capacity: What the servers accept per second.
        attempts: All of them.
        peak: Most attempts in any second.
        sharpest: Most attempts in a tenth of a second.
        wasted: Attempts that were accepted after their client had given them up.
        gave_up: Clients that will never dial again.
        back: When each of those that are back was welcomed, in order.
    """

    policy: str
    clients: int
    capacity: int
    attempts: int
    peak: int
    sharpest: int
    wasted: int
    gave_up: int
    back: Sequence[float] = attrs.field(repr=False)

    @property
    def pressure(self) -> float:
        """Most attempts in a second, over what the servers accept in one."""
        return self.peak / self.capacity

    @property
    def each(self) -> float:
        """Attempts per client."""
        return self.attempts / self.clients

    @property
    def never(self) -> int:
        """Clients that are not back: they gave up, or all that was looked at was over."""
        return self.clients - len(self.back)

    def time_to(self, share: float) -> float:
        """Return the seconds until that share of the clients (0 to 1) was back; infinite where it never was."""
        wanted = math.ceil(share * self.clients)
        return self.back[wanted - 1] if wanted <= len(self.back) else math.inf

    def over_ideal(self, share: float) -> float:
        """Return :meth:`time_to` over what it takes where the servers are never idle and nobody comes in vain."""
        return self.time_to(share) * self.capacity / (share * self.clients)


@attrs.define
class _Queue:
    """The servers' queue: when they have done what is in it."""

    servers: Servers
    done_at: float = 0.0

    def enter(self, now: float) -> float | None:
        """Take an attempt in; returns how long it waits for its turn, None where there is no place."""
        start = max(self.done_at, now)
        if (start - now) * self.servers.capacity >= self.servers.backlog:
            return None
        self.done_at = start + 1 / self.servers.capacity
        return self.done_at - now


def peaks(slices: Sequence[int]) -> tuple[int, int]:
    """Return the most attempts in any second, and in any one slice."""
    most = inside = 0
    for index, count in enumerate(slices):
        inside += count - (slices[index - SLICES] if index >= SLICES else 0)
        most = max(most, inside)
    return most, max(slices)


@attrs.define
class _Tally:
    """What is counted while a storm goes on."""

    back: list[float] = attrs.field(factory=list)
    slices: list[int] = attrs.field(factory=lambda: [0])
    wasted: int = 0
    gave_up: int = 0

    def attempt(self, now: float) -> None:
        """Count one that reaches the servers; ``now`` never goes back."""
        self.slices += [0] * (int(now * SLICES) + 1 - len(self.slices))
        self.slices[-1] += 1


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector away: it would look at millions of objects, none of them in a circle, again and again."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def simulate(
    policy: Policy, clients: int, *, servers: Servers = Servers(), seed: int = 1, until: float = 7_200.0
) -> Storm:
    """
    Let the node of so many clients die, and return what became of them.

    Args:
        policy: Theirs.
        clients: At least one.
        servers: Those that live.
        seed: Of everything that is drawn.
        until: Seconds that are looked at.
    """
    rng, tally = random.Random(seed), _Tally()
    with _uncollected():
        policy.ready(clients, rng)
        due = [(policy.lost(client, rng.uniform(0.0, NOTICE)), client) for client in range(clients)]
        heapq.heapify(due)
        _run(policy, due, _Queue(servers), tally, until)
    peak, sharpest = peaks(tally.slices)
    return Storm(
        policy=policy.name,
        clients=clients,
        capacity=servers.capacity,
        attempts=sum(tally.slices),
        peak=peak,
        sharpest=sharpest,
        wasted=tally.wasted,
        gave_up=tally.gave_up,
        back=tally.back,
    )


def _run(policy: Policy, due: list[tuple[float, int]], queue: _Queue, tally: _Tally, until: float) -> None:
    """Take one attempt after the other, in the order of time; what becomes of each is known when it comes."""
    while due and due[0][0] < until:
        now, client = due[0]
        timeout, wait = policy.dial(client, now), None
        if timeout is not None:
            tally.attempt(now)
            wait = queue.enter(now)
        if timeout is not None and wait is not None and wait <= timeout:
            tally.back.append(now + wait)
            policy.welcomed(client)
            heapq.heappop(due)
            continue
        took = REFUSAL
        if timeout is not None and wait is not None:
            tally.wasted += 1
            took = timeout
        again = policy.failed(client, now + took)
        if again is None:
            tally.gave_up += 1
            heapq.heappop(due)
        else:
            heapq.heapreplace(due, (again, client))
