"""A real node that issues access tokens: who gets in, for how long, and what an ``auth`` frame does about it."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import websocket
from node_peer import Peer, connected

from resilient_ws.frames import Ack, Auth, Batch
from server_fixture.process import Child
from server_fixture.serving import LEEWAY

pytestmark = pytest.mark.cluster

TTL = 1.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a node whose access tokens are good for a second."""
    argv = [sys.executable, "-m", "server_fixture.node", f"--access-ttl={TTL}", "--keepalive=0.3"]
    with Child(argv, name="node", log_path=tmp_path_factory.mktemp("node") / "node.log", env={}) as child:
        child.wait_ready(20.0)
        yield child.ready["url"]


def issued(url: str, query: str = "?principal=ann", method: str = "POST") -> dict[str, Any]:
    """Ask for a token."""
    request = urllib.request.Request(url.replace("ws:", "http:") + "token" + query, method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Cache-Control"] == "no-store"
        return dict(json.load(response))


def bearer(url: str, query: str = "?principal=ann") -> dict[str, str]:
    """Return the header of a fresh token."""
    return {"Authorization": f"Bearer {issued(url, query)['access_token']}"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_tokens_are_issued(url: str, method: str) -> None:
    """In the form of RFC 6749, to whoever asks: it is a server for tests."""
    answer = issued(url, method=method)
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", TTL)
    with connected(url, {"Authorization": f"Bearer {answer['access_token']}"}) as peer:
        assert peer.hello().verdict == "new"


@pytest.mark.parametrize(("query", "method", "status"), [("?principal=a.b", "GET", 400), ("", "DELETE", 405)])
def test_what_is_no_question(url: str, query: str, method: str, status: int) -> None:
    """A principal that is none, and a method that is not meant."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        issued(url, query, method)
    refused.value.close()
    assert refused.value.code == status


def test_nobody_gets_in_without(url: str) -> None:
    """No token and one that is over are 401; an upgrade at ``/token`` is an upgrade."""
    over = bearer(url)
    with connected(url + "token?principal=ann", over) as peer:
        peer.hello()
        assert peer.wait_closed().code == 4401
    time.sleep(TTL)  # what a token of whole seconds may be good for beyond its ttl
    for header in ({}, over):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            Peer(url, header)
        assert refused.value.status_code == 401


def test_a_token_that_is_not_renewed_ends_the_connection(url: str) -> None:
    """With 4401, after its end and not before."""
    with connected(url, bearer(url)) as peer:
        begun = time.monotonic()
        peer.hello()
        closed = peer.wait_closed()
        assert (closed.code, closed.reason) == (4401, "the access token is over; dial with a fresh one")
        assert TTL + LEEWAY - 0.2 <= time.monotonic() - begun <= TTL + LEEWAY + 5.0


def test_a_token_that_is_renewed_in_band_does_not(url: str) -> None:
    """Each auth frame moves the end; the connection works on, longer than any one token."""
    with connected(url, bearer(url)) as peer:
        peer.hello()
        for seq in range(1, 6):
            time.sleep(0.6)
            peer.send(Auth(access_token=issued(url)["access_token"]), Batch("a", seq, [f"{seq}"]))
            assert peer.wait(Ack, lambda ack, seq=seq: any(mark.seq == seq for mark in ack.committed))


@pytest.mark.parametrize(
    ("query", "spoil", "code"), [("?principal=ann", "0", 4401), ("?principal=bob", "", 4403)], ids=["bad", "another's"]
)
def test_an_auth_frame_that_is_refused(url: str, query: str, spoil: str, code: int) -> None:
    """A bad token is 4401, another principal's 4403."""
    with connected(url, bearer(url)) as peer:
        peer.hello()
        peer.send(Auth(access_token=issued(url, query)["access_token"] + spoil))
        assert peer.wait_closed().code == code
