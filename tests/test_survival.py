"""The client against a real cluster: what a single session survives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resilient_ws
from resilient_ws import events
from server_fixture.cluster import Cluster, Node

pytestmark = pytest.mark.cluster
TTL = 1.5


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes; how long their sessions live is the test's parameter."""
    with Cluster(2, ttl=getattr(request, "param", 30.0), keepalive=0.3, flags={"drain": 5}) as running:
        yield running


class Seen:
    """The events of a client, to be waited for."""

    def __init__(self) -> None:
        self._events: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, event: object) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait(self, kind: type, accept: Callable[[Any], bool] = lambda event: True, timeout: float = 20.0) -> Any:
        """Return the first event of this kind, past or to come."""

        def found() -> Any:
            return next((event for event in self._events if isinstance(event, kind) and accept(event)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, timeout), self._events
            return found()

    def count(self, kind: type) -> int:
        with self._changed:
            return sum(isinstance(event, kind) for event in self._events)


def node_of(cluster: Cluster, name: str) -> Node:
    """Return the node of that name."""
    return next(node for node in cluster.nodes if node.name == name)


@pytest.mark.parametrize("cluster", [TTL], indirect=True)
def test_silent_consumer_resumes_after_three_ttls(cluster: Cluster) -> None:
    """A consumer that only listened for three ttl resumes when its node is killed, and misses nothing."""
    seen = Seen()
    with resilient_ws.connect(cluster.urls, subscribe=["feed"], on_event=seen) as ws:
        session = ws.session_id
        with pytest.raises(TimeoutError):
            ws.recv(3 * TTL)
        node = node_of(cluster, seen.wait(events.Connected).node)
        cluster.publish("feed", "before")
        node.kill()
        cluster.publish("feed", "after")
        assert [ws.recv(10).data, ws.recv(10).data] == ["before", "after"]
        assert seen.wait(events.Resumed).node != node.name
        assert (ws.session_id, seen.count(events.SessionReplaced)) == (session, 0)


def test_session_outlives_every_node(cluster: Cluster) -> None:
    """When all nodes are killed and started again, what was sent meanwhile is committed, once and in order."""
    seen = Seen()
    with resilient_ws.connect(cluster.urls, subscribe=["feed"], stream="feed", on_event=seen) as ws:
        ws.send("one").result(10)
        cluster.kill_all()
        receipts = [ws.send(number) for number in ("two", "three")]
        assert not any(receipt.done() for receipt in receipts)
        for node in cluster.nodes:
            node.restart(wait=False)
        cluster.wait_ready()
        for receipt in receipts:
            receipt.result(20)
        assert [ws.recv(10).data for _ in range(3)] == ["one", "two", "three"]
    read = cluster.final_read("feed")
    assert read is not None
    assert [effect.payload for effect in read.messages] == ["text:one", "text:two", "text:three"]


def test_drained_node_hands_its_session_over(cluster: Cluster) -> None:
    """A drain loses nothing: the session goes on at the other node, and the drained one ends with 0."""
    seen = Seen()
    with resilient_ws.connect(cluster.urls, subscribe=["feed"], stream="feed", on_event=seen) as ws:
        ws.send("before").result(10)
        node = node_of(cluster, seen.wait(events.Connected).node)
        node.drain(wait=False)
        ws.send("while it drains")
        assert ws.recv(10).data == "before"
        assert ws.recv(10).data == "while it drains"
        ws.send("after").result(20)
        assert seen.wait(events.Connected, lambda event: event.node != node.name)
        assert ws.recv(10).data == "after"
        assert node.child.wait(20) == 0
