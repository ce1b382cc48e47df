"""Sessions that outlive connections and nodes: resume, fences, tokens, liveness, drain (rules 1 to 6)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import websocket

from tests.conformance.plain_peer import PATIENCE, PlainPeer, plain
from tests.conformance.subjects import DRAIN, TTL, Nodes, follow, held, subscribed
from tests.node_peer import ask

pytestmark = pytest.mark.cluster


# -- the session (rules 3, 4, 5 and 6) ---------------------------------------------------------------------------------


def test_session_moves_between_nodes(nodes: Nodes) -> None:
    """A session goes to a node of another kind and back: replayed from what is held, resent from what is acked."""
    name, out = nodes.stream(), nodes.stream()
    with plain(nodes.url) as first, plain(nodes.reference) as second, plain(nodes.other) as third:
        one = first.hello(streams=follow(name))
        epoch = one["streams"][0]["epoch"]
        nodes.publish(name, "a", "b")
        assert first.take(2) == ["a", "b"]
        first.send(out, 1, "1")
        first.wait_ack(out, 1)
        first.close()
        nodes.publish(name, "c", "d")
        outbound = [{"producer": 0, "stream": out, "first": 1, "next": 3}]
        two = second.resume(first, one, streams=held(name, epoch, 2, "b"), outbound=outbound)
        assert (two["verdict"], two["session"], two["generation"]) == ("resumed", one["session"], one["generation"] + 1)
        assert [(s["seq"], s.get("known", True)) for s in two["committed"]] == [(1, True)]
        second.send(out, 2, "2")
        second.wait_ack(out, 2)
        assert second.take(1) == ["c"]
        second.close()
        outbound = [{"producer": 0, "stream": out, "first": 2, "next": 4}]
        three = third.resume(second, two, attempt=3, streams=held(name, epoch, 3, "c"), outbound=outbound)
        assert (three["verdict"], three["session"], three["node"]) == ("resumed", one["session"], "node-3")
        assert three["committed"][0]["seq"] == 2
        third.send(out, 3, "3")
        third.wait_ack(out, 3)
        assert third.take(1) == ["d"]
    with plain(nodes.url) as reader:
        reader.hello(streams=follow(out, "earliest"))
        assert reader.take(3) == ["1", "2", "3"]
        assert reader.round_trip()["sent_offsets"][0][3] == 3


@pytest.mark.parametrize("way", [(0, 1), (1, 0), (0, 2), (0, 0)], ids=["away", "here", "other", "same"])
def test_outranked_connection_is_closed(nodes: Nodes, way: tuple[int, int]) -> None:
    """Where the session goes on elsewhere the old connection is closed 4409, which names the new owner (rule 4)."""
    before, after = (nodes.cluster.urls[number] for number in way)
    with plain(before) as first, plain(after) as second:
        welcome = first.hello()
        second.resume(first, welcome)
        closed = first.wait_closed()
        assert (closed.code, f"instance={second.instance}" in closed.reason) == (4409, True)
        second.round_trip()


def test_outranked_connection_stores_nothing(nodes: Nodes) -> None:
    """What comes late on an outranked connection is not stored: its fence is old (rule 4)."""
    name = nodes.stream()
    outbound = [{"producer": 0, "stream": name, "first": 1, "next": 1}]
    with plain(nodes.url) as first, plain(nodes.reference) as second:
        welcome = first.hello(outbound=outbound)
        second.frame(
            "hello",
            **second.hello_fields(
                instance=first.instance,
                producers=[first.producer],
                attempt=2,
                session=welcome["session"],
                token=welcome["token"],
                outbound=outbound,
                streams=follow(name),
            ),
        )
        second._follow(second.wait("welcome")["streams"][0])
        first.send(name, 1, "late")
        assert first.wait_closed().code == 4409
        second.send(name, 1, "owner")
        assert second.take(1) == ["owner"]


def test_late_hello_is_refused(nodes: Nodes) -> None:
    """A hello without a higher attempt of its instance is closed 4410 and changes nothing (rule 3)."""
    name = nodes.stream()
    with plain(nodes.url) as first, plain(nodes.reference) as second, plain(nodes.other) as ghost:
        welcome = first.hello()
        again = second.resume(first, welcome, streams=follow(name))
        fields = {"instance": first.instance, "session": welcome["session"], "token": again["token"]}
        for attempt in (1, 2):
            with plain(nodes.url) as ghost:
                ghost.frame("hello", **ghost.hello_fields(**fields, attempt=attempt))
                assert ghost.wait_closed().code == 4410
        second.send(name, 1, "owner")
        assert second.take(1) == ["owner"]
    with plain(nodes.other) as third:
        assert third.resume(second, again, attempt=3)["generation"] == again["generation"] + 1


def test_lost_welcomes_lock_nobody_out(nodes: Nodes) -> None:
    """Every token from the confirmed one on is valid; one below it gets a new session, superseded (rule 5)."""
    with plain(nodes.url) as first, plain(nodes.url) as second, plain(nodes.reference) as third:
        one = first.hello()
        two = second.resume(first, one, ready=False)
        three = third.resume(first, one, attempt=3)
        assert [two["verdict"], three["verdict"]] == ["resumed"] * 2
        assert three["generation"] > two["generation"] > one["generation"]
        third.round_trip()
        with plain(nodes.url) as restored:
            late = restored.resume(first, one, attempt=4)
            assert (late["verdict"], late["reason"]) == ("new", "superseded")
            assert late["session"] != one["session"]
        with plain(nodes.url) as last:
            assert last.resume(first, three, attempt=5)["verdict"] == "resumed"


def test_wrong_token(nodes: Nodes) -> None:
    """A token that nobody made, or of another session, is closed 4403, with one text for all (rule 5)."""
    with plain(nodes.url) as first, plain(nodes.url) as other:
        one, two = first.hello(), other.hello()
    token = one["token"]
    reasons = set()
    for forged in (token[:-1] + ("0" if token[-1] != "0" else "1"), "nonsense", two["token"], token.upper()):
        with plain(nodes.url) as peer:
            peer.frame("hello", **peer.hello_fields(session=one["session"], token=forged))
            closed = peer.wait_closed()
            assert closed.code == 4403, forged
            assert token not in closed.reason
            reasons.add(closed.reason)
    assert len(reasons) == 1


def test_bye_ends_the_session(nodes: Nodes) -> None:
    """After a bye the connection is closed 1000 and the session is gone, everywhere."""
    with plain(nodes.url) as first, plain(nodes.reference) as second:
        welcome = first.hello(streams=follow("~", "earliest"))
        first.frame("bye")
        assert first.wait_closed().code == 1000
        again = second.resume(first, welcome)
        assert (again["verdict"], again["reason"]) == ("new", "unknown")
        assert again["session"] != welcome["session"]
    assert ask(f"{nodes.reference}streams/~{welcome['session']}", b"x")[0] == 404


def test_idle_session_outlives_its_ttl(nodes: Nodes) -> None:
    """A session whose client only answers pings is refreshed, and one without a node expires (rule 1)."""
    with plain(nodes.url) as idle, plain(nodes.url) as gone:
        kept, lost = idle.hello(), gone.hello()
        gone.close()
        for _ in range(round(1.2 * TTL)):
            idle.wait("ping")
        idle.close()
        with plain(nodes.reference) as peer:
            assert peer.resume(idle, kept)["verdict"] == "resumed"
        with plain(nodes.reference) as peer:
            again = peer.resume(gone, lost)
            assert (again["verdict"], again["reason"]) == ("new", "expired")


def test_spare_connection(nodes: Nodes) -> None:
    """A standby hello is answered ``standing`` and touches nothing; an ordinary hello on it resumes (rule 6)."""
    with plain(nodes.url) as first, plain(nodes.reference) as second, plain(nodes.url) as spare:
        welcome = first.hello()
        fields = {"instance": first.instance, "session": welcome["session"], "token": welcome["token"]}
        spare.frame("hello", **spare.hello_fields(**fields, attempt=2, standby=True))
        assert spare.wait("standing")["node"] == "node-1"
        spare.round_trip()
        first.round_trip()
        again = spare.resume(first, welcome, attempt=3)
        assert (again["verdict"], again["session"]) == ("resumed", welcome["session"])
        assert first.wait_closed().code == 4409
        second.frame("hello", **second.hello_fields(**{**fields, "token": "forged"}, standby=True))
        assert second.wait_closed().code == 4403


# -- liveness (pings, marks, acks) -------------------------------------------------------------------------------------


def test_ping_is_answered_with_marks(nodes: Nodes) -> None:
    """A pong has the ping's echo, what is committed, and the last offset under each subscription."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        epoch = peer.hello(streams=follow(name, id=9))["streams"][0]["epoch"]
        peer.send(name, 1, "one")
        peer.wait_ack(name, 1)
        assert peer.take(1) == ["one"]
        acked, sent = [[name, epoch, 1]], [[0, name, 1]]
        peer.frame("ping", echo=" ~}", acked=acked, sent_seqs=sent, credit={"messages": 1001, "bytes": 1 << 21})
        pong = peer.wait("pong")
        assert (pong["echo"], pong["committed"], pong["sent_offsets"]) == (" ~}", [[0, name, 1]], [[name, 9, epoch, 1]])


