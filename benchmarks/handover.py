"""
Receiving in a worker thread: CPU time of the process for each message that a thread beside the main one uses.

``python -m benchmarks handover``. A session lets any thread receive, so nothing is handed over; who reads elsewhere
pays for a queue and for waking up.
"""

from __future__ import annotations

from contextlib import closing

import attrs

from benchmarks.inbound import UNIT, per_message
from benchmarks.plan import Plan
from benchmarks.players import PICOWS, SESSION, SKIPPING, SUBJECTS, TRANSPORT, WEBSOCKETS
from benchmarks.rows import Row, compared
from benchmarks.serving import server
from benchmarks.turns import Player, Process, Stage, count_for, in_turn


def handing(player: Player, home: str, named: str = "", **options: str) -> Player:
    """Return a player that hands over, by its class."""
    home = f"benchmarks.players_handover:{home}"
    return attrs.evolve(player, home=home, name=player.name + named, options={**player.options, **options})


def players(plan: Plan) -> list[Player]:
    """Return who takes part."""
    found: list[Player] = []
    for player in plan.among(SESSION, TRANSPORT, SKIPPING, WEBSOCKETS, PICOWS):
        match player.name:
            case SESSION.name:
                found.append(handing(player, "Session"))
            case TRANSPORT.name:
                found.append(handing(player, "Bare"))
            case SKIPPING.name:
                kinds = ("Queue", "SimpleQueue")
                bare = attrs.evolve(player, options={})
                found += [handing(bare, "Queued", f", a thread and a {kind}", kind=kind) for kind in kinds]
            case WEBSOCKETS.name:
                found.append(handing(player, "Websockets"))
            case _:
                found.append(handing(player, "QueuedPicows", ", a thread and a SimpleQueue"))
    return found


def run(plan: Plan) -> list[Row]:
    """Run the one case."""
    counts: dict[str, int] = {}

    def receive(process: Process) -> float:
        count = counts[process.player.name]
        return per_message(process.ask("receive", count), count)

    with server() as place, closing(Stage()) as stage:
        opened = stage.open(players(plan), lambda player: place.url(player.feed))
        for process in opened:
            counts[process.player.name] = count_for(process, "receive", plan.seconds)
        found = in_turn(opened, plan.rounds, receive)
    rows = compared("handover", "100 B text, used in a worker thread", UNIT, found, SUBJECTS)
    plan.tell(rows)
    return rows
