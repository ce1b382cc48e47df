"""Messages from a client to a node: stored once, in order, acked, or rejected alone (rules 2 and 11)."""

from __future__ import annotations

import pytest

from tests.conformance.plain_peer import plain, random_id
from tests.conformance.subjects import LIMIT, Nodes, follow

pytestmark = pytest.mark.cluster


TEXTS: list[str | bytes] = ["text", "", "a:b:{\n", '{"type":"ping"}', "grün \U0001f600"]
PAYLOADS: list[str | bytes] = [*TEXTS, b"bytes", b"", b"a:1:\x00\xff", *TEXTS]


def test_payloads_come_back_as_they_went(nodes: Nodes) -> None:
    """Text stays text, bytes stay bytes, whatever is in them, in order, and all of it is acked."""
    name = nodes.stream()
    with plain(nodes.url) as peer, plain(nodes.reference) as another:
        peer.hello(streams=follow(name))
        another.hello(streams=follow(name))
        for seq, payload in enumerate(PAYLOADS, 1):
            peer.send(name, seq, payload)
        peer.wait_ack(name, len(PAYLOADS))
        assert peer.take(len(PAYLOADS)) == another.take(len(PAYLOADS)) == PAYLOADS


def test_batches_and_attributes(nodes: Nodes) -> None:
    """Batch frames, text in binary messages and a second producer are understood."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        producers = [peer.producer, random_id()]
        peer.hello(streams=follow(name), producers=producers)
        peer.written.update({(0, name): 4, (1, name): 1})
        peer.binary(f"{name}:1*3;text:5,0,3:grünrot".encode())
        peer.binary(f"{name}:4;text;p=0:grün".encode())
        assert peer.take(4) == ["grün", "", "rot", "grün"]
        peer.binary(f"{name}:1;p=1:x".encode())
        assert peer.take(1) == [b"x"]
        peer.send(name, 5, "single")
        peer.wait_ack(name, 5)


def test_largest_batch(nodes: Nodes) -> None:
    """A receiver takes 1024 messages in one frame."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        peer.hello()
        peer.written[0, name] = 1024
        peer.binary(f"{name}:1*1024:".encode() + b",".join([b"1"] * 1024) + b":" + b"x" * 1024)
        peer.wait_ack(name, 1024)


def test_resent_messages_are_stored_once(nodes: Nodes) -> None:
    """What is sent again is acked again and not stored again, on this connection and at any other node."""
    name = nodes.stream()
    with plain(nodes.url) as peer, plain(nodes.reference) as second, plain(nodes.other) as third:
        welcome = peer.hello()
        for seq, payload in [(1, "one"), (2, "two"), (1, "one"), (2, "two"), (3, "three")]:
            peer.send(name, seq, payload)
        peer.wait_ack(name, 3)
        outbound = [{"producer": 0, "stream": name, "first": 1, "next": 4}]
        again = second.resume(peer, welcome, outbound=outbound)
        third.resume(second, again, outbound=outbound, attempt=3)
        for seq, payload in [(1, "one"), (2, "two"), (3, "three"), (4, "four")]:
            third.send(name, seq, payload)
        third.wait_ack(name, 4)
    with plain(nodes.url) as reader:
        reader.hello(streams=follow(name, "earliest"))
        assert reader.take(4) == ["one", "two", "three", "four"]
        assert reader.round_trip()["sent_offsets"][0][3] == 4


def test_hole_stores_nothing(nodes: Nodes) -> None:
    """A seq above the next one closes 1012, and nothing of it is stored (rule 2)."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name))
        peer.send(name, 1, "one")
        peer.wait_ack(name, 1)
        peer.send(name, 3, "three")
        assert peer.wait_closed().code == 1012
    with plain(nodes.reference) as reader:
        assert reader.hello(streams=follow(name, "earliest"))["streams"][0]["live"] == 1


def test_rejected_messages_are_tombstones(nodes: Nodes) -> None:
    """Too large, withdrawn and private ones are rejected, each before the ack that covers it; later ones go on."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        welcome = peer.hello(streams=follow(name))
        peer.send(name, 1, "one")
        peer.send(name, 2, "x" * (LIMIT + 1))
        peer.send(name, 3, "", ";void=expired")
        peer.send(name, 4, "four")
        peer.send("~", 1, "mine")
        peer.wait_ack(name, 4)
        peer.round_trip()
        assert sorted(peer.rejected) == [(name, 2, "too_large"), (name, 3, "expired"), ("~", 1, "forbidden")]
        assert peer.take(2) == ["one", "four"]
    with plain(nodes.reference) as again:
        outbound = [{"producer": 0, "stream": name, "first": 2, "next": 5}]
        settled = again.resume(peer, welcome, outbound=outbound)["committed"][0]
        assert (settled["seq"], settled["rejected"]) == (4, [[2, "too_large"], [3, "expired"]])


def test_large_message_is_rejected_alone(nodes: Nodes) -> None:
    """A WebSocket message of a megabyte is refused as a message, not as a frame (section 10)."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name))
        peer.send(name, 1, "x" * ((1 << 20) - len(name) - 3))
        peer.send(name, 2, "y" * LIMIT)
        assert peer.take(1) == ["y" * LIMIT]
        assert peer.rejected == [(name, 1, "too_large")]


def test_outbound_settles_what_is_below(nodes: Nodes) -> None:
    """``first`` settles everything below it: a producer that the stream does not know goes on there, and is told so."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        outbound = [{"producer": 0, "stream": name, "first": 5, "next": 6}]
        settled = peer.hello(streams=follow(name), outbound=outbound)["committed"]
        assert [(s["producer"], s["stream"], s["seq"], s["known"]) for s in settled] == [(0, name, 0, False)]
        peer.send(name, 5, "five")
        assert peer.take(1) == ["five"]
        peer.wait_ack(name, 5)
