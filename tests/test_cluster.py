"""A real cluster: its processes do what they are told, and nothing of it is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
import websocket
from node_peer import Peer, ask, connected

from resilient_ws.frames import Ack, Batch, HelloStream
from server_fixture.cluster import ChildFailed, Cluster
from server_fixture.history import Effect

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a store of their own."""
    with Cluster(2, keepalive=0.5, ttl=30.0, flags={"drain": 5}) as running:
        yield running


def has_ended(pid: int) -> bool:
    """Say whether no such process runs; a zombie of a parent that is gone counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    """Look until the condition holds or the time is over."""
    pause, deadline = threading.Event(), time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.01)
    return True


def test_nodes_share_streams_and_sessions(cluster: Cluster) -> None:
    """What is published at one node arrives at a subscriber of the other, where a session of the first goes on too."""
    one, two = cluster.urls
    with connected(one) as peer, connected(two) as again:
        welcome = peer.hello(HelloStream(stream="shared", id=1, start="now"))
        resumed = again.hello(session=welcome.session, token=welcome.token, instance=peer.instance, attempt=2)
        assert resumed.verdict == "resumed"
        with connected(one) as reader:
            reader.hello(HelloStream(stream="shared", id=1, start="now"))
            again.send(Batch("shared", 1, ["across"]))
            assert list(reader.payloads(1)) == ["across"]


def test_publish_and_final_read(cluster: Cluster) -> None:
    """The final read gives exactly what was appended, and whose it was; a stream that is not there gives nothing."""
    assert cluster.final_read("never") is None
    place = cluster.publish("read", b"\x00\x01")
    with connected(cluster.urls[0]) as peer:
        peer.hello(HelloStream(stream="read", id=1, start="now"), producers=("f" * 32,))
        peer.send(Batch("read", 1, ["mine"]))
        assert list(peer.payloads(1)) == ["mine"]
    read = cluster.final_read("read")
    assert read is not None
    assert (read.epoch, read.first_offset) == (place.epoch, 1)
    assert read.messages == (Effect(1, "binary:0001"), Effect(2, "text:mine", "f" * 32, 1))


def test_killed_node_comes_back_on_its_port(cluster: Cluster) -> None:
    """A kill refuses connections at once, others serve on, and the restarted node has its old URL and a new process."""
    node = cluster.nodes[0]
    url, pid = node.url, node.pid
    node.kill()
    assert has_ended(pid)
    assert cluster.alive == [cluster.nodes[1]]
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(url + "healthz")
    assert cluster.publish("kill", b"x").last == 1
    node.restart()
    assert (node.url, node.pid == pid) == (url, False)
    assert ask(url + "healthz")[0] == 200
    assert len(cluster.alive) == 2


def test_paused_node_answers_when_it_goes_on(cluster: Cluster) -> None:
    """A stopped node keeps its connections and is silent; it goes on where it stood."""
    node = cluster.nodes[1]
    with connected(node.url) as peer:
        peer.hello()
        node.pause()
        assert cluster.alive == [cluster.nodes[0]]
        peer.send(Batch("paused", 1, ["held"]))
        threading.Event().wait(0.05)  # nothing can be awaited: that nothing happens is the point
        assert cluster.final_read("paused") is None
        node.resume()
        assert wait_until(lambda: cluster.final_read("paused") is not None and cluster.final_read("paused").messages)
    assert len(cluster.alive) == 2


def test_drained_node_ends_with_zero(cluster: Cluster) -> None:
    """A drain ends the process in order, which is no failure, and it can be started again."""
    node = cluster.nodes[1]
    node.drain()
    assert node.child.exit_code == 0
    assert cluster.alive == [cluster.nodes[0]]
    cluster.expect_alive()
    node.restart()
    assert len(cluster.alive) == 2


def test_kill_all_leaves_the_store(cluster: Cluster) -> None:
    """When every node is gone nothing can be published, what was committed is still there, and a restart serves it."""
    cluster.publish("all", "before")
    cluster.kill_all()
    assert cluster.alive == []
    with pytest.raises(ConnectionError, match="nothing was appended"):
        cluster.publish("all", "meanwhile")
    for node in cluster.nodes:
        node.restart(wait=False)
    cluster.wait_ready()
    assert cluster.publish("all", "after").last == 2


def test_silent_store_closes_sessions_and_fails_the_health_check() -> None:
    """A node without answers of the store for 0.4 ttl closes 1013 and refuses newcomers; when they come it serves."""
    flags = {"step-timeout": 0.3}
    with Cluster(1, ttl=3.0, flags=flags) as cluster, connected(cluster.urls[0]) as peer:
        peer.hello()
        assert cluster.engine is not None
        cluster.engine.pause()
        try:
            assert peer.wait_closed().code == 1013
            status, _, said = ask(cluster.urls[0] + "healthz")
            assert (status, said["status"]) == (503, "the backplane does not answer")
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                Peer(cluster.urls[0])
            assert refused.value.status_code == 503
            assert refused.value.resp_headers["retry-after"] == "1"
        finally:
            cluster.engine.resume()
        assert wait_until(lambda: ask(cluster.urls[0] + "healthz")[0] == 200)
        with connected(cluster.urls[0]) as again:
            again.hello()


def test_flood_stops_at_the_nodes_bound() -> None:
    """While the store stands still a node takes no more than its bound from a peer; then everything is committed."""
    flags = {"step-timeout": 20, "keepalive": 20}
    payload = b"x" * (1 << 16)
    with Cluster(1, flags=flags) as cluster, connected(cluster.urls[0]) as peer:
        peer.hello()
        assert cluster.engine is not None
        cluster.engine.pause()
        peer.socket.settimeout(1.0)
        sent = 0
        with contextlib.suppress(websocket.WebSocketTimeoutException):
            while sent < 1000:
                peer.send(Batch("flood", sent + 1, [payload]))
                sent += 1
        cluster.engine.resume()
        assert 64 < sent < 500, "4 MiB and what the kernel holds, not 62 MiB"
        peer.socket.settimeout(10.0)
        assert peer.wait(Ack, lambda ack: any(mark.seq >= sent for mark in ack.committed))


def test_final_read_needs_the_store() -> None:
    """A store that is gone is an error of its own, not an empty stream; an empty one comes back in its place."""
    with Cluster(1) as cluster:
        cluster.publish("gone", b"x")
        assert cluster.engine is not None
        cluster.engine.kill()
        with pytest.raises(ConnectionError, match="there is no final read"):
            cluster.final_read("gone")
        cluster.engine.start()
        assert cluster.final_read("gone") is None


def test_memory_cannot_be_read_from_outside() -> None:
    """The final read of a node without a store says why there is none."""
    with Cluster(1, backplane="memory") as cluster, pytest.raises(ValueError, match="cannot be read"):
        cluster.final_read("any")


def test_node_that_dies_by_itself_is_reported(tmp_path: Path) -> None:
    """A node that nobody killed makes the end of the block fail, with how it ended and the end of its log."""
    cluster = Cluster(1, backplane="memory", directory=tmp_path, flags={"authorize": "server_fixture.app:everybody"})
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster)
        os.kill(cluster.nodes[0].pid, signal.SIGABRT)
        cluster.nodes[0].child.wait(10.0)
        with pytest.raises(ChildFailed, match=rf"node-1 ended with SIGABRT; the end of its log \({tmp_path}"):
            stack.close()


def test_node_that_cannot_start_is_reported(tmp_path: Path) -> None:
    """A node that ends before it is ready fails the start with what it said last."""
    cluster = Cluster(1, backplane="memory", flags={"authorize": "nowhere:nothing"}, directory=tmp_path)
    with pytest.raises(ChildFailed, match=r"exit code 1(.|\n)*'nowhere:nothing' cannot be found"), cluster:
        pass
    assert (tmp_path / "node-1.log").exists()


@pytest.mark.parametrize("balancer", [None, "embedded"])
def test_links_stand_before_the_nodes(balancer: Literal["embedded"] | None) -> None:
    """Who dials a cluster with links comes through them, with a balancer too; they outlive their nodes."""
    with Cluster(1, backplane="memory", links=True, balancer=balancer) as cluster:
        urls, (link,) = cluster.urls, cluster.links
        assert link.port != cluster.nodes[0].port
        with connected(urls[0]) as peer:
            peer.hello()
            assert [carried.is_over for carried in link.carried] == [False]
            link.reset_all()
            assert link.wait_for(lambda link: link.carried[0].is_over)
        cluster.nodes[0].restart()
        assert cluster.urls == urls
        with connected(urls[0]) as peer:
            peer.hello()
        assert len(link.carried) == 2


def test_cluster_without_links_says_so() -> None:
    """Asking for links that nobody asked to have is an error that says what to do."""
    with Cluster(1, backplane="memory") as cluster, pytest.raises(RuntimeError, match=r"use Cluster\(links=True\)"):
        list(cluster.links)


def test_nodes_are_asked_by_the_way_of_connections() -> None:
    """Every node that serves answers; one that is stopped, cut off or down is named, with what happens instead."""
    with Cluster(2, links=True) as cluster:
        one, two = cluster.nodes
        assert cluster.silent() == []
        one.pause()
        assert [said.split(":")[0] for said in cluster.silent(0.3)] == ["node-1 gives no answer"]
        one.resume()
        two.door.stall_all()
        assert [said.split(":")[0] for said in cluster.silent(0.3)] == ["node-2 gives no answer"]
        two.door.heal_all()
        one.kill()
        assert [said.split(":")[0] for said in cluster.silent(0.3)] == ["node-1 gives no answer"]
        one.restart()
        assert cluster.silent() == []


@pytest.mark.parametrize(("nodes", "backplane"), [(0, "redis"), (2, "memory")])
def test_impossible_cluster_is_refused(nodes: int, backplane: str) -> None:
    """No node, or several without a shared backplane, make no cluster."""
    with pytest.raises(ValueError, match=f"nodes={nodes}"):
        Cluster(nodes, backplane=backplane)


def test_logs_go_with_the_cluster() -> None:
    """After a block that ended well nothing is left, neither processes nor files."""
    with Cluster(1, backplane="memory") as cluster:
        pid = cluster.nodes[0].pid
        assert cluster.nodes[0].log_path.exists()
    assert has_ended(pid)
    assert not cluster.directory.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    """When the process that made the cluster is killed, its nodes, a stopped one too, and its store end."""
    code = (
        "import sys, signal\n"
        "from server_fixture.cluster import Cluster\n"
        "with Cluster(2) as c:\n"
        "    c.nodes[1].pause()\n"
        "    print(*(n.pid for n in c.nodes), c.engine.pid, flush=True)\n"
        "    signal.pause()\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    with parent:
        try:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 3
            assert not any(map(has_ended, pids))
        finally:
            parent.kill()
        parent.wait(10.0)
    for pid in pids:
        assert wait_until(lambda pid=pid: has_ended(pid)), pid
