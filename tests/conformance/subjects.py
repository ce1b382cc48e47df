"""
The nodes under test: two of the subject and, between them, a reference node on the same store.

The subjects are the reference server and the node in Node.js of ``examples/node_js``; where the variable
``RESILIENT_WS_NODE_COMMAND`` names a command, that one alone (``docs/node.md``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from server_fixture.cluster import Cluster
from tests.conformance.plain_peer import PlainPeer, crc
from tests.node_peer import ask

VARIABLE = "RESILIENT_WS_NODE_COMMAND"
NAMED = os.environ.get(VARIABLE)
LIMIT, RETENTION, TTL, SILENCE, DRAIN = 1000, 50, 15.0, 3.0, 3.0
FLAGS = {
    "max-message": LIMIT,
    "retention": RETENTION,
    "keepalive-timeout": SILENCE,
    "hello-timeout": SILENCE,
    "drain": DRAIN,
    "poll": 1,
}


class Nodes:
    """A cluster of two nodes of the subject and, between them, a reference node."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.url, self.reference, self.other = cluster.urls
        self._last = 0

    def stream(self) -> str:
        """Return the name of a stream that nobody used before."""
        self._last += 1
        return f"stream-{self._last}"

    def publish(self, stream: str, *payloads: str | bytes) -> None:
        """Append by the reference node's publish API, so that what is read was written by another node."""
        for payload in payloads:
            body = payload.encode() if isinstance(payload, str) else payload
            kind = "text/plain" if isinstance(payload, str) else "application/octet-stream"
            status, _, said = ask(f"{self.reference}streams/{stream}", body, Content_Type=kind)
            assert status == 200, said


@contextmanager
def nodes_of(command: Sequence[str]) -> Iterator[Nodes]:
    """Run a cluster whose first and third node are started by the command."""
    with Cluster(3, ttl=TTL, flags=FLAGS, commands={1: command, 3: command}) as cluster:
        yield Nodes(cluster)


def follow(stream: str, start: Any = "now", id: int = 1) -> list[dict[str, Any]]:
    """Return the ``streams`` of a hello that follows one stream."""
    return [{"stream": stream, "id": id, "start": start}]


def held(stream: str, epoch: str, offset: int, data: str | bytes | None = None, id: int = 1) -> list[dict[str, Any]]:
    """Return the ``streams`` of a hello that holds a message of one stream."""
    place = {"epoch": epoch, "offset": offset, **({} if data is None else {"crc": crc(data)})}
    return [{"stream": stream, "id": id, "held": place}]


def subscribed(peer: PlainPeer, stream: str, number: int) -> dict[str, Any]:
    """Subscribe on an open connection, from the earliest, and return the answer."""
    peer.frame("subscribe", stream=stream, id=number, start="earliest")
    return peer.wait("subscribed")