def test_node_pings_a_silent_client(nodes: Nodes) -> None:
    """A client that says nothing is pinged after the interval, with marks, and given up (1011) when it stays silent."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        epoch = peer.hello(streams=follow(name))["streams"][0]["epoch"]
        peer.answers_pings = False
        assert peer.wait("ping")["sent_offsets"] == [[name, 1, epoch, 0]]
        assert peer.wait_closed().code == 1011


@pytest.mark.parametrize("kind", ["ping", "pong"])
def test_swallowed_message_is_noticed(nodes: Nodes, kind: str) -> None:
    """A mark above what arrived closes 1012: something was swallowed."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        peer.hello()
        peer.send(name, 1, "one")
        peer.frame(kind, echo="x", sent_seqs=[[0, name, 2]])
        assert peer.wait_closed().code == 1012


def test_what_was_written_before_a_bye_is_stored(nodes: Nodes) -> None:
    """A bye ends the session behind the messages before it, which are acked (section 5)."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        peer.hello()
        for number in range(1, 51):
            peer.send(name, number, str(number))
        peer.frame("bye")
        assert peer.wait_closed().code == 1000
    with plain(nodes.reference) as reader:
        reader.hello(streams=follow(name, "earliest"))
        assert reader.take(50) == [str(number) for number in range(1, 51)]


def test_ack_of_what_an_older_connection_may_have_delivered(nodes: Nodes) -> None:
    """An ack above what a moved client was given is legal; the node still gives everything from its own position on."""
    name = nodes.stream()
    nodes.publish(name, "one", "two", "three")
    with plain(nodes.reference) as first, plain(nodes.url) as peer:
        welcome = first.hello(streams=follow(name, "earliest"))
        epoch = welcome["streams"][0]["epoch"]
        assert first.take(3) == ["one", "two", "three"]
        credit = {"messages": 0, "bytes": 1000}  # the hello was written when only one had been read
        peer.resume(first, welcome, streams=held(name, epoch, 1, "one"), credit=credit)
        peer.followed[name].position = 3
        peer.frame("ack", acked=[[name, epoch, 3]])
        assert peer.round_trip()["sent_offsets"] == [[name, 1, epoch, 1]], "the node passed what it never read"
        for total in 1, 10:
            peer.frame("credit", messages=total, bytes=1000)
            peer.round_trip()
        nodes.publish(name, "four")
        assert peer.take(1) == ["four"]
        assert peer.used["messages"] == 3, "two and three were not given once more"
        assert peer.round_trip()["sent_offsets"] == [[name, 1, epoch, 4]]


def test_ack_above_a_start(nodes: Nodes) -> None:
    """What holds for a held position holds for a start of the hello: an older connection may have been ahead of it."""
    name = nodes.stream()
    nodes.publish(name, "one", "two", "three")
    with plain(nodes.url) as peer:
        welcome = peer.hello(streams=follow(name, "earliest"), credit={"messages": 1, "bytes": 100})
        epoch = welcome["streams"][0]["epoch"]
        assert peer.take(1) == ["one"]
        peer.frame("ack", acked=[[name, epoch, 3]])
        peer.frame("credit", messages=10, bytes=1000)
        assert peer.take(2) == ["two", "three"]


def test_ack_of_what_the_log_has_no_more(nodes: Nodes) -> None:
    """An ack of a hole at the log's end shows a lost tail as well: 1012 when there is nothing more to read."""
    name = nodes.stream()
    nodes.publish(name, "one", "two")
    with plain(nodes.reference) as first, plain(nodes.url) as peer:
        welcome = first.hello(streams=follow(name, "earliest"))
        epoch = welcome["streams"][0]["epoch"]
        assert first.take(2) == ["one", "two"]
        first.frame("subscribe", stream=name, id=2, held={"epoch": epoch, "offset": 4})
        assert first.wait("subscribed")["gap"]["reason"] == "rewritten"  # the log's end is 4 now, 3 and 4 are a hole
        peer.resume(first, welcome, streams=held(name, epoch, 1, "one", id=3))
        peer.frame("ack", acked=[[name, epoch, 4]])
        assert peer.wait_closed().code == 1012
        assert [message.data for message in peer.messages] == ["two"]


