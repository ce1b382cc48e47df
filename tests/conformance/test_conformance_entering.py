"""How a node lets somebody in: the upgrade, its HTTP side, hello and welcome."""

from __future__ import annotations

import json

import pytest
import websocket

from tests.conformance.plain_peer import PlainPeer, crc, plain, random_id
from tests.conformance.subjects import LIMIT, SILENCE, TTL, Nodes, follow, held
from tests.node_peer import ask

pytestmark = pytest.mark.cluster


# -- the upgrade (section 2) and HTTP (docs/node.md) -------------------------------------------------------------------


def test_upgrade_chooses_the_subprotocol_and_names_the_node(nodes: Nodes) -> None:
    """A 101 has the subprotocol, among others that were offered, and the name of the node, as the welcome has."""
    peer = PlainPeer(nodes.url, subprotocols=("chat", "resilient.v1"))
    assert peer.socket.subprotocol == "resilient.v1"
    assert peer.socket.headers is not None
    assert peer.socket.headers["resilient-node"] == "node-1" == peer.hello()["node"]
    peer.close()


@pytest.mark.parametrize("offered", [(), ("chat",)], ids=["none", "another"])
def test_upgrade_without_the_subprotocol_is_refused(nodes: Nodes, offered: tuple[str, ...]) -> None:
    """Who does not offer ``resilient.v1`` gets an HTTP status."""
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        PlainPeer(nodes.url, subprotocols=offered)
    assert 400 <= refused.value.status_code < 500


def test_health_check_says_who_serves(nodes: Nodes) -> None:
    """``/healthz`` is 200 where the node serves, and names it."""
    status, _, said = ask(nodes.url + "healthz")
    assert (status, said["node"], said["status"]) == (200, "node-1", "ok")


def test_what_is_no_upgrade(nodes: Nodes) -> None:
    """A plain GET is told that this is a WebSocket endpoint, and by whom."""
    status, headers, _ = ask(nodes.url + "feed")
    assert (status, {name.lower(): value for name, value in headers.items()}["resilient-node"]) == (426, "node-1")


def test_publish_api_appends(nodes: Nodes) -> None:
    """A POST appends its body, text or bytes by its content type, and says where; everybody gets it."""
    name = nodes.stream()
    with plain(nodes.reference) as peer:
        epoch = peer.hello(streams=follow(name))["streams"][0]["epoch"]
        text = ask(f"{nodes.url}streams/{name}", b"gr\xc3\xbcn: 1", Content_Type="text/plain; charset=utf-8")
        data = ask(f"{nodes.url}streams/{name}", b"\x00\xff", Content_Type="application/octet-stream")
        assert [(text[0], text[2]), (data[0], data[2])] == [
            (200, {"epoch": epoch, "offset": 1}),
            (200, {"epoch": epoch, "offset": 2}),
        ]
        assert peer.take(2) == ["grün: 1", b"\x00\xff"]
    assert ask(f"{nodes.url}streams/-bad", b"x")[0] == 400
    assert ask(f"{nodes.url}streams/{name}", b"\xff", Content_Type="text/plain")[0] == 400
    assert ask(f"{nodes.url}streams/{name}", b"x" * (LIMIT + 1))[0] == 413
    assert ask(f"{nodes.url}streams/~{random_id()}", b"x")[0] == 404


# -- hello and welcome (sections 5 and 7) ------------------------------------------------------------------------------


def test_new_session(nodes: Nodes) -> None:
    """A hello without a session gets a new one, with what the node was told to tell; other nodes share the store."""
    with plain(nodes.url) as peer, plain(nodes.reference) as another:
        welcome, theirs = peer.hello(), another.hello()
        said = {key: welcome[key] for key in ("verdict", "ttl", "node", "max_message", "keepalive")}
        assert said == {
            "verdict": "new",
            "ttl": TTL,
            "node": "node-1",
            "max_message": LIMIT,
            "keepalive": {"interval": 1, "timeout": SILENCE},
        }
        assert welcome.get("reason") is None
        assert {"batch", "void"} <= set(welcome["features"])
        assert welcome["incarnation"] == theirs["incarnation"]
        assert welcome["producer_ttl"] == theirs["producer_ttl"]
        assert welcome["session"] != theirs["session"]


