"""
A stranger: another principal that got hold of a session's resume token and says hello with it (rule 5).

He has to be refused, and the session has to be as it was. What its owner does never lives here.
"""

from __future__ import annotations

from typing import Any

from resilient_ws.frames import Credit, Hello, Welcome
from resilient_ws.records import Identity
from tests.simulation.nodes import STRANGER, Node
from tests.simulation.wires import Network, Wire
from tests.simulation.world import Broken


class Stranger:
    """One connection that says one hello and reads one answer."""

    def __init__(self, network: Network, node: Node, identity: Identity, instance: str) -> None:
        self._identity = identity
        wire = Wire(network, self, node, conn=0)
        node.accept(wire, STRANGER)
        hello = Hello(
            instance=instance, attempt=1, producers=(), credit=Credit(1, 1000), max_message=1000,
            session=identity.session, token=identity.token,
        )  # fmt: skip
        wire.to_node([hello])

    def wire_received(self, wire: Wire, items: list[Any]) -> None:
        """A session of his own is all that he may get, where the one of the token is gone."""
        for item in items:
            if isinstance(item, Welcome) and item.session == self._identity.session:
                raise Broken(f"S9 another principal was welcomed to session {item.session}")
        wire.closed_by_device()

    def wire_lost(self, wire: Wire, error: Exception) -> None:
        """He was refused, or the connection broke: he does not come again."""
