"""The whole Client against real nodes: limits of either side, long runs, nodes that die or freeze under a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tenacity

from resilient_ws import AccessDenied, Client, Gap, Inbox, Keepalive, Rejected, Retry, Wire, connect, events
from server_fixture.cluster import Cluster
from tests.fault_server import numbers, opened, taken
from tests.seen import Seen
from tests.transport_tools import PATIENCE

pytestmark = pytest.mark.cluster

MANY = 100_000
LIMIT = 1_000

AUTHENTICATE = """
def authenticate(access_token):
    return access_token if access_token in ("ann", "bob") else None

def authorize(principal, verb, stream):
    return not stream.startswith("closed")
"""


@pytest.fixture(scope="module")
def single() -> Iterator[Cluster]:
    """One node in memory, with a small limit on messages."""
    with Cluster(1, backplane="memory", keepalive=0.2, flags={"max-message": LIMIT, "keepalive-timeout": 1}) as running:
        yield running


@pytest.fixture(scope="module")
def large() -> Iterator[Cluster]:
    """One node in memory, for what is many."""
    with Cluster(1, backplane="memory", flags={"retention": 2 * MANY}) as running:
        yield running


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """Two nodes with a store, whose sessions live for a second and a half."""
    with Cluster(2, ttl=1.5, keepalive=0.2, flags={"keepalive-timeout": 0.6}) as running:
        yield running


# -- limits ------------------------------------------------------------------------------------------------------------


def test_message_above_the_nodes_limit(single: Cluster) -> None:
    """Above the node's limit a message is refused alone: at once after the welcome, by its receipt before it."""
    name = "limits"
    seen = Seen()
    with opened(*single.urls, subscribe={name: "earliest"}, stream=name, wait=False, on_event=seen) as client:
        early = [client.send(payload) for payload in ("one", "x" * (LIMIT + 1), "two")]
        early[2].result(PATIENCE)
        with pytest.raises(Rejected, match="message 2 was rejected for good"):
            early[1].result(PATIENCE)
        assert [(event.seq, event.code) for event in seen.wait(events.MessageRejected)] == [(2, "too_large")]
        with pytest.raises(Rejected, match=f"{LIMIT + 1} bytes, at most {LIMIT}"):
            client.send("x" * (LIMIT + 1))
        client.send("x" * LIMIT).result(PATIENCE)
        assert taken(client, 3) == ["one", "two", "x" * LIMIT]
        assert client.stats()["connects"] == 1


def test_message_above_the_clients_limit_comes_as_a_gap(single: Cluster) -> None:
    """What is larger than the client takes is a gap of that one message in its place; the next ones come."""
    name = "inbound"
    with opened(*single.urls, subscribe=[], stream=name) as sender:
        for payload in ("one", "x" * 501, "two"):
            sender.send(payload).result(PATIENCE)
    with opened(*single.urls, subscribe={name: "earliest"}, wire=Wire(max_message=500)) as client:
        assert taken(client, 1) == ["one"]
        with pytest.raises(Gap, match=r"messages 2 to 2 cannot be replayed \(too_large\)") as caught:
            client.recv(PATIENCE)
        assert (caught.value.first, caught.value.last, caught.value.reason) == (2, 2, "too_large")
        assert taken(client, 1) == ["two"]
        with pytest.raises(Rejected, match="501 bytes, at most 500"):
            client.send("x" * 501, name)
        assert client.stats()["connects"] == 1


