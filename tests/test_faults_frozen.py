"""Real nodes that are stopped or cut off without a word at the worst moments; ids are those of the fault catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from resilient_ws import Client, Keepalive, Retry, connect
from resilient_ws.exceptions import ConnectTimeout
from server_fixture.cluster import Cluster, Node
from server_fixture.link import Carried
from tests.fault_server import AT_ONCE, opened, taken
from tests.transport_tools import PATIENCE

pytestmark = pytest.mark.cluster

INTERVAL = 0.5
DEADLINE = 1.0
"""What a Client lets a ping wait at least, with its default settings."""
SLACK = 2.0
"""Seconds for a reconnect on a busy machine."""
STAGGER = 0.25
PATIENT = Keepalive(interval=30.0, timeout=30.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a link before each."""
    with Cluster(2, keepalive=INTERVAL, links=True) as running:
        yield running


@pytest.fixture(autouse=True)
def healed(cluster: Cluster) -> Iterator[None]:
    """Leave the cluster as it was, however the test ends."""
    yield
    for node in cluster.nodes:
        if node.is_paused:
            node.resume()
        node.door.on_connect = None
        node.door.heal_all()
        node.door.accept()


def node_of(cluster: Cluster, client: Client) -> tuple[Node, Node]:
    """Give the node that serves a Client, and the other one."""
    first, second = cluster.nodes
    return (first, second) if client.stats()["node"] == first.name else (second, first)


def silence(cluster: Cluster, client: Client, how: str) -> Node:
    """Have the node of a Client say nothing more; give the node."""
    node, _ = node_of(cluster, client)
    if how == "stopped":
        node.pause()
    else:
        node.door.stall_all()
    return node


@pytest.mark.parametrize("how", ["stopped", "cut off"])
def test_T6_default_settings_leave_a_silent_node_in_time(cluster: Cluster, how: str) -> None:
    """Who only listens is at the other node within interval + deadline + slack, and what is published comes, once."""
    name = f"silent {how}".replace(" ", "-")
    with opened(*cluster.urls, subscribe={name: "now"}) as client:
        cluster.publish(name, "before")
        assert taken(client, 1) == ["before"]
        node, started = silence(cluster, client, how), time.monotonic()
        cluster.publish(name, "after")
        assert taken(client, 1) == ["after"]
        assert 0.5 * DEADLINE < time.monotonic() - started < INTERVAL + DEADLINE + SLACK
        assert client.stats()["node"] != node.name
        assert client.stats()["resumes"] == 1


def test_T6_control_a_patient_client_stays(cluster: Cluster) -> None:
    """The negative control: what moves the Client above is its deadline; with a long one it waits in vain."""
    with opened(*cluster.urls, subscribe={"patient": "now"}, keepalive=PATIENT) as client:
        silence(cluster, client, "stopped")
        cluster.publish("patient", "after")
        with pytest.raises(TimeoutError):
            client.recv(INTERVAL + DEADLINE + SLACK)


@pytest.mark.parametrize("how", ["stopped", "cut off"])
def test_T6_what_the_silent_node_holds_is_stored_once(cluster: Cluster, how: str) -> None:
    """What was sent into the silence is committed elsewhere; when the old node gets it after all, nothing is twice."""
    name = f"held {how}".replace(" ", "-")
    with opened(*cluster.urls, subscribe={name: "now"}, stream=name) as client:
        client.send("1").result(PATIENCE)
        node, started = silence(cluster, client, how), time.monotonic()
        receipts = [client.send(payload) for payload in ("2", "3")]
        for receipt in receipts:
            receipt.result(PATIENCE)
        assert time.monotonic() - started < INTERVAL + DEADLINE + SLACK
        assert client.stats()["node"] != node.name
        (node.resume if how == "stopped" else node.door.heal_all)()
        assert node.door.wait_for(lambda link: all(carried.is_over for carried in link.carried), PATIENCE)
        client.send("4").result(PATIENCE)
        assert taken(client, 4) == ["1", "2", "3", "4"]
    read = cluster.final_read(name)
    assert read is not None
    assert [effect.payload for effect in read.messages] == ["text:1", "text:2", "text:3", "text:4"]


def test_Z6_a_node_stopped_before_its_upgrade_costs_the_stagger(cluster: Cluster) -> None:
    """The kernel takes connections for a stopped node; a dial of both is upgraded by the other one, 250 ms later."""
    cluster.nodes[0].pause()
    for _ in range(4):  # some of them begin at the stopped one
        started = time.monotonic()
        with opened(*cluster.urls) as client:
            assert client.stats()["node"] == cluster.nodes[1].name
            assert time.monotonic() - started < STAGGER + 1.0
    with pytest.raises(ConnectTimeout):  # the negative control: alone it costs all the time that there is
        connect(cluster.urls[:1], open_timeout=STAGGER + 1.0)


def stop_after_101(node: Node) -> None:
    """Stop a node right after the next 101 that it sends: its link holds that back until the process stands still."""
    dialled: list[Carried] = []

    def hold(carried: Carried) -> None:
        carried.s2c.delay(0.3)
        dialled.append(carried)

    node.door.on_connect = hold
    assert node.door.wait_for(lambda _: any(carried.s2c.received for carried in dialled), PATIENCE)
    node.pause()
    node.door.on_connect = None
    for carried in dialled:
        carried.heal()


def moved_to_gray(cluster: Cluster, client: Client) -> Node:
    """Have a Client dial a node that stops right after its 101, with its old one there again; give the old one."""
    node, other = node_of(cluster, client)
    node.door.refuse()
    node.door.cut_all()
    stop_after_101(other)
    node.door.accept()
    return node


def test_Z6_a_node_stopped_after_its_101_is_left(cluster: Cluster) -> None:
    """A node that upgrades and never says welcome costs a fifth of the attempt where another one can be had."""
    with opened(*cluster.urls, subscribe={"gray": "now"}, stream="gray") as client:
        client.send("1").result(PATIENCE)
        node = moved_to_gray(cluster, client)
        client.send("2").result(Retry().connect_timeout / 5 + SLACK)
        assert client.stats()["node"] == node.name
        assert taken(client, 2) == ["1", "2"]


def test_Z6_control_a_longer_attempt_waits_longer(cluster: Cluster) -> None:
    """The negative control: with three times the time for an attempt it is not over by then."""
    long = Retry(wait=AT_ONCE.wait, connect_timeout=3 * Retry().connect_timeout)
    with opened(*cluster.urls, stream="gray", retry=long) as client:
        moved_to_gray(cluster, client)
        with pytest.raises(TimeoutError):
            client.send("2").result(Retry().connect_timeout / 5 + SLACK)
