"""Leaving before one must, against real nodes: drain with a successor, and a spare that stands by."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import pytest

import resilient_ws
from resilient_ws import Failover, events
from server_fixture.cluster import Cluster
from tests.test_survival import Seen, node_of

pytestmark = pytest.mark.cluster
SOON = 20.0


@pytest.fixture(params=[None, "embedded"], ids=["direct", "balanced"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes, dialled one by one or behind a balancer."""
    with Cluster(3, keepalive=0.3, flags={"drain": 10}, balancer=request.param) as running:
        yield running


@final
class Publisher:
    """Publishes numbers on a stream of the cluster until it is stopped."""

    def __init__(self, cluster: Cluster, stream: str) -> None:
        self.count = 0
        self._is_stopping = threading.Event()
        self._cluster, self._stream = cluster, stream
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Stop, and return how many there are."""
        self._is_stopping.set()
        self._thread.join()
        return self.count

    def _run(self) -> None:
        while not self._is_stopping.wait(0.002):
            self._cluster.publish(self._stream, str(self.count + 1))
            self.count += 1


def names(seen: Seen) -> list[str]:
    """Return what happened to connections, in order."""
    kinds = (events.Connecting, events.Connected, events.ConnectionEnded, events.DrainNoticed, events.StandingBy)
    with seen._changed:
        return [f"{type(event).__name__} {event.conn}" for event in seen._events if isinstance(event, kinds)]


def sessions_of(node: Any) -> int:
    """Ask a node how many sessions it serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{node.port}/healthz", timeout=10) as answer:
        return int(json.load(answer)["sessions"])


def test_a_drain_is_make_before_break(cluster: Cluster) -> None:
    """The successor is welcomed while the node that leaves still serves: every message once, in order, no loss seen."""
    seen = Seen()
    with resilient_ws.connect(cluster.urls, subscribe={"feed": "earliest"}, on_event=seen) as ws:
        first = seen.wait(events.Connected)
        with Publisher(cluster, "feed") as publisher:
            taken = [ws.recv(SOON).data for _ in range(20)]
            leaving = node_of(cluster, first.node)
            leaving.drain(wait=False)
            while ws.stats()["connects"] < 2:
                taken.append(ws.recv(SOON).data)
            assert leaving.child.wait(SOON) == 0
            count = publisher.stop()
        taken += [ws.recv(SOON).data for _ in range(count - len(taken))]
    assert taken == [str(number) for number in range(1, count + 1)]
    second = seen.wait(events.Connected, lambda event: event.conn != first.conn)
    assert second.node != first.node
    with seen._changed:
        ends = [event.code for event in seen._events if isinstance(event, events.ConnectionEnded)]
    assert set(ends) <= {4409}  # outranked by our own hello, in the moment before its welcome is read
    assert seen.count(events.RetryScheduled) == 1  # the successor's own dial


def test_a_rolling_restart_is_not_noticed(cluster: Cluster) -> None:
    """Every node is restarted under a consumer and a producer: each message once, in order, and no attempt in vain."""
    seen = Seen()
    with resilient_ws.connect(cluster.urls, subscribe={"feed": "earliest"}, stream="out", on_event=seen) as ws:
        seen.wait(events.Connected)
        pids = [node.child.pid for node in cluster.nodes]
        with Publisher(cluster, "feed") as publisher, ThreadPoolExecutor(1) as pool:
            restarted, taken = pool.submit(cluster.rolling_restart), []
            while not restarted.done():
                taken.append(ws.recv(SOON).data)
                ws.send(taken[-1])
            restarted.result()
            count = publisher.stop()
        taken += [ws.recv(SOON).data for _ in range(count - len(taken))]
        ws.flush(SOON)
    assert taken == [str(number) for number in range(1, count + 1)]
    assert {node.child.pid for node in cluster.nodes}.isdisjoint(pids)
    with seen._changed:
        ends = [event for event in seen._events if isinstance(event, events.ConnectionEnded)]
    assert {event.code for event in ends} <= {4409}
    assert seen.count(events.Connected) >= 2


def test_a_spare_takes_over_when_the_node_is_killed(cluster: Cluster) -> None:
    """Nothing is dialled between the loss and the resume; afterwards there is a new spare on the third node."""
    seen = Seen()
    settings: dict[str, Any] = {"failover": Failover(standby=True), "on_event": seen}
    with resilient_ws.connect(cluster.urls, subscribe=["feed"], stream="feed", **settings) as ws:
        first, spare = seen.wait(events.Connected), seen.wait(events.StandingBy)
        assert spare.node != first.node
        assert [sessions_of(node_of(cluster, name)) for name in (first.node, spare.node)] == [1, 0]
        ws.send("before").result(SOON)
        node_of(cluster, first.node).kill()
        ws.send("after").result(SOON)
        assert [ws.recv(SOON).data for _ in range(2)] == ["before", "after"]
        second = seen.wait(events.Connected, lambda event: event.conn == spare.conn)
        assert (second.node, ws.stats()["node"]) == (spare.node, spare.node)
        told = names(seen)
        lost = told.index(f"ConnectionEnded {first.conn}")
        assert told[lost + 1] == f"Connected {spare.conn}"
        again = seen.wait(events.StandingBy, lambda event: event.conn != spare.conn)
        assert again.node not in (first.node, spare.node)


def test_a_spare_takes_over_from_a_node_that_leaves(cluster: Cluster) -> None:
    """It says hello in place of a new dial."""
    seen = Seen()
    settings: dict[str, Any] = {"failover": Failover(standby=True), "on_event": seen}
    with resilient_ws.connect(cluster.urls, stream="feed", **settings) as ws:
        first, spare = seen.wait(events.Connected), seen.wait(events.StandingBy)
        node_of(cluster, first.node).drain(wait=False)
        assert seen.wait(events.Connected, lambda event: event.conn != first.conn).conn == spare.conn
        ws.send("after").result(SOON)


def test_a_spare_that_dies_is_replaced(cluster: Cluster) -> None:
    """Nothing happens to the session."""
    seen = Seen()
    settings: dict[str, Any] = {"failover": Failover(standby=True), "on_event": seen}
    with resilient_ws.connect(cluster.urls, stream="feed", **settings) as ws:
        first, spare = seen.wait(events.Connected), seen.wait(events.StandingBy)
        node_of(cluster, spare.node).kill()
        again = seen.wait(events.StandingBy, lambda event: event.conn != spare.conn)
        assert again.node not in (first.node, spare.node)
        ws.send("after").result(SOON)
        assert (ws.stats()["connects"], ws.stats()["node"], ws.stats()["standby"]) == (1, first.node, again.node)
