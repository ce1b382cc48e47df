"""The whole Client against servers that break RFC 6455 or the protocol in the middle of a session."""

from __future__ import annotations

import contextlib
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from resilient_ws import ConnectError, ConnectionLost, RemoteProtocolError, Undelivered, Wire, connect
from resilient_ws.exceptions import ResilientWSError
from resilient_ws.frames import Ack, CommittedAnswer, Hello, SeqMark, StreamAnswer
from server_fixture.rude import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Caller,
    RudeServer,
    accept_upgrade,
    after_upgrade,
    close_frame,
    echo,
    frame,
)
from tests.fault_server import AT_ONCE, Line, Model, framed, opened, taken
from tests.transport_tools import PATIENCE


def flood(opcode: int) -> Callable[[Line], None]:
    """Send fragments without an end."""

    def act(line: Line) -> None:
        line.caller.send(frame(BINARY, b"x" * 65536, fin=False))
        while not line.caller.server.stopping.is_set():
            line.caller.send(frame(opcode, b"x" * 65536, fin=False))

    return act


def bad(wire: bytes) -> Callable[[Line], None]:
    """Send these bytes and nothing more."""
    return lambda line: line.caller.send(wire)


EURO = "s:2:\u20ac".encode()
#: name: (what the server does, the close code that it gets)
BROKEN: dict[str, tuple[Callable[[Line], None], int]] = {
    "F1_masked": (bad(frame(TEXT, b"s:2:m", mask=b"abcd")), 1002),
    "F4_fragmented_ping": (bad(frame(PING, b"p", fin=False)), 1002),
    "F4_fragmented_pong": (bad(frame(PONG, b"p", fin=False)), 1002),
    "F4_fragmented_close": (bad(frame(CLOSE, b"\x03\xe8", fin=False)), 1002),
    "F6_length_2_62": (bad(frame(BINARY, length=1 << 62)), 1009),
    "F9_endless_fragments": (flood(CONTINUATION), 1009),
    "F11_bad_utf8": (bad(frame(TEXT, b"s:2:\xff\xfe")), 1007),
    "F12_truncated_utf8": (bad(frame(TEXT, EURO[:-1])), 1007),
    "garbage_frames": (bad(bytes(range(0x70, 0xF0))), 1002),
    "garbage_text": (bad(framed("junk")), 4400),
    "garbage_binary": (bad(framed(b"\0\1\2")), 4400),
    "garbage_json": (bad(framed('{"type":')), 4400),
    "unknown_frame": (bad(framed('{"type":"nonsense"}')), 4400),
    "hello_of_a_server": (bad(framed('{"type":"credit","messages":1,"bytes":1}')), 4400),
    "second_welcome": (bad(framed('{"type":"welcome"}')), 4400),
    "ack_never_sent": (lambda line: line.say(Ack(committed=(SeqMark(0, "out", 99),))), 4400),
    "ack_of_a_stream_never_sent": (lambda line: line.say(Ack(committed=(SeqMark(0, "other", 1),))), 4400),
    "ack_of_a_producer_never_named": (lambda line: line.say(Ack(committed=(SeqMark(7, "out", 1),))), 4400),
}


class Breaker:
    """A model whose connections break a rule after the welcome, and note how the client answers."""

    def __init__(self, name: str, *log: str) -> None:
        self.act, self.code = BROKEN[name]
        self.model = Model(*log)
        self.codes: list[int] = []
        self.answered = threading.Event()

    def behave(self, caller: Caller) -> None:
        """Be right up to ready, then break the rule and read the close frame."""
        self.model.then(self._break)(caller)

    def _break(self, line: Line) -> None:
        if self.model.log:
            self.model.log.append("missed")  # over the next connection
        with contextlib.suppress(OSError):  # the client leaves in the middle of a flood
            self.act(line)
            for _ in line.heard():
                pass
            assert line.closed is not None
            self.codes.append(line.closed[0])
        self.answered.set()


