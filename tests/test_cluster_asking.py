"""Discovery, access tokens and peers with real nodes: what a Client does without being given it at the start."""

from __future__ import annotations

import contextlib
import http.server
import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from seen import Seen

from resilient_ws import AccessDenied, Failover, Retry, connect, events
from server_fixture.cluster import Cluster
from server_fixture.process import Child

pytestmark = pytest.mark.cluster

QUICK = Retry(wait=tenacity.wait_exponential(multiplier=0.05, max=0.5), stable_after=1.0)
HERE = "http://127.0.0.1"


@contextlib.contextmanager
def listing(answer: dict[str, Any]) -> Iterator[str]:
    """Serve a list of endpoints, the dict as it is at the time; gives the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"{HERE}:{server.server_address[1]}/endpoints"
        finally:
            server.shutdown()
            thread.join()


def entries(*urls: str) -> list[dict[str, Any]]:
    """Write endpoints down as a node does."""
    return [{"url": url, "name": url, "draining": False} for url in urls]


def test_a_client_finds_nodes_that_it_was_never_given() -> None:
    """It connects with no URL at all, and when its node is killed it goes on at one that came later."""
    with Cluster(2) as cluster:
        first, second = cluster.urls
        answer: dict[str, Any] = {"endpoints": entries(first), "ttl": 1}
        seen = Seen()
        with (
            listing(answer) as source,
            connect([], stream="found", failover=Failover(discover=source), retry=QUICK, on_event=seen) as ws,
        ):
            ws.send("one").result(10)
            assert ws.stats()["node"] == "node-1"
            answer["endpoints"] = entries(second)
            assert seen.wait(events.EndpointsChanged, 2)[1].removed == 1
            assert ws.connected  # and not cut, although nobody names its node any more
            cluster.nodes[0].kill()
            ws.send("two").result(10)
            assert ws.stats()["node"] == "node-2"
            assert len(seen.wait(events.Resumed)) == 1


def test_nodes_say_where_the_others_are() -> None:
    """Given one node and its own list, behind its own authentication: the other one is found, by name and health."""
    with Cluster(2, flags={"access-ttl": 60}) as cluster:
        first = cluster.urls[0].replace("ws:", "http:")
        seen = Seen()
        with connect(
            cluster.urls[0],
            stream="found",
            access_token=f"{first}token?principal=ann",
            failover=Failover(discover=f"{first}endpoints"),
            retry=QUICK,
            on_event=seen,
        ) as ws:
            seen.wait(events.EndpointsChanged)
            assert sorted(ws.stats()["endpoints"]) == sorted((url[:-1], "good") for url in cluster.urls)
            cluster.nodes[0].kill()
            ws.send("two").result(10)
            assert ws.stats()["node"] == "node-2"


def test_without_discovery_it_would_not() -> None:
    """The negative control: the same loss, and nobody says where the other node is."""
    with Cluster(2) as cluster, connect(cluster.urls[:1], stream="found", retry=QUICK) as ws:
        cluster.nodes[0].kill()
        receipt = ws.send("two")
        with pytest.raises(TimeoutError):
            receipt.result(1.5)
        cluster.nodes[0].restart()
        receipt.result(10)


def test_a_session_outlives_its_access_tokens() -> None:
    """Tokens of a second are renewed in time over the open connection: one connect, and everything is committed."""
    with Cluster(1, backplane="memory", flags={"access-ttl": 1}) as cluster:
        seen = Seen()
        source = cluster.urls[0].replace("ws:", "http:") + "token?principal=ann"
        with connect(cluster.urls, access_token=source, stream="long", on_event=seen) as ws:
            for renewals in range(1, 5):
                seen.wait(events.AccessTokenRenewed, renewals)
                ws.send("tick").result(10)
            assert ws.stats()["connects"] == 1


def test_without_renewal_it_would_not() -> None:
    """The negative control: the same node and one token, as a str."""
    with Cluster(1, backplane="memory", flags={"access-ttl": 1}) as cluster:
        source = cluster.urls[0].replace("ws:", "http:") + "token?principal=ann"
        with urllib.request.urlopen(source, timeout=10) as response:
            token = json.load(response)["access_token"]
        with connect(cluster.urls, access_token=token, subscribe=["long"]) as ws, pytest.raises(AccessDenied):
            ws.recv(10)


def test_S8_an_expired_token_is_replaced_and_the_session_resumes() -> None:
    """A source that renews nothing in time (it says no time): 4401 is answered by a fresh token; nothing is lost."""
    with Cluster(1, backplane="memory", flags={"access-ttl": 1}) as cluster:
        seen = Seen()
        source = cluster.urls[0].replace("ws:", "http:") + "token?principal=ann"

        def token() -> str:
            with urllib.request.urlopen(source, timeout=10) as response:
                return str(json.load(response)["access_token"])

        with connect(
            cluster.urls, access_token=token, subscribe=["s"], stream="s", retry=QUICK, on_event=seen
        ) as ws:
            for number in range(30):
                ws.send(f"{number}")
                if number % 10 == 9:
                    seen.wait(events.Resumed, 1 + number // 10)  # the token was over, and was replaced
            assert [ws.recv(10).data for _ in range(30)] == [f"{number}" for number in range(30)]
        assert {event.code for event in seen.wait(events.ConnectionEnded, 3)} == {4401}


@pytest.mark.parametrize("trusted", [["127.0.0.1"], []])
def test_peers_are_dialled_where_their_host_is_trusted(tmp_path: Path, trusted: list[str]) -> None:
    """A node names another one; who does not trust its host stays with what it was given."""

    key = {"RESILIENT_WS_TOKEN_KEY": "ab" * 32}

    def node(name: str, *flags: str) -> Child:
        argv = [sys.executable, "-m", "server_fixture.node", "--name", name, *flags]
        child = Child(argv, name=name, log_path=tmp_path / f"{name}.log", env=key)
        child.wait_ready(20.0)
        return child

    with node("two") as two, node("one", f"--peers={two.ready['url']}") as one:
        seen = Seen()
        failover = Failover(trusted_hosts=trusted)
        with connect(one.ready["url"], failover=failover, retry=QUICK, on_gap="report", on_event=seen) as ws:
            one.kill()
            if trusted:
                assert seen.wait(events.Connected, 2)[1].node == "two"
            else:
                assert seen.wait(events.EndpointsRefused)[0].source == "server"
                seen.wait(events.RetryScheduled, 4)
                assert not ws.connected
            assert len(ws.stats()["endpoints"]) == 1 + len(trusted)
