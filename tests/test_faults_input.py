"""Bad input through the whole Client: each error says what happened, why, and what to do; nothing else is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from resilient_ws import (
    ConnectError,
    ConnectTimeout,
    Rejected,
    Retry,
    SessionClosed,
    Undelivered,
    Wire,
    connect,
    events,
)
from resilient_ws.frames import Reject
from server_fixture.rude import RudeServer, close_frame
from tests.fault_server import AT_ONCE, Line, Model, opened, taken
from tests.transport_tools import PATIENCE, closed_port

SOON = 2.0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/", r"must start with wss:// \(or ws:// for this machine\), not http://"),
        ("127.0.0.1:80", "must start with wss://"),
        ("", "must start with wss://"),
        ("wss://", "must start with wss://"),
        ("ws://example.com/", "would send everything in the clear; use wss://.*allow_plaintext=True"),
        ("wss://me:pw@example.com/", "credentials; pass them in headers= or as access_token="),
        ("wss://example.com:99999/", "host or port is malformed"),
        ("wss://example.com/#x", "fragment"),
        ([], "at least one wss:// URL"),
        (["wss://a.example.com/", "http://b.example.com/"], "number 2 of the 2 URLs: the URL must start with wss://"),
    ],
)
def test_wrong_url(url: Any, words: str) -> None:
    """A URL that cannot be dialled is refused at once, with the rule that it breaks, and which of several it is."""
    started = time.monotonic()
    with pytest.raises(ValueError, match=words):
        connect(url)
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            lambda: f"ws://127.0.0.1:{closed_port()}/",
            r"127\.0\.0\.1: Connection refused\); is the server running there\?",
        ),
        (
            lambda: "ws://no-such-host.localhost:1/",
            r"the name has no address \(.*\); check its spelling, or the network",
        ),
    ],
    ids=["port_closed", "no_such_name"],
)
def test_nobody_there(url: Callable[[], str], words: str) -> None:
    """Where nobody answers connect() ends in time, says why and what to look at, and that it may be tried again."""
    started = time.monotonic()
    with pytest.raises(ConnectTimeout, match=words) as caught:
        connect(url(), open_timeout=0.4, retry=AT_ONCE)
    assert 0.4 <= time.monotonic() - started < 4.0
    assert caught.value.retryable


def test_giving_up_says_what_the_last_attempt_met() -> None:
    """Retry(stop=) ends the attempts; the error says how many there were and what the last one met."""
    retry = Retry(wait=tenacity.wait_none(), stop=tenacity.stop_after_attempt(3))
    with pytest.raises(
        ConnectError, match=r"gave up after 3 attempts, as Retry\(stop=\) says; the last one: .*refused"
    ):
        connect(f"ws://127.0.0.1:{closed_port()}/", retry=retry, open_timeout=PATIENCE)


@pytest.mark.parametrize("name", ["bad name", "", "~private", "-x", "x" * 129, "ü", None, 5])
def test_stream_name_that_is_not_allowed(name: Any) -> None:
    """A wrong name of a stream is refused by connect(), send() and subscribe(); the session goes on."""
    model = Model("a")
    with RudeServer(model.serve) as server:
        wrong = (ValueError, TypeError)
        if name is not None:
            with pytest.raises(wrong, match="stream"):
                connect(server.url, stream=name)
        with opened(server.url) as client:
            calls: list[Callable[[], object]] = [] if name == "~private" else [lambda: client.subscribe(name)]
            calls += [] if name is None else [lambda: client.send("x", name)]
            for call in calls:
                with pytest.raises(wrong, match="stream"):
                    call()
            client.send("good").result(PATIENCE)
            assert taken(client, 1) == ["a"]
    assert model.received == ["good"]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        ({"a": 1}, TypeError, r"takes str or bytes, not dict; send_json\(\) sends it as JSON"),
        ([1], TypeError, "not list; send_json"),
        (5, TypeError, "not int; send_json"),
        (object(), TypeError, "takes str or bytes, not object"),
        ("\ud800", ValueError, "surrogate"),
        (
            "x" * 1001,
            Rejected,
            r"refused \(too_large\): 1001 bytes, at most 1000 .*Wire.max_message.*split it, the session",
        ),
        (b"x" * 1001, Rejected, "too_large"),
        ("\u20ac" * 334, Rejected, "1002 bytes, at most 1000"),
    ],
)
def test_message_that_cannot_be_sent(data: Any, kind: type[Exception], words: str) -> None:
    """What cannot be sent is refused alone and at once; what is sent before and after arrives."""
    model = Model()
    with RudeServer(model.serve) as server, opened(server.url, wire=Wire(max_message=1000)) as client:
        client.send("before")
        with pytest.raises(kind, match=words) as caught:
            client.send(data)
        client.send("x" * 1000)
        client.flush(PATIENCE)
        assert not getattr(caught.value, "retryable", False)
    assert model.received == ["before", "x" * 1000]


def test_message_above_the_servers_limit_after_the_welcome() -> None:
    """The server's limit is known after the welcome: a larger message is refused at once, the session goes on."""
    model = Model(max_message=100)
    with RudeServer(model.serve) as server, opened(server.url) as client:
        with pytest.raises(Rejected, match="101 bytes, at most 100"):
            client.send("x" * 101)
        client.send("x" * 100).result(PATIENCE)
    assert model.received == ["x" * 100]


