"""What breaks the protocol: an error that says so, and 4400."""

from __future__ import annotations

import json
from typing import Any

import pytest
import websocket

from tests.conformance.grammar import MOST
from tests.conformance.plain_peer import plain, random_id
from tests.conformance.subjects import Nodes, follow, subscribed

pytestmark = pytest.mark.cluster


def bare(**fields: Any) -> str:
    """Write a hello with its least fields, and these."""
    least = {
        "type": "hello",
        "version": 1,
        "instance": random_id(),
        "attempt": 1,
        "producers": [random_id()],
        "credit": {"messages": 1, "bytes": 1},
        "max_message": 1,
    }
    return json.dumps({key: value for key, value in {**least, **fields}.items() if value is not Ellipsis})


ENTRY = {"stream": "s", "id": 1, "start": "now"}
NOT_A_HELLO = {
    "ping first": '{"type":"ping","echo":"1"}',
    "ready first": '{"type":"ready","generation":1}',
    "data first": "orders:1:x",
    "binary data first": b"orders:1:x",
    "a server's frame": '{"type":"drain","within":1}',
    "unknown type": '{"type":"salute"}',
    "no type": '{"version":1}',
    "cut off": bare()[:-1],
    "an array": "[1]",
    "nothing": "",
    "no text": "hello",
    "two objects": bare() + "{}",
    "version 2": bare(version=2),
    "version true": bare(version=True),
    "version 1.0": bare(version=1).replace('"version": 1', '"version": 1.0'),
    "no instance": bare(instance=...),
    "instance in capitals": bare(instance="A" * 32),
    "short instance": bare(instance="a" * 31),
    "attempt 0": bare(attempt=0),
    "attempt as text": bare(attempt="1"),
    "attempt too large": bare(attempt=MOST + 1),
    "attempt of 18 digits": bare(attempt=10**17),
    "no producers": bare(producers=...),
    "producers no list": bare(producers="a" * 32),
    "a producer twice": bare(producers=["a" * 32] * 2),
    "1025 producers": bare(producers=[f"{number:032x}" for number in range(1025)]),
    "no credit": bare(credit=...),
    "credit in part": bare(credit={"messages": 1}),
    "negative credit": bare(credit={"messages": -1, "bytes": 1}),
    "credit null": bare(credit=None),
    "no max_message": bare(max_message=...),
    "session without token": bare(session="0f" + "a" * 30),
    "token without session": bare(token="v1.x"),
    "a stream twice": bare(streams=[ENTRY, {**ENTRY, "id": 2}]),
    "a stream without a name": bare(streams=[{"id": 1, "start": "now"}]),
    "a stream without a start": bare(streams=[{"stream": "s", "id": 1}]),
    "held and start": bare(streams=[{**ENTRY, "held": {"epoch": "e", "offset": 1}}]),
    "a start that is none": bare(streams=[{**ENTRY, "start": "later"}]),
    "a bad name": bare(streams=[{**ENTRY, "stream": "-s"}]),
    "a long name": bare(streams=[{**ENTRY, "stream": "s" * 129}]),
    "a name that is no ASCII": bare(streams=[{**ENTRY, "stream": "grün"}]),
    "4097 streams": bare(streams=[{"stream": f"s{n}", "id": n, "start": "now"} for n in range(1, 4098)]),
    "a CRC too large": bare(streams=[{"stream": "s", "id": 1, "held": {"epoch": "e", "offset": 1, "crc": 1 << 32}}]),
    "outbound of no producer": bare(outbound=[{"producer": 1, "stream": "s", "first": 1, "next": 2}]),
    "outbound twice": bare(outbound=[{"producer": 0, "stream": "s", "first": 1, "next": 2}] * 2),
    "outbound of a reserved stream": bare(outbound=[{"producer": 0, "stream": "~x", "first": 1, "next": 2}]),
    "a field twice": bare()[:-1] + ',"attempt":2}',
    "a field twice, deep": bare(credit=...)[:-1] + ',"credit":{"messages":1,"bytes":1,"bytes":2}}',
    "NaN": bare(spare=float("nan")),
    "Infinity": bare(spare=float("inf")),
    "a comment": bare()[:-1] + "/* */}",
    "nested without end": '{"type":' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("what", NOT_A_HELLO)
def test_bad_hello(nodes: Nodes, what: str) -> None:
    """What is no hello gets an error that says so, and 4400."""
    wire = NOT_A_HELLO[what]
    with plain(nodes.url) as peer:
        peer.text(wire) if isinstance(wire, str) else peer.binary(wire)
        assert peer.wait("error")["fatal"] is True
        assert peer.wait_closed().code == 4400


AFTERWARDS = {
    "hello again": bare(),
    "a server's frame": '{"type":"welcome"}',
    "unknown type": '{"type":"salute"}',
    "another ready": '{"type":"ready","generation":9}',
    "ready without a number": '{"type":"ready"}',
    "no colon": "orders",
    "no seq": "orders:x:1",
    "seq 0": "orders:0:x",
    "seq 01": "orders:01:x",
    "seq too large": f"orders:{MOST + 1}:x",
    "skip from a client": "orders:2-1:x",
    "batch in a text message": "orders:1*2:1,1:xy",
    "batch of none": b"orders:1*0::",
    "batch of 1025": b"orders:1*1025:" + b",".join([b"0"] * 1025) + b":",
    "too few lengths": b"orders:1*3:1,1:xy",
    "lengths too short": b"orders:1*2:1,1:xyz",
    "lengths too long": b"orders:1*2:1,2:xy",
    "batch beyond the last number": f"orders:{MOST}*2:1,1:xy".encode(),
    "no such producer": "orders:1;p=1:x",
    "producer 1024": "orders:1;p=1024:x",
    "an attribute twice": "orders:1;p=0;p=0:x",
    "a bad attribute": "orders:1;P=0:x",
    "a long field": f"orders:1;{';'.join(f'k{n}=' + 'x' * 60 for n in range(5))}:x",
    "a long name": "o" * 129 + ":1:x",
    "void with a payload": "orders:1;void=expired:x",
    "text that is not UTF-8": b"orders:1;text:\xff",
    "data for another private stream": "~other:1:x",
    "nonsense": b"\x00\x01\x02",
    "subscribe without an id": '{"type":"subscribe","stream":"s","start":"now"}',
    "subscribe without a start": '{"type":"subscribe","stream":"s","id":7}',
    "ping without echo": '{"type":"ping"}',
    "a long echo": json.dumps({"type": "ping", "echo": "x" * 129}),
    "an echo that is no ASCII": json.dumps({"type": "ping", "echo": "ü"}),
    "credit in part": '{"type":"credit","messages":1}',
    "credit as text": '{"type":"credit","messages":"1","bytes":1}',
    "an ack that is no row": '{"type":"ack","acked":[["s","e"]]}',
    "a mark of 18 digits": '{"type":"ack","acked":[["s","e",100000000000000000]]}',
    "an empty access token": '{"type":"auth","access_token":""}',
}


@pytest.mark.parametrize("what", AFTERWARDS)
def test_bad_frame(nodes: Nodes, what: str) -> None:
    """What is not allowed on an open connection gets an error that says so, and 4400."""
    wire = AFTERWARDS[what]
    with plain(nodes.url) as peer:
        peer.hello()
        peer.text(wire) if isinstance(wire, str) else peer.binary(wire)
        assert peer.wait("error")["fatal"] is True
        assert peer.wait_closed().code == 4400


def test_a_long_hello_is_read(nodes: Nodes) -> None:
    """A control frame may have 4,194,304 characters, and fields that nobody knows (section 5)."""
    with plain(nodes.url) as peer:
        peer.hello(spare="x" * ((4 << 20) - 1000))


def test_a_subscribe_with_an_old_id_is_void(nodes: Nodes) -> None:
    """It has no answer, and the subscription that is there goes on (section 5)."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest", 2))
        nodes.publish(name, "one")
        assert peer.take(1) == ["one"]
        for number in (1, 2):
            peer.frame("subscribe", stream=name, id=number, start="earliest")
        nodes.publish(name, "two")
        assert peer.take(1) == ["two"]
        peer.round_trip()
        assert peer.messages == []


def test_ack_of_what_was_never_sent(nodes: Nodes) -> None:
    """An ack above what came, on a subscription that began here, breaks the protocol (section 7)."""
    name = nodes.stream()
    nodes.publish(name, "one", "two", "three")
    with plain(nodes.url) as peer:
        peer.hello(credit={"messages": 1, "bytes": 1 << 20})
        epoch = subscribed(peer, name, 1)["epoch"]
        assert peer.take(1) == ["one"]
        peer.frame("ack", acked=[[name, epoch, 2]])
        assert peer.wait_closed().code == 4400


def test_frames_of_a_standby_connection(nodes: Nodes) -> None:
    """A spare may ping and authenticate, and nothing else but say hello."""
    with plain(nodes.url) as spare:
        spare.frame("hello", **spare.hello_fields(standby=True))
        spare.wait("standing")
        spare.frame("auth", access_token="x")
        spare.round_trip()
        spare.frame("ready", generation=1)
        assert spare.wait_closed().code == 4400


def test_text_that_is_no_text(nodes: Nodes) -> None:
    """A text message that is not UTF-8 violates the WebSocket itself."""
    with plain(nodes.url) as peer:
        peer.socket.send_frame(websocket.ABNF.create_frame(b'{"type":"\xff"}', websocket.ABNF.OPCODE_TEXT, 1))
        assert peer.wait_closed().code in (1002, 1007)
