"""
Sending as fast as the client can: CPU time of its process for each message.

``python -m benchmarks outbound``. Each run ends when the server has everything: a session when all is acked
(``flush()``), the others when the server has answered a last message. The envelope in plain Python waits for acks too.
The Azure client is asked for none: its ``send_event()`` sleeps for 30 s where the ack is faster than its own thread.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial

import attrs

from benchmarks.inbound import FEW, FEWER, LARGE, UNIT, Case, per_message
from benchmarks.plan import Plan
from benchmarks.players import PEERS, SESSION, SUBJECTS, TRANSPORT
from benchmarks.rows import Row, compared
from benchmarks.serving import Place, server
from benchmarks.turns import Process, Stage, count_for, in_turn

TOGETHER = 64
"""Messages to one write()."""
WRITING_MANY = attrs.evolve(TRANSPORT, options={"many": TOGETHER})
CASES = (
    Case("100 B text", (SESSION, TRANSPORT, *PEERS)),
    Case("100 B text, 64 to a write()", (WRITING_MANY, *FEWER)),
    Case("100 B binary", (SESSION, TRANSPORT, *FEWER), is_text=False),
    Case("1 KiB text", (SESSION, TRANSPORT, *FEW), size=1024),
    Case("16 KiB text", (SESSION, TRANSPORT, *FEW), size=LARGE),
    Case("100 B text, TLS", (SESSION, TRANSPORT, *FEWER), tls=True),
)


def run_case(case: Case, plan: Plan, place: Place, stage: Stage) -> list[Row]:
    """Run one case over a new connection of each player."""
    payload: str | bytes = "x" * case.size if case.is_text else b"x" * case.size
    counts: dict[str, int] = {}

    def send(process: Process) -> float:
        count = counts[process.player.name]
        return per_message(process.ask("send", payload, count), count)

    players = plan.among(*case.players)
    opened = stage.open(players, partial(case.url, place), place.certificate if case.tls else None)
    for process in opened:
        count = count_for(process, "send", plan.seconds, payload)
        counts[process.player.name] = -(-count // TOGETHER) * TOGETHER
    found = in_turn(opened, plan.rounds, send)
    return compared("outbound", case.name, UNIT, found, SUBJECTS)


def run(plan: Plan) -> list[Row]:
    """Run every case."""
    rows: list[Row] = []
    cases = list(CASES)
    with server(tls=True) as place, closing(Stage()) as stage:
        cases = [case for case in cases if place.certificate or not case.tls]
        for case in cases:
            found = run_case(case, plan, place, stage)
            plan.tell(found)
            rows += found
    return rows