@pytest.mark.parametrize("name", BROKEN)
def test_F_broken_rule_costs_a_connection(name: str) -> None:
    """A broken rule is answered with its close code; the session resumes, nothing is lost and nothing comes twice."""
    breaker = Breaker(name, "a")
    with RudeServer([breaker.behave, breaker.model.serve]) as server, opened(server.url) as client:
        receipt = client.send("sent")
        assert taken(client, 2) == ["a", "missed"]
        receipt.result(PATIENCE)
        assert breaker.model.received == ["sent"]
        assert breaker.answered.wait(PATIENCE)
        assert client.stats()["resumes"] == 1
    assert breaker.codes == ([] if name.startswith("F9") else [breaker.code])  # a flood is left, whatever it hears
    assert server.errors == []


@pytest.mark.parametrize("name", BROKEN)
def test_F_broken_rule_again_and_again_is_final(name: str) -> None:
    """A server that breaks a rule three times without any progress between ends the session, and the error says it."""
    breaker = Breaker(name)
    with RudeServer(breaker.behave) as server, opened(server.url) as client:
        with pytest.raises(
            ResilientWSError, match=r"3 times in a row.* so the session has ended\. Trying again"
        ) as caught:
            client.recv(PATIENCE)
        assert server.connections == 3
    assert isinstance(caught.value, (ConnectionLost, RemoteProtocolError))
    assert (caught.value.code, caught.value.retryable) == (breaker.code, False)


def test_F_what_was_accepted_is_named_at_such_an_end() -> None:
    """What had no ack when the session ended so is in Undelivered, with its numbers."""
    breaker = Breaker("ack_of_a_stream_never_sent")
    with RudeServer(breaker.behave) as server, opened(server.url, wait=False) as client:
        receipts = [client.send(payload) for payload in "abc"]
        with pytest.raises(Undelivered, match="'out': 1 to 3") as caught:
            client.flush(PATIENCE)
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        assert all(receipt.done() for receipt in receipts)


def test_F6_F9_nothing_is_kept_of_what_is_too_large() -> None:
    """Neither a huge announced length nor endless fragments take more memory than max_message allows."""
    for name in ("F6_length_2_62", "F9_endless_fragments"):
        breaker = Breaker(name)
        with RudeServer([breaker.behave, breaker.model.serve]) as server:
            tracemalloc.start()
            with opened(server.url, wire=Wire(max_message=1 << 20)) as client:
                client.send("x").result(PATIENCE)
                _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 16 << 20, name


def test_F14_ping_flood() -> None:
    """10,000 pings of a server that reads no pong do not keep a message from coming, nor one from going."""
    model = Model()

    def pour(line: Line) -> None:
        for number in range(10_000):
            line.caller.send(frame(PING, b"%d" % number))
        line.caller.send(framed("s:1:over"))
        model.log.append("over")
        model.talk(line)

    with RudeServer(model.then(pour)) as server, opened(server.url) as client:
        receipt = client.send("going")
        assert taken(client, 1) == ["over"]
        receipt.result(PATIENCE)
        assert client.stats()["connects"] == 1
    assert server.errors == []


def test_F14_flood_of_protocol_pings() -> None:
    """Nor do 10,000 pings of the protocol itself, of a server that does not read their answers meanwhile."""
    model = Model()
    pings = framed('{"type":"ping","echo":"1"}') * 1000

    def pour(line: Line) -> None:
        for _ in range(10):
            line.caller.send(pings)
        line.caller.send(framed("s:1:over"))
        model.log.append("over")
        model.talk(line)

    with RudeServer(model.then(pour)) as server, opened(server.url) as client:
        receipt = client.send("going")
        assert taken(client, 1) == ["over"]
        receipt.result(PATIENCE)
        assert client.stats()["connects"] == 1
    assert server.errors == []


# -- welcomes ----------------------------------------------------------------------------------------------------------

