"""Messages from a node to a client: credit, gaps, subscriptions (rules 7, 9 and 12)."""

from __future__ import annotations

import pytest

from tests.conformance.plain_peer import crc, plain
from tests.conformance.subjects import LIMIT, RETENTION, Nodes, follow, held, subscribed
from tests.node_peer import ask

pytestmark = pytest.mark.cluster


# -- messages to the client (rules 7 and 9) ----------------------------------------------------------------------------


def test_credit_bounds_messages(nodes: Nodes) -> None:
    """No more messages come than the totals allow, and the rest when they rise, by a credit frame or a ping."""
    name = nodes.stream()
    nodes.publish(name, *"abcdef")
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest"), credit={"messages": 2, "bytes": 1 << 20})
        assert peer.take(2) == ["a", "b"]
        assert peer.round_trip()["sent_offsets"][0][3] == 2
        peer.frame("credit", messages=4, bytes=1 << 20)
        assert peer.take(2) == ["c", "d"]
        peer.frame("credit", messages=3, bytes=1 << 20)
        peer.granted = {"messages": 4, "bytes": 1 << 20}
        assert peer.round_trip()["sent_offsets"][0][3] == 4
        peer.frame("ping", echo="grant", credit={"messages": 6, "bytes": 1 << 20})
        assert peer.take(2) == ["e", "f"]


def test_credit_bounds_bytes(nodes: Nodes) -> None:
    """No more bytes come than the totals allow; a message that does not fit waits until it does."""
    name = nodes.stream()
    nodes.publish(name, "x" * 10, "y" * 10, "z" * 10)
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest"), credit={"messages": 100, "bytes": 29}, max_message=20)
        assert peer.take(2) == ["x" * 10, "y" * 10]
        assert peer.round_trip()["sent_offsets"][0][3] == 2
        peer.frame("credit", messages=100, bytes=30)
        assert peer.take(1) == ["z" * 10]


def test_idle_stream_holds_no_credit(nodes: Nodes) -> None:
    """Streams take turns: one without messages does not keep the credit from another (rule 7)."""
    quiet, busy = nodes.stream(), nodes.stream()
    with plain(nodes.url) as peer:
        streams = [{"stream": quiet, "id": 1, "start": "now"}, {"stream": busy, "id": 2, "start": "now"}]
        peer.hello(streams=streams, credit={"messages": 1, "bytes": 1 << 20})
        nodes.publish(busy, "one")
        assert peer.take(1) == ["one"]
        nodes.publish(quiet, "two")
        peer.frame("credit", messages=2, bytes=1 << 20)
        assert peer.take(1) == ["two"]


def test_credit_of_zero(nodes: Nodes) -> None:
    """A hello may grant nothing at all; everything else works meanwhile."""
    name = nodes.stream()
    nodes.publish(name, "one")
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest"), credit={"messages": 0, "bytes": 0})
        peer.send(name, 1, "two")
        peer.wait_ack(name, 1)
        assert peer.messages == []
        peer.frame("credit", messages=2, bytes=LIMIT)
        assert peer.take(2) == ["one", "two"]


def test_trimmed(nodes: Nodes) -> None:
    """Who holds less than the log still has is told which messages are gone."""
    name = nodes.stream()
    with plain(nodes.reference) as writer:
        epoch = writer.hello(streams=follow(name))["streams"][0]["epoch"]
        writer.written[0, name] = RETENTION + 10
        sizes = b",".join([b"1"] * (RETENTION + 10))
        writer.binary(f"{name}:1*{RETENTION + 10};text:".encode() + sizes + b":" + b"x" * (RETENTION + 10))
        writer.wait_ack(name, RETENTION + 10)
    with plain(nodes.url) as peer:
        answer = peer.hello(streams=held(name, epoch, 2, "x"))["streams"][0]
        assert answer["gap"] == {"from": 3, "to": 10, "next": 11, "reason": "trimmed"}
        assert (answer["from"], answer["live"]) == (11, RETENTION + 10)
        assert peer.take(RETENTION) == ["x"] * RETENTION


def test_trimmed_while_followed(nodes: Nodes) -> None:
    """Retention that passes a slow reader is a gap frame at its place in the order."""
    name = nodes.stream()
    nodes.publish(name, "a", "b")
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest"), credit={"messages": 1, "bytes": 1 << 20})
        assert peer.take(1) == ["a"]
        with plain(nodes.reference) as writer:
            writer.hello()
            writer.written[0, name] = RETENTION
            sizes = b",".join([b"1"] * RETENTION)
            writer.binary(f"{name}:1*{RETENTION};text:".encode() + sizes + b":" + b"x" * RETENTION)
            writer.wait_ack(name, RETENTION)
        peer.frame("credit", messages=100, bytes=1 << 20)
        gap = peer.wait("gap")
        assert [gap[key] for key in ("stream", "id", "from", "to", "next", "reason")] == [name, 1, 2, 2, 3, "trimmed"]
        assert peer.take(RETENTION) == ["x"] * RETENTION


def test_other_epoch(nodes: Nodes) -> None:
    """Who holds another life of the stream is told that nobody knows what came after."""
    name = nodes.stream()
    nodes.publish(name, "one")
    with plain(nodes.url) as peer:
        answer = peer.hello(streams=held(name, "another-epoch", 7, "x"))["streams"][0]
        gap = answer["gap"]
        assert (gap["from"], gap.get("to"), gap["next"], gap["reason"]) == (8, None, answer["from"], "epoch")
        assert (answer["from"], answer["epoch"] == "another-epoch") == (1, False)
        assert peer.take(1) == ["one"]