def test_early_ack_of_the_private_stream(nodes: Nodes) -> None:
    """An ack trims ``~`` as far as the node itself has given it, and no further."""
    with plain(nodes.reference) as first, plain(nodes.url) as peer:
        welcome = first.hello(streams=follow("~", "earliest"))
        epoch, private = welcome["streams"][0]["epoch"], "~" + welcome["session"]
        nodes.publish(private, "one", "two")
        assert first.take(2) == ["one", "two"]
        nothing, one = {"messages": 0, "bytes": 100}, {"messages": 1, "bytes": 100}
        peer.resume(first, welcome, streams=held("~", epoch, 0, id=2), credit=nothing)
        peer.frame("ack", acked=[["~", epoch, 2]])
        assert subscribed(peer, "~", 3)["from"] == 1, "an ack trimmed what was not given"
        peer.frame("credit", **one)
        assert peer.take(1) == ["one"]
        peer.frame("ack", acked=[["~", epoch, 1]])
        assert any(subscribed(peer, "~", number)["from"] == 2 for number in range(4, 500)), "an ack never trimmed it"


def test_ack_of_a_lost_tail(nodes: Nodes) -> None:
    """An ack above the log's end, under a held position, shows that the store lost something: 1012."""
    name = nodes.stream()
    nodes.publish(name, "one")
    with plain(nodes.url) as first, plain(nodes.url) as peer:
        epoch = first.hello(streams=follow(name))["streams"][0]["epoch"]
        peer.hello(streams=held(name, epoch, 1, "one"))
        peer.frame("ack", acked=[[name, epoch, 5]])
        assert peer.wait_closed().code == 1012