def test_message_above_the_servers_limit_before_the_welcome() -> None:
    """What was accepted before the limit was known fails alone, by receipt and event; its neighbours are stored."""
    model = Model(max_message=100)
    seen: list[Any] = []
    with RudeServer(model.serve) as server, opened(server.url, wait=False, on_event=seen.append) as client:
        receipts = [client.send(payload) for payload in ("first", "x" * 101, "last")]
        client.flush(PATIENCE)
        receipts[0].result(PATIENCE)
        receipts[2].result(PATIENCE)
        with pytest.raises(Rejected, match=r"message 2 was rejected for good .too_large.") as caught:
            receipts[1].result(PATIENCE)
        assert (caught.value.stream, caught.value.seq, caught.value.retryable) == ("out", 2, False)
    assert [payload for payload in model.received if payload] == ["first", "last"]


def test_message_that_the_server_rejects() -> None:
    """A reject names the message and the server's reason; later ones go on."""
    model = Model()

    def pick(line: Line) -> None:
        line.say(Reject(producer=0, stream="out", seq=1, code="forbidden", hint="orders are closed"))
        model.talk(line)

    with RudeServer(model.then(pick)) as server, opened(server.url, wait=False) as client:
        receipts = [client.send("one"), client.send("two")]
        receipts[1].result(PATIENCE)
        with pytest.raises(Rejected, match=r"message 1 was rejected for good \(forbidden\): orders are closed"):
            receipts[0].result(PATIENCE)


CALLS: dict[str, Callable[[Any], object]] = {
    "send": lambda client: client.send("x"),
    "send_json": lambda client: client.send_json({}),
    "recv": lambda client: client.recv(),
    "recv_many": lambda client: client.recv_many(),
    "subscribe": lambda client: client.subscribe("x"),
    "unsubscribe": lambda client: client.unsubscribe("s"),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_after_close(name: str) -> None:
    """After close() a call says that the Client is closed, and to open a new one; it does not hang."""
    with RudeServer(Model("a").serve) as server, opened(server.url) as client:
        client.close()
        started = time.monotonic()
        with pytest.raises(SessionClosed, match="this Client is closed; open a new one") as caught:
            CALLS[name](client)
        assert time.monotonic() - started < SOON
        assert not caught.value.retryable
        assert list(client) == []
        client.close()


def test_what_was_accepted_before_close_is_accounted_for() -> None:
    """A receipt of what had no ack at close() fails and says so; one that had is done."""
    model = Model()

    def one(line: Line) -> None:
        for item in line.heard():
            if type(item).__name__ == "Batch":
                line.say(model.store(line, item))
                break
        for _ in line.heard():
            pass

    ended = threading.Event()

    def heard(event: Any) -> None:
        if isinstance(event, events.Ended):
            ended.set()

    with RudeServer(model.then(one)) as server, opened(server.url, on_event=heard) as client:
        done = client.send("stored")
        done.result(PATIENCE)
        lost = client.send("not acked")
        client.close()
        done.result(0)
        with pytest.raises(Exception, match="'out': 2 to 2; they may or may not have arrived"):
            lost.result(0)
    assert ended.wait(PATIENCE), "events come in a thread of their own"


def test_message_that_ends_the_connection_with_1009() -> None:
    """Where something closes with 1009, the oldest message without an ack is given up and says so; the rest goes on."""
    model = Model()

    def choke(line: Line) -> None:
        for item in line.heard():
            if type(item).__name__ == "Batch":
                line.caller.send(close_frame(1009, "too big"))
                return

    with RudeServer([model.then(choke), model.serve]) as server, opened(server.url) as client:
        receipts = [client.send("big"), client.send("small")]
        receipts[1].result(PATIENCE)
        with pytest.raises(Undelivered, match=r"not sent again because .* closed with 1009.*: 'out': 1 to 1; they"):
            receipts[0].result(PATIENCE)
    assert [payload for payload in model.received if payload] == ["small"]
