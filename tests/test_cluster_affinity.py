"""Sticky sessions with real nodes behind the embedded balancer; the ids are those of the fault catalogue."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient_ws import Client, Retry, events
from server_fixture.balancer import Affinity
from server_fixture.cluster import Cluster, Node
from server_fixture.link import Proxy
from tests.fault_server import AT_ONCE, opened, url_of
from tests.transport_tools import PATIENCE

pytestmark = pytest.mark.cluster


@contextlib.contextmanager
def behind(affinity: Affinity, **settings: Any) -> Iterator[tuple[Cluster, Proxy, Client, list[Any]]]:
    """Open a Client at three nodes behind a balancer; what it reports is collected."""
    seen: list[Any] = []
    with Cluster(3, keepalive=0.2, flags={"keepalive-timeout": 0.6}, balancer="embedded", affinity=affinity) as cluster:
        assert cluster.balancer is not None
        with Proxy("127.0.0.1", cluster.balancer.port) as proxy:
            with opened(url_of(proxy), on_event=seen.append, **settings) as client:
                yield cluster, proxy, client, seen


def node_of(cluster: Cluster, client: Client) -> Node:
    """Give the node that serves a Client now."""
    (found,) = [node for node in cluster.nodes if node.name == client.stats()["node"]]
    return found


def reconnects(proxy: Proxy, client: Client, times: int = 6) -> list[str]:
    """Lose the connection so many times; give the nodes that served in between."""
    found = []
    for number in range(times):
        proxy.cut_all()
        client.send(str(number)).result(PATIENCE)
        found.append(client.stats()["node"])
    return found


def dials(seen: list[Any]) -> int:
    """Count the attempts so far."""
    return sum(isinstance(event, events.Connecting) for event in seen)


@pytest.mark.parametrize("affinity", ["cookie", "alb"])
def test_S26_pins_and_a_killed_node_costs_one_reconnect(affinity: Affinity) -> None:
    """Each reconnect reaches the node that served before; when that is killed, the next dial reaches another one."""
    with behind(affinity) as (cluster, proxy, client, seen):
        node = node_of(cluster, client)
        assert reconnects(proxy, client) == [node.name] * 6
        before = dials(seen)
        node.kill()
        client.send("after the kill").result(PATIENCE)
        other = node_of(cluster, client)
        assert other is not node
        assert reconnects(proxy, client, 3) == [other.name] * 3
        assert client.stats()["resumes"] == 10
        client.flush(PATIENCE)
        assert dials(seen) == before + 4


def test_S26_control_nothing_pins_without_affinity() -> None:
    """The check above can fail: a balancer without affinity leads to all nodes."""
    with behind("none") as (_, proxy, client, _):
        assert len(set(reconnects(proxy, client))) == 3


def test_S26_a_hung_node_is_left() -> None:
    """A stopped node still takes connections, and the balancer leads there as long as the cookie says so."""
    quick = Retry(wait=AT_ONCE.wait, connect_timeout=0.5)
    with behind("cookie", retry=quick) as (cluster, _, client, _):
        node = node_of(cluster, client)
        started = time.monotonic()
        node.pause()
        try:
            client.send("while it hangs").result(PATIENCE)
            assert time.monotonic() - started < PATIENCE
            assert node_of(cluster, client) is not node
        finally:
            node.resume()


def test_all_nodes_dead_is_waited_out() -> None:
    """While the balancer answers 502 the Client tries on; with the first node back what was sent is committed."""
    with behind("alb", retry=Retry(wait=AT_ONCE.wait)) as (cluster, _, client, _):
        cluster.kill_all()
        receipt = client.send("meanwhile")
        with pytest.raises(TimeoutError):
            receipt.result(0.3)
        cluster.nodes[2].restart()
        receipt.result(PATIENCE)
        assert client.stats()["node"] == "node-3"


def test_a_drained_node_is_not_led_back_to() -> None:
    """A node that leaves sends its clients away; they come to another one and stay there."""
    with behind("cookie") as (cluster, proxy, client, _):
        node = node_of(cluster, client)
        node.drain()
        client.send("a").result(PATIENCE)
        other = node_of(cluster, client)
        assert other is not node
        assert set(reconnects(proxy, client, 3)) == {other.name}


@pytest.mark.demo
def test_demo_through_a_balancer(tmp_path: Path) -> None:
    """The command puts the balancer before the nodes, loses nothing, and says so in its report."""
    report = tmp_path / "report.json"
    argv = ["demo", "--seconds", "14", "--kill-every", "1.0", "--seed", "11", "--balancer", "embedded"]
    command = [sys.executable, "-m", "server_fixture", *argv, "--affinity", "alb", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--balancer embedded --affinity alb" in done.stdout
    assert json.loads(report.read_text())["affinity"] == "alb"
