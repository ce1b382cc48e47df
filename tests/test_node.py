"""One real node process, spoken to by a bare peer: what the asyncio shell adds to the pure session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket
from node_peer import Peer, ask, connected

from resilient_ws.frames import Ack, Batch, Credit, Drain, Grant, HelloStream, Ping, Pong, Reject
from server_fixture.node import parse
from server_fixture.process import Child

pytestmark = pytest.mark.cluster

HOOKS = '''
def authenticate(access_token):
    return access_token if access_token in ("ann", "bob") else None

def authorize(principal, verb, stream):
    return not stream.startswith("secret") or principal == "ann"
'''


def node(tmp_path: Path, *flags: str, **env: str) -> Child:
    """Start a node of its own."""
    argv = [sys.executable, "-m", "server_fixture.node", "--name", "one", *flags]
    child = Child(argv, name="one", log_path=tmp_path / "node.log", env={"PYTHONPATH": str(tmp_path), **env})
    child.wait_ready(20.0)
    return child


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a node with the memory backplane."""
    with node(tmp_path_factory.mktemp("node"), "--max-message", "1000", "--keepalive", "0.3") as child:
        yield child.ready["url"]


def test_what_is_sent_is_stored_acked_and_read(url: str) -> None:
    """A message that one peer sends is committed, and another one that subscribed before gets it."""
    with connected(url) as reader, connected(url) as writer:
        reader.hello(HelloStream(stream="a", id=1, start="now"))
        writer.hello()
        writer.send(Batch("a", 1, ["one", b"two", "drei \u00fc"]))
        assert writer.wait(Ack, lambda ack: any(mark.seq == 3 for mark in ack.committed))
        assert list(reader.payloads(3)) == ["one", b"two", "drei \u00fc"]


def test_any_path_is_served_and_named(url: str) -> None:
    """The endpoint is at every path, and every answer names the node."""
    with connected(url + "some/feed?x=1") as peer:
        assert peer.socket.getheaders()["resilient-node"] == "one"
        assert peer.hello().node == "one"
    for path in ("healthz", "nothing"):
        assert ask(url + path)[1]["Resilient-Node"] == "one"


def test_publish_api_appends(url: str) -> None:
    """The server's own API appends bytes or text, and answers with the place."""
    status, _, first = ask(url + "streams/news/today", b"\x00\xff")
    assert (status, first["offset"]) == (200, 1)
    status, _, second = ask(url + "streams/news/today", "h\u00e9".encode(), Content_Type="text/plain; charset=utf-8")
    assert (second["epoch"], second["offset"]) == (first["epoch"], 2)
    with connected(url) as peer:
        peer.hello(HelloStream(stream="news/today", id=1, start="earliest"))
        assert list(peer.payloads(2)) == [b"\x00\xff", "h\u00e9"]


@pytest.mark.parametrize(
    ("stream", "body", "status"),
    [("%20", b"x", 400), ("~", b"x", 400), ("~00nobody", b"x", 404), ("a", b"x" * 1001, 413)],
)
def test_publish_api_refuses(url: str, stream: str, body: bytes, status: int) -> None:
    """A name that is none, a session that is none, and a message that is too large are refused."""
    assert ask(f"{url}streams/{stream}", body)[0] == status


def test_publish_api_writes_a_private_stream(url: str) -> None:
    """A message to a living session's private stream reaches its owner."""
    with connected(url) as peer:
        welcome = peer.hello(HelloStream(stream="~", id=1, start="earliest"))
        assert ask(f"{url}streams/~{welcome.session}", b"for you")[0] == 200
        assert list(peer.payloads(1)) == [b"for you"]


def test_too_large_message_is_rejected_alone(url: str) -> None:
    """A message over the limit is consumed by a reject, and the next one is committed."""
    with connected(url) as peer:
        peer.hello()
        peer.send(Batch("big", 1, [b"x" * 3000]), Batch("big", 2, [b"fits"]))
        assert peer.wait(Reject).seq == 1
        assert peer.wait(Ack, lambda ack: any(mark.seq == 2 for mark in ack.committed))


def test_silent_peer_is_pinged(url: str) -> None:
    """A peer that says nothing is pinged by the node's own timer, and the node answers pings."""
    with connected(url) as peer:
        peer.hello()
        peer.wait(Ping)
        peer.send(Ping(echo="e"))
        assert peer.wait(Pong).echo == "e"


def test_garbage_closes_with_a_protocol_error(url: str) -> None:
    """What cannot be decoded ends the connection with 4400."""
    with connected(url) as peer:
        peer.hello()
        peer.socket.send("{nonsense")
        assert peer.wait_closed().code == 4400


def test_second_hello_of_a_session_closes_the_first_connection(url: str) -> None:
    """A resumed session's old connection is closed 4409 at once, naming the instance that took over."""
    with connected(url) as old, connected(url) as new:
        welcome = old.hello()
        again = new.hello(session=welcome.session, token=welcome.token, instance=old.instance, attempt=2)
        assert (again.verdict, again.session) == ("resumed", welcome.session)
        closed = old.wait_closed()
        assert (closed.code, closed.reason) == (4409, f"instance={old.instance}")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-WebSocket-Protocol": "mqtt"}, 400),
    ],
)
def test_upgrade_is_refused(url: str, header: dict[str, str], status: int) -> None:
    """Browsers of foreign pages, and peers that speak something else, get no connection."""
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(url, timeout=5, suppress_origin=True, header=header)
    assert refused.value.status_code == status
    assert refused.value.resp_headers["resilient-node"] == "one"