def test_starts(nodes: Nodes) -> None:
    """``now``, ``earliest`` and a position are resolved, each with the CRC of what stands before it."""
    name = nodes.stream()
    nodes.publish(name, "one", "two", "three")
    with plain(nodes.url) as peer:
        now = peer.hello(streams=follow(name))["streams"][0]
        assert (now["from"], now["live"], now["crc"]) == (4, 3, crc("three"))
    with plain(nodes.url) as peer:
        earliest = peer.hello(streams=follow(name, "earliest"))["streams"][0]
        assert (earliest["from"], earliest["live"], earliest.get("crc")) == (1, 3, None)
        assert peer.take(3) == ["one", "two", "three"]
    with plain(nodes.url) as peer:
        place = peer.hello(streams=follow(name, {"epoch": now["epoch"], "offset": 2}))["streams"][0]
        assert (place["from"], place["live"], place["crc"]) == (3, 3, crc("two"))
        assert peer.take(1) == ["three"]


def test_position_before_the_first_message(nodes: Nodes) -> None:
    """Zero is not absent: a stream that nobody wrote to is followed and resumed from offset 0 (rule 10)."""
    name = nodes.stream()
    with plain(nodes.url) as first, plain(nodes.url) as second:
        welcome = first.hello(streams=follow(name))
        answer = welcome["streams"][0]
        assert (answer["from"], answer.get("live", 0), answer.get("gap")) == (1, 0, None)
        again = second.resume(first, welcome, streams=held(name, answer["epoch"], 0))["streams"][0]
        assert (again["from"], again["epoch"], again.get("gap")) == (1, answer["epoch"], None)
        nodes.publish(name, "first")
        assert second.take(1) == ["first"]


def test_many_streams_in_one_hello(nodes: Nodes) -> None:
    """Every subscription of a hello has its answer."""
    names = [nodes.stream() for _ in range(300)]
    with plain(nodes.url) as peer:
        streams = [{"stream": name, "id": number, "start": "now"} for number, name in enumerate(names, 1)]
        answers = peer.hello(streams=streams)["streams"]
        assert sorted((answer["id"], answer["stream"]) for answer in answers) == list(enumerate(names, 1))


def test_unknown_is_ignored(nodes: Nodes) -> None:
    """Unknown fields, features and attributes are ignored, null is absent, whatever order fields have."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        fields = peer.hello_fields(
            streams=[{"later": 1, "id": 1, "start": "now", "stream": name, "held": None}],
            features=["batch", "void", "time-travel"],
            session=None,
            token=None,
            standby=None,
            future={"deep": [1, {"er": None}]},
        )
        peer.text(json.dumps({**dict(reversed(fields.items())), "type": "hello"}))
        peer.granted = fields["credit"]
        welcome = peer.wait("welcome")
        peer._follow(welcome["streams"][0])
        assert welcome["verdict"] == "new"
        peer.frame("ready", generation=welcome["generation"], later=True)
        peer.send(name, 1, "hello", ";colour=red;x")
        assert peer.take(1) == ["hello"]


def test_hello_in_fragments(nodes: Nodes) -> None:
    """A WebSocket message may come in fragments, with a ping of RFC 6455 between them, which is answered."""
    with plain(nodes.url) as peer:
        wire = json.dumps({"type": "hello", **peer.hello_fields()}).encode()
        abnf = websocket.ABNF
        peer.socket.send_frame(abnf.create_frame(wire[:40], abnf.OPCODE_TEXT, 0))
        peer.socket.send_frame(abnf.create_frame(b"mark", abnf.OPCODE_PING, 1))
        peer.socket.send_frame(abnf.create_frame(wire[40:], abnf.OPCODE_CONT, 1))
        assert {peer.next()["type"], peer.next()["type"]} == {"PONG", "welcome"}  # type: ignore[call-overload]


def test_no_hello_in_time(nodes: Nodes) -> None:
    """Who says nothing after the upgrade is closed 4408."""
    with plain(nodes.url) as peer:
        assert peer.wait_closed().code == 4408
