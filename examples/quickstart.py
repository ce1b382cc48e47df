"""
Send and receive over a cluster of three nodes on this machine, while a node dies.

Run it from a clone, with nothing but Python::

    python3 -m venv .venv && .venv/bin/pip install '.[fixture]' && .venv/bin/python examples/quickstart.py
"""

from __future__ import annotations

import resilient_ws
from server_fixture.cluster import Cluster

COUNT = 10


def main() -> None:
    """Send ten messages to ourselves; after the fifth the node that serves us is killed."""
    with (
        Cluster(nodes=3) as cluster,
        resilient_ws.connect(cluster.urls, subscribe=["greetings"], stream="greetings") as ws,
    ):
        print(ws.guarantee)
        for number in range(1, COUNT + 1):
            ws.send(f"hello {number}")
            message = ws.recv(timeout=30)
            print(f"{message.stream} {message.offset}: {message.data}   (by way of {ws.stats()['node']})")
            if number == COUNT // 2:
                name = ws.stats()["node"]
                print(f"now {name} is killed")
                next(node for node in cluster.nodes if node.name == name).kill()
    print(f"{COUNT} sent, {COUNT} received, in order, once each")


if __name__ == "__main__":
    main()