def test_plain_request_is_told_to_upgrade(url: str) -> None:
    """A request without an upgrade is answered 426."""
    assert ask(url)[0] == 426


def test_hooks_decide_who_may_what(tmp_path: Path) -> None:
    """Nobody without an access token gets in, a stream is refused alone, and a resume needs the same principal."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    with node(tmp_path, "--authenticate", "hooks:authenticate", "--authorize", "hooks:authorize") as child:
        url = child.ready["url"]
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            Peer(url, {"Authorization": "Bearer nobody"})
        assert refused.value.status_code == 401
        as_bob, as_ann = ({"Authorization": f"Bearer {name}"} for name in ("bob", "ann"))
        with connected(url, as_bob) as bob, connected(url, as_ann) as ann:
            streams = (HelloStream(stream="secret", id=1, start="now"), HelloStream(stream="open", id=2, start="now"))
            welcome = bob.hello(*streams)
            assert {answer.stream: answer.error is None for answer in welcome.streams} == {
                "secret": False,
                "open": True,
            }
            assert ann.hello(*streams).streams[0].error is None
        assert ask(url + "streams/secret", b"x", Authorization="Bearer bob")[0] == 403
        assert ask(url + "streams/secret", b"x", Authorization="Bearer ann")[0] == 200
        assert ask(url + "streams/open", b"x")[0] == 401


def test_sigterm_drains(tmp_path: Path) -> None:
    """SIGTERM sends a drain notice, refuses newcomers with 503 and Retry-After, fails the health check, ends with 0."""
    with node(tmp_path, "--drain", "0.6") as child:
        url = child.ready["url"]
        with connected(url) as peer:
            peer.hello()
            assert ask(url + "healthz")[2] == {"node": "one", "status": "ok", "sessions": 1}
            os.kill(child.pid, signal.SIGTERM)
            assert peer.wait(Drain).within == 0.6
            status, headers, _ = ask(url + "healthz")
            assert (status, headers["Resilient-Node"]) == (503, "one")
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                Peer(url)
            assert refused.value.status_code == 503
            assert refused.value.resp_headers["retry-after"] == "1"
            peer.send(Batch("late", 1, ["read before the end"]))
            assert peer.wait(Ack).committed[0].seq == 1
            assert peer.wait_closed().code == 1012
        assert child.wait(10.0) == 0


def test_drain_ends_when_everybody_left(tmp_path: Path) -> None:
    """A node whose clients are gone does not wait for the end of its time."""
    with node(tmp_path, "--drain", "50") as child:
        with connected(child.ready["url"]) as peer:
            peer.hello()
            os.kill(child.pid, signal.SIGTERM)
            peer.wait(Drain)
        assert child.wait(10.0) == 0


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    """A flag that is not given is taken from the environment."""
    with node(tmp_path, RESILIENT_WS_NODE_TTL="33", RESILIENT_WS_TOKEN_KEY="ab" * 32) as child:
        with connected(child.ready["url"]) as peer:
            assert peer.hello().ttl == 33
        assert "token_key_random" not in child.log_tail()


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        (["--authorize", "nowhere:nothing"], {}, "nowhere:nothing"),
        ([], {"RESILIENT_WS_TOKEN_KEY": "not hex"}, "RESILIENT_WS_TOKEN_KEY"),
        ([], {"RESILIENT_WS_TOKEN_KEY": "abcd"}, "16 bytes"),
        (["--backplane", "unix:///nowhere/s", "--step-timeout", "0.5"], {}, "the node cannot serve"),
    ],
)
def test_bad_settings_end_with_a_reason(
    flags: list[str], env: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that cannot start says what to correct, and never quotes a key."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    argv = [sys.executable, "-m", "server_fixture.node", *flags]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "not hex" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--accept-rate=0", "'0' is no whole number from 1 to 1000000"),
        ("--accept-rate=fast", "'fast'"),
        ("--advertise=yes", "'yes' is neither 'off' nor 'on'"),
        ("--announce=0", "'0' is not between 0.01 and 3600 seconds"),
        ("--spread=-1", "'-1' is not between 0 and 1e+09 seconds"),
        ("--url=http://a/", "'http://a/' is no URL that begins with ws:// or wss://"),
        ("--url=ws://a b/", "'ws://a b/' is no URL"),
        ("--name=two words", "'two words' is not 1 to 255 visible ASCII characters"),
    ],
)
def test_what_other_nodes_could_not_use_is_refused(flag: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag with a value that cannot be said of a node ends with the flag, the value, and what is wrong with it."""
    with pytest.raises(SystemExit) as ended:
        parse([flag])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert flag.partition("=")[0] in error
    assert said in error


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fixture's extra the node says which command installs it."""
    code = (
        "import sys, runpy; sys.modules['aiohttp'] = None; "
        "import importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name == 'aiohttp' else find(name, *a); "
        "sys.argv = ['node']; runpy.run_module('server_fixture.node', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "pip install 'resilient-ws[fixture]'" in done.stderr


def test_memory_of_a_slow_reader_is_bounded_by_his_credit(url: str) -> None:
    """A peer that grants nothing gets nothing, and is served again when he grants."""
    with connected(url) as peer:
        peer.hello(HelloStream(stream="slow", id=1, start="earliest"), credit=Credit(0, 0))
        for _ in range(3):
            assert ask(url + "streams/slow", b"m")[0] == 200
        peer.send(Ping(echo="between"))
        peer.wait(Pong, lambda pong: pong.echo == "between")
        assert not [item for item in peer.items if isinstance(item, Batch)]
        peer.send(Grant(credit=Credit(3, 1000)))
        assert list(peer.payloads(3)) == [b"m"] * 3
