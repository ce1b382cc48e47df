"""
Receiving as fast as the client can: CPU time of its process for each message.

``python -m benchmarks inbound``. A session receives by ``recv_many()``, except in the case that says ``recv()``; every
guarantee is on, with default settings. The server has the frames ready before anybody waits for them.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial

import attrs

from benchmarks.plan import Plan
from benchmarks.players import (
    AIOHTTP,
    BATCH,
    OURS,
    PEERS,
    PICOWS,
    PLAIN,
    SESSION,
    SKIPPING,
    SUBJECTS,
    TRANSPORT,
    WEBSOCKETS,
)
from benchmarks.rows import Row, compared
from benchmarks.serving import Place, server
from benchmarks.turns import Cost, Player, Process, Stage, count_for, in_turn

UNIT = "us of CPU each"
FEW = (PLAIN, SKIPPING, WEBSOCKETS, AIOHTTP, PICOWS)
FEWER = (SKIPPING, WEBSOCKETS, PICOWS)
LARGE = 16 << 10


@attrs.frozen
class Case:
    """One case; ``kind`` is what the table calls it."""

    name: str
    players: tuple[Player, ...]
    size: int = 100
    is_text: bool = True
    tls: bool = False
    is_deflated: bool = False

    def url(self, place: Place, player: Player) -> str:
        """Return where a player connects to."""
        how = {"is_text": self.is_text, "tls": self.tls, "is_deflated": self.is_deflated}
        return place.url(player.feed, size=self.size, **how)


def one_by_one(player: Player) -> Player:
    """Return a session that calls ``recv()`` for every message."""
    return attrs.evolve(player, options={**player.options, "many": False})


def deflating(*players: Player) -> tuple[Player, ...]:
    """Return these players, each asking for permessage-deflate."""
    return tuple(attrs.evolve(player, options={**player.options, "deflate": True}) for player in players)


COMPRESSING = deflating(SESSION, TRANSPORT, WEBSOCKETS, AIOHTTP)
CASES = (
    Case("100 B text", (*OURS, *PEERS)),
    Case("100 B text, recv()", (one_by_one(SESSION), one_by_one(BATCH), *FEWER)),
    Case("100 B binary", (*OURS, *FEWER), is_text=False),
    Case("1 KiB text", (*OURS, *FEW), size=1024),
    Case("16 KiB text", (*OURS, *FEW), size=LARGE),
    Case("100 B text, TLS", (*OURS, *FEWER), tls=True),
    Case("1 KiB text, deflate", COMPRESSING, size=1024, is_deflated=True),
)
MORE = (
    Case("1 KiB binary", (*OURS, *FEW), size=1024, is_text=False),
    Case("16 KiB binary", (*OURS, *FEW), size=LARGE, is_text=False),
    Case("16 KiB text, TLS", (*OURS, *FEW), size=LARGE, tls=True),
    Case("100 B text, deflate", COMPRESSING, is_deflated=True),
    Case("16 KiB text, deflate", COMPRESSING, size=LARGE, is_deflated=True),
)
"""With ``--full`` too."""


def per_message(cost: Cost, count: int) -> float:
    """Return the CPU time of one message in microseconds."""
    return 1e6 * cost.cpu / count


def run_case(case: Case, plan: Plan, place: Place, stage: Stage) -> list[Row]:
    """Run one case over a new connection of each player."""
    counts: dict[str, int] = {}

    def receive(process: Process) -> float:
        count = counts[process.player.name]
        return per_message(process.ask("receive", count), count)

    players = plan.among(*case.players)
    opened = stage.open(players, partial(case.url, place), place.certificate if case.tls else None)
    for process in opened:
        counts[process.player.name] = count_for(process, "receive", plan.seconds)
    found = in_turn(opened, plan.rounds, receive)
    return compared("inbound", case.name, UNIT, found, SUBJECTS)


def run(plan: Plan) -> list[Row]:
    """Run every case."""
    rows: list[Row] = []
    cases = [*CASES, *(MORE if plan.is_full else ())]
    with server(tls=True) as place, closing(Stage()) as stage:
        cases = [case for case in cases if place.certificate or not case.tls]
        for case in cases:
            found = run_case(case, plan, place, stage)
            plan.tell(found)
            rows += found
    return rows
