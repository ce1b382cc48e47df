"""
Sending as fast as the client can: CPU time of its process for each message.

``python -m benchmarks outbound``. Each run ends when the server has everything: a session when all is acked (``flush()``),
the others when the server has answered a last message. Sends of the Azure client, and those of the envelope in plain
Python, wait for acks too.
"""

from __future__ import annotations

import attrs

from benchmarks.inbound import FEW, LARGE, UNIT, per_message
from benchmarks.plan import Plan
from benchmarks.players import PEERS, SESSION, SUBJECTS, TRANSPORT
from benchmarks.rows import Row, compared
from benchmarks.serving import Place, server
from benchmarks.turns import Player, Process, Stage, count_for, in_turn


@attrs.frozen
class Case:
    """One case."""

    name: str
    players: tuple[Player, ...]
    size: int = 100
    is_text: bool = True
    tls: bool = False


TOGETHER = 64
"""Messages to one write()."""
WRITING_MANY = attrs.evolve(TRANSPORT, options={"many": TOGETHER})
CASES = (
    Case("100 B text", (SESSION, TRANSPORT, *PEERS)),
    Case("100 B text, 64 to a write()", (WRITING_MANY, *FEW)),
    Case("100 B binary", (SESSION, TRANSPORT, *FEW), is_text=False),
    Case("1 KiB text", (SESSION, TRANSPORT, *FEW), size=1024),
    Case("16 KiB text", (SESSION, TRANSPORT, *FEW), size=LARGE),
    Case("100 B text, TLS", (SESSION, TRANSPORT, *FEW), tls=True),
)


def run_case(case: Case, plan: Plan, place: Place, stage: Stage) -> list[Row]:
    """Run one case over a new connection of each player."""
    payload: str | bytes = "x" * case.size if case.is_text else b"x" * case.size
    counts: dict[str, int] = {}

    def send(process: Process) -> float:
        count = counts[process.player.name]
        return per_message(process.ask("send", payload, count), count)

    players = plan.among(*case.players)
    for player in players:
        process = stage.process(player)
        url = place.url(player.feed, size=case.size, is_text=case.is_text, tls=case.tls)
        process.open(player, url, place.certificate if case.tls else None)
        count = count_for(process, "send", plan.seconds, payload)
        counts[player.name] = -(-count // TOGETHER) * TOGETHER
    found = in_turn([stage.process(player) for player in players], plan.rounds, send)
    return compared("outbound", case.name, UNIT, found, SUBJECTS)


def run(plan: Plan) -> list[Row]:
    """Run every case."""
    rows: list[Row] = []
    with server(tls=True) as place, Stage() as stage:
        for case in CASES:
            found = run_case(case, plan, place, stage)
            plan.tell(found)
            rows += found
    return rows
