"""
A real storm: sessions in a few processes, three nodes behind a balancer on this machine, and one node that is killed.

What the clients see is written down in their own processes, by the clock that all processes of a machine share; how
many handshakes came at once is the balancer's to say.
"""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import attrs

from benchmarks.serving import raise_limit
from benchmarks.turns import Player, Process, Stage

PROCESSES = 4
WINDOW = 0.1
"""Seconds in which handshakes are counted."""
ANNOUNCE = 0.5
"""Seconds between two announcements of a node (``--announce``)."""
SETTLE = 4.0
"""Seconds after the last welcome in which nodes hear of each other's sessions, and clients of the new advice."""
PATIENCE = 60.0
"""Seconds until everybody has to be there, and back."""
_LOOK = 0.1


@attrs.frozen(kw_only=True)
class Aftermath:
    """
    What became of the clients of the killed node.

    Attributes:
        sessions: How many there were in all.
        advice: The ``--spread`` that was given; None: as the node computed it.
        attempts: Dials after the kill, by everybody.
        peak: Most handshakes in any tenth of a second after the kill.
        back: Seconds from the kill to the next welcome of each client that had lost its node, in order.
    """

    sessions: int
    advice: float | None
    attempts: int
    peak: int
    back: Sequence[float] = attrs.field(repr=False)

    @property
    def each(self) -> float:
        """Attempts for each client that lost its node."""
        return self.attempts / len(self.back)

    def time_to(self, share: float) -> float:
        """Return the seconds until that share of those who had lost their node (0 to 1) was back."""
        return self.back[math.ceil(share * len(self.back)) - 1]


class Crowd:
    """So many Clients of one process, and when they dialled, were welcomed, and lost."""

    def __init__(self, url: str, certificate: str | None = None, *, clients: int) -> None:
        import resilient_ws

        raise_limit()
        self.ops: list[tuple[float, int, str]] = []
        self.away = set(range(clients))
        self.clients = [
            resilient_ws.connect(url, subscribe=["s"], wait=False, on_event=functools.partial(self.note, number))
            for number in range(clients)
        ]

    def note(self, number: int, event: object) -> None:
        """Write down what a Client reports (in its dispatcher's thread)."""
        kind = type(event).__name__
        if kind == "ConnectionEnded":
            self.away.add(number)
        elif kind == "Connected":
            self.away.discard(number)
        self.ops.append((time.monotonic(), number, kind))

    def missing(self) -> int:
        """Return how many are not connected."""
        return len(self.away)

    def ended(self, since: float) -> int:
        """Return how many have lost a connection since an instant."""
        return len({number for at, number, kind in list(self.ops) if at >= since and kind == "ConnectionEnded"})

    def told(self, since: float) -> tuple[int, list[float]]:
        """Return how many attempts there were since an instant, and for each that lost its node when it was back."""
        attempts, lost, back = 0, set(), {}
        for at, number, kind in (op for op in list(self.ops) if op[0] >= since):
            attempts += kind == "Connecting"
            if kind == "ConnectionEnded":
                lost.add(number)
            elif kind == "Connected" and number in lost:
                back[number] = at - since
        return attempts, list(back.values())

    def close(self) -> None:
        """Let go; the process ends."""


def busiest(instants: Sequence[float], window: float) -> int:
    """Return how many of the instants, in order, at most lie in one window."""
    inside: collections.deque[float] = collections.deque()
    most = 0
    for at in instants:
        inside.append(at)
        while at - inside[0] > window:
            inside.popleft()
        most = max(most, len(inside))
    return most


def until(is_so: Callable[[], bool], what: str) -> None:
    """
    Wait.

    Raises:
        RuntimeError: It took longer than ``PATIENCE``.
    """
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the storm: {what} took longer than {PATIENCE:.0f} s")
        time.sleep(_LOOK)


def asked(crowds: Sequence[Process], verb: str, *args: Any) -> list[Any]:
    """Ask all of them."""
    for crowd in crowds:
        crowd.begin(verb, *args)
    return [crowd.end(verb).found for crowd in crowds]


def strike(sessions: int, advice: float | None, settle: float = SETTLE) -> Aftermath:
    """
    Open so many sessions, kill a node when all are welcomed, and return what became of them.

    Args:
        sessions: How many, in ``PROCESSES`` processes.
        advice: Seconds that every node advises; None: what it computes.
        settle: Seconds before the kill.

    Raises:
        RuntimeError: Not all came, or came back, in time.
    """
    from server_fixture.cluster import Cluster

    flags = {"announce": ANNOUNCE, **({} if advice is None else {"spread": advice})}
    shares = [len(range(number, sessions, PROCESSES)) for number in range(PROCESSES)]
    players = [
        Player(f"crowd-{number}", f"{__name__}:Crowd", options={"clients": share})
        for number, share in enumerate(shares)
    ]
    with Cluster(3, balancer="embedded", flags=flags) as cluster, closing(Stage()) as stage:
        balancer, victim = cluster.balancer, cluster.nodes[0]
        assert balancer is not None
        crowds = stage.open(players, lambda player: balancer.url)
        until(lambda: not sum(asked(crowds, "missing")), "the first welcome of all")
        time.sleep(settle)
        at_stake, killed_at = balancer.open[victim.name], time.monotonic()
        victim.kill()
        until(lambda: sum(asked(crowds, "ended", killed_at)) >= at_stake, "noticing it")
        until(lambda: not sum(asked(crowds, "missing")), "the next welcome of all")
        told = asked(crowds, "told", killed_at)
        return Aftermath(
            sessions=sessions,
            advice=advice,
            attempts=sum(attempts for attempts, _ in told),
            peak=busiest([at for at in list(balancer.came) if at >= killed_at], WINDOW),
            back=sorted(at for _, back in told for at in back),
        )
