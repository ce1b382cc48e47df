"""
What importing costs a program: CPU time of the ``import`` alone, each in a new interpreter.

``python -m benchmarks startup``. ``import resilient_ws`` leaves everything for when it is asked for; the second case
asks for ``connect``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from benchmarks.plan import Plan
from benchmarks.rows import Row, compared

UNIT = "ms of CPU"
PROGRAM = "import time\nstart = time.process_time()\n{statement}\nprint(time.process_time() - start)"
NAMED = "from resilient_ws import connect"
OURS = {"import resilient_ws": "import resilient_ws", NAMED: NAMED}
PARTS = "websocket, tenacity, attr"
PEERS: Mapping[str, str] = {
    "websocket-client": "import websocket",
    "websockets, sync": "import websockets.sync.client",
    "aiohttp": "import aiohttp",
    "picows": "import picows",
    "simple-websocket": "import simple_websocket",
    "jetsocket": "import jetsocket; jetsocket.WebSocket",
    "python-socketio": "import socketio",
    "azure-messaging-webpubsubclient": "import azure.messaging.webpubsubclient",
}
"""By the players' names, so that one that is not installed is left out here too."""
FEW = ("websocket-client", "websockets, sync", "aiohttp")
"""In the quick form."""


def import_time(statement: str) -> float:
    """Return what a statement takes in a new interpreter, in milliseconds of CPU time."""
    command = [sys.executable, "-c", PROGRAM.format(statement=statement)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return 1e3 * float(told.stdout)


def run(plan: Plan) -> list[Row]:
    """Run both cases, whose peers are measured once."""
    there = {player.name for player in plan.peers}
    statements = {f"import {PARTS}": f"import {PARTS}"}
    some = PEERS if plan.is_full else FEW
    statements |= {name: PEERS[name] for name in some if name in there}
    found: dict[str, list[float]] = {name: [] for name in (*OURS, *statements)}
    for statement in (*OURS.values(), *statements.values()):
        import_time(statement)  # its bytecode is on the disk now
    for _ in range(plan.rounds):
        for name, statement in (*OURS.items(), *statements.items()):
            found[name].append(import_time(statement))
    rows: list[Row] = []
    for case in OURS:
        mine = {"session": found[case], **{name: found[name] for name in statements}}
        told = compared("startup", case, UNIT, mine, ("session",))
        plan.tell(told)
        rows += told
    return rows