#: A welcome that contradicts itself or the hello, and what the error says of it.
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "resumed_of_nothing": ({"verdict": "resumed"}, "resumes a session that the hello did not name"),
    "committed_unsent": (
        {"committed": (CommittedAnswer(producer=0, stream="x", seq=3, known=True),)},
        "`committed` names producer 0 of stream 'x', which the hello did not",
    ),
    "unknown_subscription": (
        {"streams": (StreamAnswer(stream="s", id=99, epoch="e", first=1, live=0),)},
        "says nothing of the subscriptions",
    ),
    "no_subscription": ({"streams": ()}, "says nothing of the subscriptions"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_welcome_that_contradicts_itself(name: str) -> None:
    """A welcome that cannot be true is refused; after three of them connect() says what is wrong with it."""
    fields, words = CONTRADICTIONS[name]
    with RudeServer(Model("a", **fields).serve) as server:
        with pytest.raises(ConnectError, match=f"no session was opened.*contradicts itself: .*{words}") as caught:
            connect(server.url, subscribe=["s"], retry=AT_ONCE, open_timeout=PATIENCE)
        assert server.connections == 3
    assert not caught.value.retryable
    assert isinstance(caught.value.__cause__, RemoteProtocolError)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_welcome_that_contradicts_itself_once(name: str) -> None:
    """One such welcome, before a right one, costs an attempt and nothing else."""
    fields, _ = CONTRADICTIONS[name]
    model = Model("a")

    def lie(caller: Caller) -> None:
        accept_upgrade(caller)
        model.talk(model.enter(caller, **fields))

    with RudeServer([lie, model.serve]) as server, opened(server.url, wait=False) as client:
        client.send("b").result(PATIENCE)
        assert taken(client, 1) == ["a"]
    assert (server.connections, model.received) == (2, ["b"])


def talking(*wires: bytes) -> Callable[[Caller], None]:
    """Answer a hello with these bytes."""

    def behave(caller: Caller) -> None:
        accept_upgrade(caller)
        Line(caller).expect(Hello)
        caller.send(*wires)
        caller.wait_gone()

    return behave


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (echo, "'hello' frame came from the wrong side"),
        (talking(framed("Welcome to chat!")), "neither a control frame nor 'stream:number:payload'"),
        (talking(framed('{"type":"welcome"}')), "a 'welcome' frame breaks the protocol: field 'version' is missing"),
        (talking(framed('{"event":"welcome"}')), "a control frame has no known 'type'"),
        (after_upgrade(bytes(range(0x70, 0xF0))), "broke RFC 6455"),
    ],
    ids=["echo", "chat", "half_a_welcome", "other_json", "garbage"],
)
def test_server_that_does_not_speak_the_protocol(behaviour: Callable[[Caller], None], words: str) -> None:
    """A WebSocket server of another kind is found out at once; the error says where to look, and not to try again."""
    with RudeServer(behaviour) as server:
        with pytest.raises(
            ConnectError, match=f"no session was opened: .*{words}.*whether the URL is the right"
        ) as caught:
            connect(server.url, retry=AT_ONCE, open_timeout=PATIENCE)
    assert not caught.value.retryable


def test_server_that_upgrades_and_says_nothing() -> None:
    """A server that does not answer hello is waited for no longer than open_timeout, and the error says so."""
    with (
        RudeServer(after_upgrade()) as server,
        pytest.raises(ConnectError, match="does not answer our hello") as caught,
    ):
        connect(server.url, open_timeout=0.3)
    assert caught.value.retryable


# -- close codes that end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1002, r"closed the connection \(close code 1002: why\), so the session has ended"),
        (1008, r"close code 1008 \(why\); the session has ended: check access_token="),
        (4400, r"closed the connection \(close code 4400: why\), so the session has ended"),
        (4403, r"close code 4403 \(why\); the session has ended: check access_token="),
    ],
)
def test_close_code_that_is_final(code: int, words: str) -> None:
    """A close code that says that trying again is no use ends the session, and quotes what the server said."""
    model = Model()
    with RudeServer(model.then(bad(close_frame(code, "why")))) as server, opened(server.url) as client:
        with pytest.raises(ResilientWSError, match=words) as caught:
            client.recv(PATIENCE)
        assert server.connections == 1
    assert not caught.value.retryable