@pytest.mark.parametrize("offset", [2, 9], ids=["crc", "beyond the end"])
def test_rewritten(nodes: Nodes, offset: int) -> None:
    """A held message that the log does not have, or has with another CRC, is a gap; no offset is given twice."""
    name = nodes.stream()
    nodes.publish(name, "one", "two", "three")
    with plain(nodes.url) as peer, plain(nodes.url) as first:
        epoch = first.hello(streams=follow(name))["streams"][0]["epoch"]
        answer = peer.hello(streams=held(name, epoch, offset, "not two"))["streams"][0]
        assert answer["gap"] == {"from": 1, "to": offset, "next": offset + 1, "reason": "rewritten"}
        assert (answer["from"], answer.get("crc")) == (offset + 1, None)
        nodes.publish(name, "four")
        expected = ["three", "four"] if offset == 2 else ["four"]
        assert peer.take(len(expected)) == expected
        assert first.take(1) == ["four"]
        assert first.followed[name].position == peer.followed[name].position == max(4, offset + 1)


def test_message_above_the_clients_limit(nodes: Nodes) -> None:
    """What is larger than the client takes is a gap of its own, and the rest comes."""
    name = nodes.stream()
    nodes.publish(name, "one", "x" * 11, b"y" * 11, "four")
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest"), max_message=10)
        assert peer.take(1) == ["one"]
        gaps = [peer.wait("gap")]
        while gaps[-1]["next"] < 4:
            gaps.append(peer.wait("gap"))
        assert {gap["reason"] for gap in gaps} == {"too_large"}
        assert [gap["from"] for gap in gaps] == [2, 3][: len(gaps)]
        assert all(gap["to"] + 1 == gap["next"] for gap in gaps)
        assert peer.take(1) == ["four"]


def test_private_stream(nodes: Nodes) -> None:
    """``~`` is the session's own: the server writes to it, nobody else reads it, and an ack trims it (rule 15)."""
    with plain(nodes.url) as peer, plain(nodes.reference) as second:
        welcome = peer.hello(streams=follow("~", "earliest"))
        private = "~" + welcome["session"]
        assert ask(f"{nodes.reference}streams/{private}", b"one", Content_Type="text/plain")[0] == 200
        assert ask(f"{nodes.other}streams/{private}", b"two", Content_Type="text/plain")[0] == 200
        assert peer.take(2) == ["one", "two"]
        epoch = welcome["streams"][0]["epoch"]
        peer.frame("ack", acked=[["~", epoch, 1]])
        assert any(subscribed(peer, "~", number)["from"] == 2 for number in range(2, 500)), "an ack never trimmed it"
        again = second.resume(peer, welcome, streams=follow("~", "earliest", id=500))["streams"][0]
        assert (again["epoch"], again["from"]) == (epoch, 2)
        assert second.take(1) == ["two"]
    with plain(nodes.url) as thief:
        assert thief.hello(streams=follow(private))["streams"][0]["error"]["code"] == "forbidden"


# -- subscriptions (rule 12) -------------------------------------------------------------------------------------------


def test_subscribe_and_unsubscribe(nodes: Nodes) -> None:
    """Subscriptions come and go on an open connection; the highest id of a stream counts."""
    name = nodes.stream()
    nodes.publish(name, "one")
    with plain(nodes.url) as peer:
        peer.hello()
        answer = subscribed(peer, name, 3)
        assert (answer["stream"], answer["id"], answer["from"], answer["live"]) == (name, 3, 1, 1)
        assert peer.take(1) == ["one"]
        peer.frame("unsubscribe", stream=name, id=2)
        nodes.publish(name, "two")
        assert peer.take(1) == ["two"]
        peer.frame("unsubscribe", stream=name, id=4)
        assert not peer.round_trip().get("sent_offsets")
        nodes.publish(name, "three")
        peer.frame("subscribe", stream=name, id=5, held={"epoch": answer["epoch"], "offset": 2, "crc": crc("two")})
        again = peer.wait("subscribed")
        assert (again["id"], again["from"], again.get("gap")) == (5, 3, None)
        assert peer.take(1) == ["three"]


def test_subscribed_again(nodes: Nodes) -> None:
    """A second subscribe of a stream replaces the first one, and begins where it says."""
    name = nodes.stream()
    nodes.publish(name, "one", "two")
    with plain(nodes.url) as peer:
        peer.hello(streams=follow(name, "earliest"))
        assert peer.take(2) == ["one", "two"]
        assert subscribed(peer, name, 2)["id"] == 2
        assert peer.take(2) == ["one", "two"]
        assert [mark[:2] for mark in peer.round_trip()["sent_offsets"]] == [[name, 2]]


def test_reserved_names_are_refused_alone(nodes: Nodes) -> None:
    """A name that is reserved is that stream's error and disturbs nothing else (section 3, rule 14)."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        streams = [{"stream": "~other", "id": 1, "start": "now"}, {"stream": name, "id": 2, "start": "now"}]
        refused, answered = peer.hello(streams=streams)["streams"]
        assert (refused["stream"], refused["error"]["code"]) == ("~other", "forbidden")
        assert answered["from"] == 1
        peer.frame("subscribe", stream="~another", id=3, start="now")
        assert peer.wait("subscribed")["error"]["code"] == "forbidden"
        nodes.publish(name, "one")
        assert peer.take(1) == ["one"]