def test_node_that_refuses(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no access is told so at once; what a stream refuses is a matter of that message or subscription alone."""
    (tmp_path / "doors.py").write_text(AUTHENTICATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    flags = {"authenticate": "doors:authenticate", "authorize": "doors:authorize"}
    with Cluster(1, backplane="memory", flags=flags) as cluster:
        for token in (None, "eve"):
            with pytest.raises(AccessDenied, match=r"HTTP 401.; check access_token="):
                connect(cluster.urls, access_token=token)
        with opened(*cluster.urls, access_token="ann", subscribe=[], stream="open") as client:
            with pytest.raises(Rejected, match="closed"):
                client.send("x", "closed").result(PATIENCE)
            with pytest.raises(Rejected, match="closed"):
                client.subscribe("closed")
            client.send("y").result(PATIENCE)


# -- long runs ---------------------------------------------------------------------------------------------------------


def fill(cluster: Cluster, stream: str, count: int) -> None:
    """Put so many messages into a stream."""
    with opened(*cluster.urls, subscribe=[], stream=stream) as client:
        for payload in numbers(count):
            client.send(payload)
        client.flush(60)


@pytest.fixture(scope="module")
def filled(large: Cluster) -> Cluster:
    """A node whose stream ``questions`` holds 100,000 messages."""
    fill(large, "questions", MANY)
    return large


@pytest.mark.timeout(180)
def test_echo_loop_over_many_messages(filled: Cluster) -> None:
    """An echo loop over 100,000 messages goes through, with the default bounds, and every echo is stored in order."""
    with opened(*filled.urls, subscribe={"questions": "earliest"}, stream="answers") as client:
        for message in client:
            client.send(message.data)
            if message.offset == MANY:
                break
        client.flush(60)
        assert client.stats()["connects"] == 1
    got: list[Any] = []
    with opened(*filled.urls, subscribe={"answers": "earliest"}) as client:
        while len(got) < MANY:
            got += [message.data for message in client.recv_many(1000, PATIENCE)]
    assert got == numbers(MANY)


@pytest.mark.timeout(180)
def test_recv_many_with_manual_acks_over_many_messages(filled: Cluster) -> None:
    """recv_many with an ack for the last of each list takes 100,000 messages through an inbox of 1,024, in order."""
    got: list[Any] = []
    with opened(*filled.urls, subscribe={"questions": "earliest"}, inbox=Inbox(ack="manual")) as client:
        while len(got) < MANY:
            messages = client.recv_many(500, PATIENCE)
            got += [message.data for message in messages]
            messages[-1].ack()
        position = client.position("questions")
        assert client.stats()["connects"] == 1
    assert got == numbers(MANY)
    assert position is not None
    assert position.offset == MANY


# -- nodes that go -----------------------------------------------------------------------------------------------------


def node_of(cluster: Cluster, client: Client) -> Any:
    """Give the node that serves a client."""
    return next(node for node in cluster.nodes if node.name == client.stats()["node"])


def test_silent_consumer_resumes_after_three_ttl(pair: Cluster) -> None:
    """A consumer that only listens, for three ttl, keeps its session alive: when its node is killed, it resumes."""
    seen = Seen()
    with opened(*pair.urls, subscribe=["quiet"], on_event=seen) as client:
        session = client.session_id
        with pytest.raises(TimeoutError):
            client.recv(3 * 1.5)
        node = node_of(pair, client)
        pair.publish("quiet", "before")
        assert taken(client, 1) == ["before"]
        node.kill()
        pair.publish("quiet", "after")
        assert taken(client, 1) == ["after"]
        assert seen.wait(events.Resumed)[0].node != node.name
        assert client.session_id == session
        assert not [event for event in seen.events if isinstance(event, events.SessionReplaced)]
    node.restart()


def test_control_a_session_ends_with_its_ttl(pair: Cluster) -> None:
    """The ttl of the same cluster is real: a consumer that was away for longer finds its session replaced."""
    seen = Seen()
    patient = Retry(wait=tenacity.wait_fixed(0.2))
    with opened(*pair.urls, subscribe=["away"], on_event=seen, on_gap="report", retry=patient) as client:
        for node in pair.nodes:
            node.kill()
        with pytest.raises(TimeoutError):
            client.recv(2 * 1.5)
        for node in pair.nodes:
            node.restart()
        assert seen.wait(events.SessionReplaced)[0].reason in ("expired", "unknown")


def test_T6_frozen_node_is_left_for_another(pair: Cluster) -> None:
    """A node that is stopped (SIGSTOP) keeps its connections and says nothing: the session resumes at the other one."""
    alert = Keepalive(interval=0.2, timeout=0.6, min_timeout=0.1)
    with opened(*pair.urls, subscribe={"frozen": "now"}, stream="frozen", keepalive=alert) as client:
        client.send("1").result(PATIENCE)
        node = node_of(pair, client)
        node.pause()
        try:
            receipt = client.send("2")
            assert taken(client, 2) == ["1", "2"]
            receipt.result(PATIENCE)
            assert node_of(pair, client) is not node
        finally:
            node.resume()
        client.send("3").result(PATIENCE)
        assert taken(client, 1) == ["3"]
        with pytest.raises(TimeoutError):
            client.recv(0.3)  # what the frozen node had in hand is refused by its old fence


def test_A1_slow_consumer_on_a_node(single: Cluster) -> None:
    """A consumer that takes nothing for three keepalive timeouts stays connected, bounded, and misses nothing."""
    fill(single, "slow", 300)
    with opened(*single.urls, subscribe={"slow": "earliest"}, inbox=Inbox(max_messages=16)) as client:
        assert taken(client, 1) == ["1"]
        assert not threading.Event().wait(3 * 1.2)  # nothing to wait for: that nothing happens is what is tested
        assert client.stats()["inbox"][0] <= 16
        assert taken(client, 299) == numbers(299, 2)
        assert client.stats()["connects"] == 1


# -- being released ----------------------------------------------------------------------------------------------------

WAITS: dict[str, Callable[[Client], object]] = {
    "recv": lambda client: client.recv(),
    "iterate": lambda client: next(client),
    "recv_many": lambda client: client.recv_many(),
    "flush": lambda client: client.flush(),
}


@pytest.mark.parametrize("name", WAITS)
def test_X3_close_from_another_thread_releases_at_once(single: Cluster, name: str) -> None:
    """A thread that waits in a call is released by close() from another thread at once."""
    with ThreadPoolExecutor(1) as pool, opened(*single.urls, subscribe=["none"], stream="none") as client:
        if name == "flush":
            single.nodes[0].pause()
            client.send("x")
        try:
            waiting = pool.submit(lambda: (WAITS[name](client), time.monotonic()))
            assert not waiting.done()
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
            started = time.monotonic()
            closing = threading.Thread(target=client.close)
            closing.start()
            with pytest.raises(Exception, match=r"closed|without an ack|^$"):
                waiting.result(PATIENCE)
            assert time.monotonic() - started < 1.0
            closing.join()
        finally:
            single.nodes[0].resume()