def test_void_acks(nodes: Nodes) -> None:
    """An ack that goes back, or names another epoch or stream, is void."""
    name = nodes.stream()
    with plain(nodes.url) as peer:
        epoch = peer.hello(streams=follow(name))["streams"][0]["epoch"]
        nodes.publish(name, "one", "two")
        assert peer.take(2) == ["one", "two"]
        marks = [[name, epoch, 2], [name, epoch, 1], [name, "another", 9], [nodes.stream(), epoch, 1]]
        peer.frame("ack", acked=marks)
        peer.round_trip()


def test_auth_and_errors_change_nothing(nodes: Nodes) -> None:
    """A fresh access token of the same principal, and a client's own error, leave the connection as it is."""
    with plain(nodes.url, {"Authorization": "Bearer one"}) as peer:
        peer.hello()
        peer.frame("auth", access_token="two")
        peer.frame("error", code="my_trouble", hint="nothing of yours")
        peer.round_trip()


# -- leaving, and a store that is gone (section 7, rule 1) -------------------------------------------------------------


def test_drain(nodes: Nodes) -> None:
    """A drained node asks its clients to leave, takes nobody in, acks what it read, closes 1012, and ends with 0."""
    node, name = nodes.cluster.nodes[2], nodes.stream()
    try:
        with plain(nodes.other) as stays, plain(nodes.other) as leaves, plain(nodes.reference) as there:
            stays.hello(streams=follow(name))
            welcome = leaves.hello()
            node.drain(wait=False)
            assert 0 < stays.wait("drain")["within"] <= DRAIN
            leaves.wait("drain")
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                PlainPeer(nodes.other)
            assert refused.value.status_code == 503
            assert int(refused.value.resp_headers["retry-after"]) >= 0
            assert ask(nodes.other + "healthz")[0] == 503
            assert there.resume(leaves, welcome)["verdict"] == "resumed"
            assert leaves.wait_closed().code == 4409
            stays.send(name, 1, "still")
            assert stays.take(1) == ["still"]
            stays.wait_ack(name, 1)
            assert stays.wait_closed().code == 1012
        assert node.child.wait(30.0) == 0
    finally:
        node.restart()
    assert ask(nodes.other + "healthz")[0] == 200


def test_silent_store(nodes: Nodes) -> None:
    """A node without answers of the store closes 1013 and takes nobody in; then it serves, and no session is lost."""
    engine, name = nodes.cluster.engine, nodes.stream()
    assert engine is not None
    with plain(nodes.url) as peer:
        welcome = peer.hello(streams=follow(name))
        peer.send(name, 1, "before")
        assert peer.take(1) == ["before"]
        engine.pause()
        try:
            assert peer.wait_closed().code == 1013
            assert until(lambda: ask(nodes.url + "healthz")[0] == 503)
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                PlainPeer(nodes.url)
            assert refused.value.status_code == 503
            assert int(refused.value.resp_headers["retry-after"]) >= 0
        finally:
            engine.resume()
        assert until(lambda: all(ask(url + "healthz")[0] == 200 for url in nodes.cluster.urls))
        with plain(nodes.url) as again:
            outbound = [{"producer": 0, "stream": name, "first": 1, "next": 3}]
            settled = again.resume(peer, welcome, outbound=outbound)
            assert (settled["verdict"], settled["committed"][0]["seq"]) == ("resumed", 1)


def until(condition: Callable[[], bool]) -> bool:
    """Look until the condition holds; False where it does not in time."""
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.05)
    return True
