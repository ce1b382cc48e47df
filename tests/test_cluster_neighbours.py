"""Real nodes that know each other: the list of who lives, the window that clients are told, what they make of it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from node_peer import Peer, ask, connected

from resilient_ws import Retry, connect, events
from resilient_ws.frames import Drain, Ping, Pong
from server_fixture.cluster import Cluster

pytestmark = pytest.mark.cluster

OFTEN = {"announce": 1.0, "accept-rate": 1, "keepalive-timeout": 2}
HOOK = """
def authenticate(access_token):
    return "ann" if access_token == "good" else None
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes that hear of each other every second and take one hello in it; clients are told of them."""
    with Cluster(3, keepalive=0.2, flags={**OFTEN, "keepalive-timeout": 30, "advertise": "on", "drain": 3}) as running:
        yield running


def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Look until the condition holds."""
    pause, deadline = threading.Event(), time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        pause.wait(0.01)


def listed(url: str) -> dict[str, bool]:
    """Give the nodes that one names, each with whether it drains."""
    return {found["name"]: found["draining"] for found in ask(url + "endpoints")[2]["endpoints"]}


def window(peer: Peer, wanted: float) -> None:
    """Read until this connection was told a window."""
    peer.wait((Ping, Pong), lambda frame: frame.spread == wanted)  # type: ignore[arg-type]


def test_endpoints_has_every_node_that_lives(cluster: Cluster) -> None:
    """Each with the URL where it is dialled, the answering one first, and for how long that is worth keeping."""
    one = cluster.nodes[0].url
    until(lambda: len(listed(one)) == 3)
    status, headers, said = ask(one + "endpoints")
    assert (status, headers["Resilient-Node"]) == (200, "node-1")
    assert headers["Content-Type"].startswith("application/json")
    assert said == {
        "endpoints": [{"url": node.url, "name": node.name, "draining": False} for node in cluster.nodes],
        "ttl": 3.0,
    }
    with connected(one + "endpoints") as peer:
        assert peer.hello().node == "node-1"


def test_killed_node_is_listed_no_more_and_a_drained_one_leaves_at_once(cluster: Cluster) -> None:
    """A crash shows after a while, a drain while it goes on, its end when it is over; who comes back is there again."""
    one, two, three = cluster.nodes
    until(lambda: len(listed(one.url)) == 3)
    with connected(one.url) as peer, connected(two.url) as leaving:
        assert set(peer.hello().peers) == {two.url, three.url}
        three.kill()
        until(lambda: listed(one.url) == listed(two.url) == {"node-1": False, "node-2": False})
        leaving.hello()
        two.drain(wait=False)
        assert leaving.wait(Drain).peers == (one.url,)
        until(lambda: listed(one.url) == {"node-1": False, "node-2": True})
        leaving.close()
        assert two.child.wait(10.0) == 0
        assert listed(one.url) in ({"node-1": False, "node-2": True}, {"node-1": False})
        until(lambda: listed(one.url) == {"node-1": False})
        with connected(one.url) as last:
            assert last.hello().peers == ()
    for node in (two, three):
        node.restart()
    until(lambda: len(listed(one.url)) == 3)


def test_window_follows_sessions_and_nodes(cluster: Cluster) -> None:
    """The sessions of a node by what the others take: in the welcome, then where it changed enough, 0 when alone."""
    one, two, three = cluster.nodes
    until(lambda: len(listed(one.url)) == 3)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(one.url)) for _ in range(4)]
        told = []
        for number, peer in enumerate(peers, 1):
            told.append(peer.hello().spread)
            assert ask(one.url + "healthz")[2]["sessions"] == number
        assert told == [0.5, 1.0, 1.5, 2.0]
        window(peers[0], 2.0)
        two.kill()
        for peer in peers:
            window(peer, 4.0)
        three.kill()
        for peer in peers:
            window(peer, 0.0)
    for node in (two, three):
        node.restart()
    until(lambda: len(listed(one.url)) == 3)


def test_endpoints_are_for_those_whom_an_upgrade_lets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no access token hears nothing of the nodes; clients are told of them only where that is asked for."""
    (tmp_path / "doors.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    with Cluster(2, flags={**OFTEN, "authenticate": "doors:authenticate", "spread": 7.5}) as cluster:
        one = cluster.nodes[0].url
        assert ask(one + "endpoints")[0] == 401
        assert ask(one + "endpoints", Authorization="Bearer bad")[0] == 401
        with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
            Peer(one + "endpoints")
        found = Peer(one, {"Authorization": "Bearer good"})
        until(lambda: len(ask(one + "endpoints", Authorization="Bearer good")[2]["endpoints"]) == 2)
        welcome = found.hello()
        assert (welcome.peers, welcome.spread) == ((), 7.5)
        found.close()


def test_endpoints_without_a_store_are_not_known() -> None:
    """A node that has not heard of the others for so long says that it does not know, rather than that it is alone."""
    with Cluster(2, flags={**OFTEN, "step-timeout": 0.3}) as cluster:
        assert cluster.engine is not None
        one = cluster.nodes[0].url
        cluster.engine.pause()
        until(lambda: ask(one + "endpoints")[0] == 503)
        assert ask(one + "endpoints")[1]["Retry-After"] == "1"
        cluster.engine.resume()
        until(lambda: ask(one + "endpoints")[0] == 200)


# -- what clients make of it ------------------------------------------------------------------------------------------


def delays(cluster: Cluster, urls: list[str], sessions: int = 10, **retry: Any) -> list[float]:
    """Open sessions, kill the node that has most of them, and give the seconds that each of those waits at first."""
    seen: dict[int, list[Any]] = {number: [] for number in range(sessions)}
    with contextlib.ExitStack() as stack:
        until(lambda: all(len(listed(node.url)) == 2 for node in cluster.nodes))
        clients = [
            stack.enter_context(
                contextlib.closing(connect(urls, stream="s", on_event=seen[number].append, retry=Retry(**retry)))
            )
            for number in range(sessions)
        ]
        found = [client.stats()["node"] for client in clients]
        victim = max(cluster.nodes, key=lambda node: found.count(node.name))
        lost = [number for number in range(sessions) if found[number] == victim.name]
        assert len(lost) >= sessions // 2
        victim.kill()
        until(lambda: all(scheduled(seen[number]) for number in lost))
        return [scheduled(seen[number])[0].delay for number in lost]


def scheduled(seen: list[Any]) -> list[events.RetryScheduled]:
    """Pick out the attempts that a client planned."""
    return [event for event in list(seen) if isinstance(event, events.RetryScheduled)]


def behind(**flags: object) -> Cluster:
    """Give two nodes behind a balancer."""
    return Cluster(2, keepalive=0.2, flags={**OFTEN, **flags}, balancer="embedded")


def test_first_attempts_behind_a_balancer_are_spread_as_the_node_computed() -> None:
    """Each session draws a time of its own: up to sessions / rate, within Retry(max_spread=); nobody dials at once."""
    with behind() as cluster:
        assert cluster.balancer is not None
        found = ask(cluster.nodes[0].url + "endpoints")[2]["endpoints"]
        assert {node["url"] for node in found} == {cluster.balancer.url}
        waits = delays(cluster, cluster.urls)
        # Node and balancer lead every other session here: that many, at one a second. Each draws from a window of a
        # second at least, that of the first welcome; that five or more of them all draw so little is beyond chance.
        assert all(0.0 < wait <= len(waits) for wait in waits)
        assert len(set(waits)) == len(waits)
        assert max(waits) > 0.01
    with behind() as cluster:
        bounded = delays(cluster, cluster.urls, max_spread=0.001)
        assert all(0.0 < wait <= 0.001 for wait in bounded)


def test_control_first_attempts_go_at_once_without_a_window() -> None:
    """The check above can fail: a node that is told to advise nothing gets all its clients back at once."""
    with behind(spread=0) as cluster:
        assert set(delays(cluster, cluster.urls)) == {0.0}


def test_first_attempts_go_elsewhere_at_once_where_another_is_known() -> None:
    """With the nodes' own URLs nobody waits, whatever the window."""
    with Cluster(2, keepalive=0.2, flags=OFTEN) as cluster:
        assert set(delays(cluster, cluster.urls)) == {0.0}
