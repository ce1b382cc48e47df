"""The Client over scripted transports: real threads, sockets and signals, and a server that the test plays."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import linecache
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_futures
from typing import Any

import attrs
import pytest
import tenacity

import resilient_ws
from resilient_ws import events, receiving
from resilient_ws.client import Client
from resilient_ws.config import Capabilities, Failover, Inbox, Keepalive, Outbox, Retry, Wire
from resilient_ws.dialects.native import Native
from resilient_ws.dispatcher import Dispatcher
from resilient_ws.exceptions import (
    AccessDenied,
    ConnectError,
    ConnectTimeout,
    Forked,
    Gap,
    NoEndpoint,
    OutboxFull,
    Rejected,
    SessionClosed,
    SlowConsumer,
    Undelivered,
)
from resilient_ws.frames import Ack, AckedMark, Batch, Bye, GapFrame, Hello, Ping, Pong, Position, Reject, SeqMark
from resilient_ws.testing import Peer, ScriptedDialer

SOON = 5.0
FAST = Retry(wait=tenacity.wait_fixed(0.01), budget=None)
ONE, TWO = "ws://127.0.0.1:1/", "ws://127.0.0.1:2/"


@pytest.fixture
def dialer() -> Iterator[ScriptedDialer]:
    """A dialer whose connections are all cut in the end."""
    dialer = ScriptedDialer()
    yield dialer
    dialer.close()


@pytest.fixture(autouse=True)
def leave_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that the test plays seldom answer a close frame: do not wait a second for each."""
    monkeypatch.setattr("resilient_ws.performing.LEAVE_TIMEOUT", 0.1)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for what blocks; the test waits for their results."""
    with ThreadPoolExecutor(40) as pool:
        yield pool


@pytest.fixture
def opened(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> Iterator[Callable[..., tuple[Client, Peer]]]:
    """Open Clients that are welcomed and have said ready, and close them in the end."""
    clients: list[Client] = []

    def open_one(urls: Any = ONE, **settings: Any) -> tuple[Client, Peer]:
        settings = {"subscribe": ["s"], "stream": "out", "retry": FAST, **settings}
        answering = pool.submit(welcomed, dialer)
        client = dialer.connect(urls, **settings)
        clients.append(client)
        return client, answering.result(SOON)

    yield open_one
    dialer.close()  # so that nobody waits for an answer to a close frame
    for client in clients:
        client.close()


def welcomed(dialer: ScriptedDialer) -> Peer:
    """Accept a connection and welcome it; skips the ready."""
    peer = dialer.accept()
    peer.welcome()
    peer.expect()
    return peer


def data(first: int, *payloads: str | bytes) -> Batch:
    """Make a batch of stream ``s``."""
    return Batch("s", first, list(payloads))


def acked(seq: int, stream: str = "out") -> Ack:
    """Make the server's ack of everything up to a seq."""
    return Ack(committed=(SeqMark(0, stream, seq),))


def until(condition: Callable[[], bool], timeout: float = SOON) -> None:
    """Wait for something that has no event; looks a thousand times a second."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.001)


# -- connecting -------------------------------------------------------------------------------------------------------


def test_connect_returns_a_welcomed_client(opened: Any) -> None:
    """After connect() there is a session, a connection, and a sentence on what is promised."""
    client, _ = opened()
    assert client.connected
    assert client.session_id == "s1"
    assert "exactly once" in client.guarantee
    assert client.stats()["connects"] == 1


def test_hello_carries_the_subscriptions(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """Names start at now, a mapping says where to start."""
    hello = pool.submit(lambda: dialer.accept().welcome())
    starts = {"a": "now", "b": "earliest", "c": Position("e", 7)}
    with dialer.connect(subscribe=starts):
        assert {asked.stream: asked.start for asked in hello.result(SOON).streams} == starts


def test_access_token_and_headers_are_fetched_for_every_dial(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """Functions are asked before each dial, outside the caller's thread; the token is in no URL and no repr."""
    tokens = iter(["secret-1", "secret-2"])
    threads = set()

    def token() -> str:
        threads.add(threading.get_ident())
        return next(tokens)

    first = pool.submit(welcomed, dialer)
    with dialer.connect(access_token=token, headers=lambda: {"X-A": "b"}, retry=FAST) as client:
        peer = first.result(SOON)
        assert peer.options.headers == (("X-A", "b"), ("Authorization", "Bearer secret-1"))
        peer.cut()
        again = welcomed(dialer)
        assert again.options.headers[1] == ("Authorization", "Bearer secret-2")
        assert "secret" not in again.url + repr(client) + repr(again.options)
    assert threading.get_ident() not in threads


def test_failing_access_token_is_the_cause(dialer: ScriptedDialer) -> None:
    """What the function raised is found in the chain of the ConnectError."""

    def token() -> str:
        raise KeyError("vault")

    with pytest.raises(ConnectTimeout) as caught:
        dialer.connect(access_token=token, open_timeout=0.2)
    assert isinstance(caught.value.__cause__, ConnectError)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


def test_open_timeout_bounds_all_attempts(dialer: ScriptedDialer) -> None:
    """Attempts go on until the time is over; the error has the last one as its cause, and nothing goes on after it."""
    dialer.refuse(*[NoEndpoint("refused")] * 1000)
    started = time.monotonic()
    with pytest.raises(ConnectTimeout, match="the last attempt: refused") as caught:
        dialer.connect(open_timeout=0.3, retry=FAST)
    assert 0.3 <= time.monotonic() - started < 3
    assert isinstance(caught.value.__cause__, NoEndpoint)
    dials = len(dialer.dials)
    assert dials > 2
    assert not threading.Event().wait(0.1)
    assert len(dialer.dials) == dials


def test_denied_access_is_raised_itself(dialer: ScriptedDialer) -> None:
    """A refusal of who we are is final: no second attempt."""
    dialer.refuse(AccessDenied("401", status=401))
    with pytest.raises(AccessDenied):
        dialer.connect(retry=FAST)
    assert len(dialer.dials) == 1


def test_connect_without_waiting(dialer: ScriptedDialer) -> None:
    """With wait=False connect() returns at once, and what is sent goes out with the first connection."""
    with dialer.connect(stream="out", wait=False) as client:
        assert not client.connected
        receipt = client.send("early")
        peer = welcomed(dialer)
        assert peer.expect(Batch).payloads == ["early"]
        peer.send(acked(1))
        receipt.result(SOON)


def test_close_calls_off_a_dial(dialer: ScriptedDialer) -> None:
    """A dial that hangs is cancelled, close() does not wait for it, and a transport that comes too late is released."""
    called_off = threading.Event()

    def hang(cancelled: Callable[[], bool]) -> None:
        until(cancelled)
        called_off.set()

    dialer.before(hang)
    client = dialer.connect(wait=False)
    until(lambda: bool(dialer.dials))
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 1
    assert called_off.wait(SOON)
    late = dialer.accept().transport
    until(lambda: late.calls == ["shut", "release"])


def test_X10_no_thread_for_a_dial_is_an_error_of_the_attempt(
    dialer: ScriptedDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no thread the attempt fails, with the reason in the error."""

    def refuse(work: Callable[[], None], kind: str = "dial") -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("resilient_ws.attempts.start", refuse)
    with pytest.raises(ConnectTimeout, match="no thread could be started"):
        dialer.connect(open_timeout=0.1, retry=FAST)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"urls": "http://localhost/"}, ValueError, "wss://"),
    ({"urls": "ws://example.com/"}, ValueError, "allow_plaintext"),
    ({"urls": "wss://user:secret@example.com/"}, ValueError, "credentials"),
    ({"urls": []}, ValueError, "empty"),
    ({"urls": b"ws://localhost/"}, TypeError, "bytes"),
    ({"urls": [1]}, TypeError, "int"),
    ({"urls": 1}, TypeError, "int"),
    ({"subscribe": "ticker"}, TypeError, r"\['ticker'\]"),
    ({"subscribe": ["bad name"]}, ValueError, "not allowed"),
    ({"subscribe": {"a": "later"}}, ValueError, "'later'"),
    ({"subscribe": 3}, TypeError, "int"),
    ({"stream": "~private"}, ValueError, "private"),
    ({"stream": 5}, TypeError, "int"),
    ({"dialect": "mqtt"}, ValueError, "'mqtt'"),
    ({"dialect": object()}, TypeError, "dialect="),
    ({"headers": "A: b"}, TypeError, "headers="),
    ({"headers": {"A": "b\r\nC: d"}}, ValueError, "CR, LF"),
    ({"headers": {"Host": "x"}}, ValueError, "Host"),
    ({"access_token": 7}, TypeError, "access_token="),
    ({"access_token": "a\nb"}, ValueError, "Authorization"),
    ({"ssl": True}, TypeError, "SSLContext"),
    ({"proxy": "proxy:3128"}, ValueError, "proxy=: a proxy's URL is"),
    ({"proxy": False}, TypeError, "proxy="),
    ({"proxy": "http://proxy:3128"}, ValueError, "in the clear"),
    ({"proxy_ssl": True}, TypeError, "proxy_ssl="),
    ({"on_gap": "ignore"}, ValueError, "'ignore'"),
    ({"on_event": 1}, TypeError, "on_event="),
    ({"decoder": "json"}, TypeError, "decoder="),
    ({"open_timeout": 0}, ValueError, "open_timeout"),
    ({"open_timeout": "10"}, TypeError, "open_timeout"),
    ({"wait": 1}, TypeError, "wait="),
    ({"retry": Outbox()}, TypeError, "resilient_ws.Retry"),
    ({"inbox": None}, TypeError, "resilient_ws.Inbox"),
    ({"inbox": Inbox(max_bytes=1000)}, ValueError, "max_message"),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG, ids=[f"{next(iter(w[0]))}-{i}" for i, w in enumerate(WRONG)])
def test_wrong_arguments_are_refused_before_anything_starts(
    dialer: ScriptedDialer, wrong: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """Each wrong argument has an error that names it, without secrets; no thread and no dial was started."""
    threads = threading.active_count()
    with pytest.raises(kind, match=text) as caught:
        dialer.connect(**{"urls": ONE, **wrong})
    assert "secret" not in str(caught.value)
    assert (threading.active_count(), dialer.dials) == (threads, [])


def test_the_public_connect_checks_too() -> None:
    """The public function refuses the same way, and knows no other arguments."""
    with pytest.raises(ValueError, match="wss://"):
        resilient_ws.connect("http://localhost/")
    with pytest.raises(TypeError, match="on_message"):
        resilient_ws.connect(ONE, on_message=print)  # type: ignore[call-arg]


def test_public_names_are_lazy() -> None:
    """The package alone imports nothing that costs; its public names are there all the same."""
    code = (
        "import sys, resilient_ws\n"
        "heavy = {'websocket', 'requests', 'tenacity', 'attrs', 'socket', 'ssl', 'threading', 'logging'}\n"
        "assert not heavy & set(sys.modules)\n"
        "assert 'connect' in dir(resilient_ws)\n"
        "from resilient_ws import *\n"
        "assert resilient_ws.events.Connected and Client and Gap and Retry and Position\n"
        "assert not hasattr(resilient_ws, 'nonsense')\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=30, env=env())
    assert (done.returncode, done.stderr) == (0, "")


def env() -> dict[str, str]:
    """Give a subprocess our import path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


# -- receiving --------------------------------------------------------------------------------------------------------


def test_messages_come_in_order(opened: Any) -> None:
    """Text stays str, binary stays bytes, and each message knows its place."""
    client, peer = opened()
    peer.send(data(1, "a", "[1]"), data(3, b"b"))
    got = [client.recv(SOON) for _ in range(3)]
    assert [(m.offset, m.data) for m in got] == [(1, "a"), (2, "[1]"), (3, b"b")]
    assert got[1].json() == [1]
    assert got[2].position == Position("e", 3)


def test_messages_go_on_after_a_loss(opened: Any, dialer: ScriptedDialer) -> None:
    """A cut in the middle is not seen by the loop: each message comes once, whatever is replayed."""
    client, peer = opened()
    peer.send(data(1, "a", "b"))
    loop = iter(client)
    assert [next(loop).data, next(loop).data] == ["a", "b"]
    peer.cut()
    again = dialer.accept()
    hello = again.expect(Hello)
    assert hello.streams[0].held is not None
    assert hello.streams[0].held.offset == 2
    again.welcome(hello)
    again.send(data(3, "c"))
    assert next(loop).data == "c"
    assert client.stats()["resumes"] == 1


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_recv_times_out(opened: Any, timeout: float) -> None:
    """Where nothing comes recv() raises the built-in TimeoutError, and the session goes on."""
    client, peer = opened()
    with pytest.raises(TimeoutError, match="no message"):
        client.recv(timeout)
    peer.send(data(1, "a"))
    assert client.recv(SOON).data == "a"


def test_recv_with_timeout_zero_reads_the_socket(opened: Any) -> None:
    """A poll gets what the socket has, without waiting for another thread to read it."""
    client, peer = opened()
    peer.send(data(1, "a"))
    assert client.recv(0).data == "a"


def test_recv_many_returns_what_is_there(opened: Any) -> None:
    """At least one, at most as many as asked, and never past a gap, which is raised by the next call."""
    client, peer = opened()
    gap = GapFrame(stream="s", id=1, epoch="e", first=5, last=6, next=7, reason="trimmed")
    peer.send(data(1, "a", "b", "c", "d"), gap, data(7, "g"))
    assert [m.data for m in client.recv_many(3, SOON)] == ["a", "b", "c"]
    assert [m.data for m in client.recv_many(3, SOON)] == ["d"]
    with pytest.raises(Gap) as caught:
        client.recv_many(timeout=SOON)
    assert (caught.value.first, caught.value.last, caught.value.reason) == (5, 6, "trimmed")
    assert [m.data for m in client.recv_many(timeout=SOON)] == ["g"]
    with pytest.raises(ValueError, match="max=0"):
        client.recv_many(0)


def gap_then_data(peer: Peer) -> None:
    """Send message 1, a gap over 2, and message 3."""
    gap = GapFrame(stream="s", id=1, epoch="e", first=2, last=2, next=3, reason="trimmed")
    peer.send(data(1, "a"), gap, data(3, "c"))


def test_gap_is_raised_in_its_place(opened: Any) -> None:
    """By default the gap is an exception between the messages, and the next call goes on."""
    client, peer = opened()
    gap_then_data(peer)
    assert client.recv(SOON).data == "a"
    with pytest.raises(Gap, match="messages 2 to 2"):
        client.recv(SOON)
    assert client.recv(SOON).data == "c"


def test_gap_is_reported(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With on_gap="report" it is an event and a warning in the log, and the loop goes on."""
    seen: list[Any] = []
    arrived = threading.Event()

    def on_event(event: Any) -> None:
        if isinstance(event, events.GapFound):
            seen.append(event)
            arrived.set()

    with caplog.at_level(logging.WARNING, "resilient_ws.client"):
        client, peer = opened(on_gap="report", on_event=on_event)
        gap_then_data(peer)
        assert [client.recv(SOON).data, client.recv(SOON).data] == ["a", "c"]
        assert arrived.wait(SOON)
    assert (seen[0].first, seen[0].last) == (2, 2)
    until(lambda: any("resilient_ws.gap_found" in record.getMessage() for record in caplog.records))


def test_gap_function_runs_before_the_next_message(opened: Any) -> None:
    """A function is called in the receiving thread between the messages; if it fails it is called again."""
    calls: list[tuple[int, int]] = []

    def reload(gap: Gap) -> None:
        calls.append((gap.first, threading.get_ident()))
        if len(calls) == 1:
            raise RuntimeError("no snapshot yet")

    client, peer = opened(on_gap=reload)
    gap_then_data(peer)
    assert client.recv(SOON).data == "a"
    with pytest.raises(RuntimeError, match="no snapshot yet"):
        client.recv(SOON)
    assert client.recv(SOON).data == "c"
    assert calls == [(2, threading.get_ident())] * 2


def test_decoder_makes_the_data(opened: Any) -> None:
    """The decoder gets the payload, in the receiving thread, and its result is the message's data."""
    threads = []

    def decode(payload: Any) -> Any:
        threads.append(threading.get_ident())
        return json.loads(payload)

    client, peer = opened(decoder=decode)
    peer.send(data(1, '{"a":1}'))
    assert client.recv(SOON).data == {"a": 1}
    assert threads == [threading.get_ident()]


def test_A3_failing_decoder_is_not_swallowed(opened: Any) -> None:
    """The exception comes out, the message is tried again, at last it is passed with an event; nothing else is lost."""
    seen: list[Any] = []
    client, peer = opened(decoder=json.loads, inbox=Inbox(max_deliveries=2), on_event=seen.append)
    peer.send(data(1, "1", "{", "3"))
    assert client.recv(SOON).data == 1
    for _ in range(2):
        with pytest.raises(json.JSONDecodeError):
            client.recv(SOON)
    assert client.recv(SOON).data == 3
    dead = events.DeadLettered(stream="s", offset=2, deliveries=2, error="JSONDecodeError")
    until(lambda: dead in seen)


def test_failing_decoder_ends_a_list(opened: Any) -> None:
    """recv_many() gives what was decoded before; the failure comes with the next call, and counts once."""
    client, peer = opened(decoder=json.loads, inbox=Inbox(max_deliveries=2))
    peer.send(data(1, "1", "{", "3"))
    assert [m.data for m in client.recv_many(timeout=SOON)] == [1]
    for _ in range(2):
        with pytest.raises(json.JSONDecodeError):
            client.recv_many(timeout=SOON)
    assert [m.data for m in client.recv_many(timeout=SOON)] == [3]


def test_acks_follow_the_next_call(opened: Any) -> None:
    """The message in hand is not acked; asking for the next one acks it."""
    client, peer = opened(inbox=Inbox(ack_delay=0.0))
    peer.send(data(1, "a", "b"))
    client.recv(SOON)
    client.recv(SOON)
    assert client.position("s") == Position("e", 1)
    with pytest.raises(TimeoutError):
        client.recv(0)
    assert client.position("s") == Position("e", 2)


def test_acks_follow_a_receiver_that_took_ahead(opened: Any) -> None:
    """A fast receiver takes many at once; when it then stalls, what it has handled is acked all the same."""
    client, peer = opened(inbox=Inbox(ack_delay=0.01))
    peer.send(data(1, *[str(i) for i in range(200)]))
    got = [client.recv(SOON).offset for _ in range(100)]
    assert got == list(range(1, 101))
    until(lambda: client.position("s") == Position("e", 99))
    while (mark := peer.expect(Ack).acked[0]).offset < 99:
        pass
    assert mark == AckedMark("s", "e", 99)


def test_ack_by_hand_with_automatic_acks(opened: Any) -> None:
    """message.ack() says before the next call that the message in hand is handled; again it says nothing new."""
    client, peer = opened()
    peer.send(data(1, *"abcdef"))
    for message in client.recv_many(4, SOON)[:3]:
        message.ack()
        assert client.position("s") == message.position
        message.ack()
    assert client.position("s") == Position("e", 3)


@pytest.mark.parametrize("is_put_back", [False, True], ids=["decoding", "put_back"])
def test_acks_stay_below_what_is_being_decoded(opened: Any, pool: ThreadPoolExecutor, is_put_back: bool) -> None:
    """A message that one thread's decoder has not done, or failed on, is not acked, however far others go."""
    is_decoding, may_go_on = threading.Event(), threading.Event()

    def decoder(payload: str) -> str:
        if payload == "b" and not is_decoding.is_set():
            is_decoding.set()
            may_go_on.wait(SOON)
            raise ZeroDivisionError
        return payload

    client, peer = opened(decoder=decoder)
    peer.send(data(1, *"abcdefgh"))
    assert client.recv(SOON).data == "a"
    slow = pool.submit(client.recv, SOON)
    assert is_decoding.wait(SOON)
    assert [client.recv(SOON).data for _ in "cde"] == ["c", "d", "e"]
    if is_put_back:
        may_go_on.set()
        assert isinstance(slow.exception(SOON), ZeroDivisionError)
    assert client.position("s") == Position("e", 1)
    may_go_on.set()
    slow.exception(SOON)
    assert [client.recv(SOON).data for _ in "bf"] == ["b", "f"]
    assert client.position("s") == Position("e", 5)


def test_messages_taken_ahead_are_everybodys(opened: Any, pool: ThreadPoolExecutor) -> None:
    """Whichever thread asks gets the next message: none stays behind with a thread that asks no more."""
    client, peer = opened()
    peer.send(data(1, *[str(i) for i in range(1, 201)]))
    got = []
    for i in range(200):
        call = pool.submit(client.recv, SOON) if i % 3 else None
        got.append((client.recv(SOON) if call is None else call.result(SOON)).offset)
    assert got == list(range(1, 201))


def test_acks_stay_below_what_another_thread_has_in_hand(opened: Any, pool: ThreadPoolExecutor) -> None:
    """A message in one thread's hands holds the ack, however far others go; when that thread asks again it moves."""
    client, peer = opened()
    peer.send(data(1, *"abcdefgh"))
    slow = ThreadPoolExecutor(1)
    assert slow.submit(client.recv, SOON).result(SOON).data == "a"
    for _ in range(5):
        client.recv(SOON)
    assert client.position("s") == Position("e", 0)
    assert slow.submit(client.recv, SOON).result(SOON).data == "g"
    assert client.position("s") == Position("e", 5)
    slow.shutdown()
    client.recv(SOON)
    until(lambda: gc.collect() >= 0 and client.position("s") == Position("e", 7))


def test_manual_acks(opened: Any) -> None:
    """With ack="manual" only message.ack() acks, however many are asked for."""
    client, peer = opened(inbox=Inbox(ack="manual", ack_delay=0.01))
    peer.send(data(1, *[str(i) for i in range(200)]))
    got = [client.recv(SOON) for _ in range(100)]
    assert client.position("s") == Position("e", 0)
    got[41].ack()
    assert client.position("s") == Position("e", 42)


def test_several_threads_receive(opened: Any, pool: ThreadPoolExecutor) -> None:
    """Threads share the messages: each message goes to one of them, none is missing."""
    client, peer = opened()
    barrier = threading.Barrier(5)

    def receive() -> list[int]:
        barrier.wait(SOON)
        return [m.offset for m in client]

    loops = [pool.submit(receive) for _ in range(4)]
    barrier.wait(SOON)
    for first in range(1, 401, 10):
        peer.send(data(first, *["x"] * 10))
    until(lambda: client.stats()["delivered"] == 400)
    client.close()
    offsets = [loop.result(SOON) for loop in loops]
    assert sorted(offset for each in offsets for offset in each) == list(range(1, 401))
    assert all(each == sorted(each) for each in offsets)


@pytest.mark.parametrize("ack", ["auto", "manual"])
def test_delivered_counts_what_the_user_has(opened: Any, ack: Any) -> None:
    """What is taken ahead for speed was given to nobody yet."""
    client, peer = opened(inbox=Inbox(ack=ack))
    client._receivers._limit = 64
    peer.send(data(1, *["x"] * 20))
    for count in range(1, 21):
        client.recv(SOON)
        assert client.stats()["delivered"] == count


def test_A1_slow_consumer_is_bounded_and_alive(opened: Any, dialer: ScriptedDialer) -> None:
    """While the user does not receive, the credit bounds the inbox and pings are answered; nothing is lost."""
    client, peer = opened(inbox=Inbox(max_messages=8))
    peer.send(data(1, *"abcdefgh"), Ping(echo="are you there"))
    assert peer.expect(Pong).echo == "are you there"
    assert client.stats()["inbox"][0] == 8
    peer.send(Ping(echo="still"))
    assert peer.expect(Pong).echo == "still"
    assert "".join(client.recv(SOON).data for _ in range(8)) == "abcdefgh"
    assert len(dialer.dials) == 1


def test_the_user_who_reads_answers_pings_too(opened: Any, pool: ThreadPoolExecutor) -> None:
    """A thread that is blocked in recv() answers the server's ping by itself."""
    client, peer = opened()
    waiting = pool.submit(client.recv)
    peer.send(Ping(echo="1"))
    assert peer.expect(Pong).echo == "1"
    peer.send(data(1, "a"))
    assert waiting.result(SOON).data == "a"


# -- sending ----------------------------------------------------------------------------------------------------------


def test_receipts_tell_the_fate(opened: Any) -> None:
    """A receipt is done when its message is committed or rejected, and says which."""
    client, peer = opened()
    first, second, third = client.send("a"), client.send(b"b", "other"), client.send("c")
    assert not first.done()
    with pytest.raises(TimeoutError, match="no ack yet"):
        first.result(0.01)
    batches = [Batch("other", 1, [b"b"]), Batch("out", 1, ["a"]), Batch("out", 2, ["c"])]
    assert sorted([peer.expect(Batch) for _ in range(3)], key=lambda batch: (batch.stream, batch.first)) == batches
    peer.send(Reject(producer=0, stream="out", seq=2, code="forbidden"), acked(2))
    first.result(SOON)
    with pytest.raises(Rejected, match="forbidden"):
        third.result(SOON)
    assert not second.done()
    client.close()
    with pytest.raises(Undelivered):
        second.result(SOON)


@pytest.mark.parametrize("policy", ["block", "raise", "drop_oldest", "drop_newest"])
def test_messages_on_too_many_streams_wait(opened: Any, monkeypatch: pytest.MonkeyPatch, policy: Any) -> None:
    """A hello names every stream with unacked messages; there are never more than a node takes, as the policy says."""
    monkeypatch.setattr("resilient_ws.outbox.MOST_LANES", 3)
    client, peer = opened(outbox=Outbox(policy=policy, send_timeout=0.05))
    for stream in "abc":
        client.send("x", stream)
    client.send("y", "a")
    if policy == "drop_newest":
        with pytest.raises(Rejected, match="dropped"):
            client.send("x", "d").result(SOON)
    else:
        with pytest.raises(OutboxFull, match="on 3 streams"):
            client.send("x", "d")
    peer.expect(Batch)
    peer.send(acked(1, "b"))
    until(lambda: client.stats()["outbox"][0] == 3)
    assert client.send("x", "d").seq == 1


def test_receipt_callbacks_are_not_dropped(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the callbacks are, and however many an ack settles at once, each is called."""
    monkeypatch.setattr("resilient_ws.dispatcher._dispatcher", Dispatcher(limit=10))
    client, peer = opened()
    gate, seen = threading.Event(), []

    def note(receipt: Any) -> None:
        gate.wait(SOON)
        seen.append(receipt.seq)

    for _ in range(100):
        client.send("x").add_done_callback(note)
    until(lambda: client.stats()["outbox"][0] == 100)
    until(lambda: peer.expect(Batch).first + 63 >= 100)
    peer.send(acked(100))
    client.flush(SOON)
    gate.set()
    until(lambda: seen == list(range(1, 101)))


def test_receipt_callbacks_run_in_order(opened: Any) -> None:
    """Callbacks come in the order of the messages, in the dispatcher, also for what was done before they were added."""
    client, peer = opened()
    seen: list[int] = []
    last = threading.Event()
    receipts = [client.send(str(i)) for i in range(5)]
    for receipt in reversed(receipts[:4]):
        receipt.add_done_callback(lambda done: seen.append(done.seq))
    peer.send(acked(5))
    receipts[4].result(SOON)
    receipts[4].add_done_callback(lambda done: last.set())
    assert last.wait(SOON)
    assert seen == [1, 2, 3, 4]


def test_data_that_can_change_is_copied(opened: Any) -> None:
    """A bytearray may be used again as soon as send() returns."""
    client, peer = opened()
    buffer = bytearray(b"one")
    client.send(buffer)
    buffer[:] = b"two"
    client.send(memoryview(buffer))
    assert peer.expect(Batch).payloads == [b"one"]
    assert peer.expect(Batch).payloads == [b"two"]
    client.send_json({"ä": [1, None]})
    assert peer.expect(Batch).payloads == ['{"ä":[1,null]}']


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ({"a": 1}, TypeError, "send_json"),
        (None, TypeError, "NoneType; send_json"),
        (object(), TypeError, "str or bytes, not object$"),
        ("\ud800", ValueError, "surrogate"),
    ],
    ids=["dict", "none", "object", "surrogate"],
)
def test_wrong_data_is_refused_at_once(opened: Any, wrong: Any, kind: type[Exception], text: str) -> None:
    """What cannot be sent is refused by send(), and nothing was accepted."""
    client, _ = opened()
    with pytest.raises(kind, match=text):
        client.send(wrong)
    assert client.stats()["outbox"] == (0, 0)


def test_send_needs_a_stream(opened: Any) -> None:
    """Without a stream anywhere, or with one that only servers write to, send() says what to do."""
    client, _ = opened(stream=None)
    with pytest.raises(ValueError, match="pass stream="):
        client.send("a")
    with pytest.raises(ValueError, match="private"):
        client.send("a", "~s1")
    with pytest.raises(Rejected, match="too_large"):
        client.send("a" * (2 << 20), "out")


def test_A5_many_threads_send(opened: Any, pool: ThreadPoolExecutor) -> None:
    """32 threads send at once: the wire has every message once, in order of seq, and each thread's order is kept."""
    client, peer = opened()
    barrier = threading.Barrier(32)

    def send(number: int) -> None:
        barrier.wait(SOON)
        for i in range(50):
            client.send(f"{number}:{i}")

    threads = [pool.submit(send, number) for number in range(32)]
    got: list[str] = []
    while len(got) < 1600:
        batch = peer.expect(Batch)
        assert batch.first == len(got) + 1
        got += batch.payloads
    for thread in threads:
        thread.result(SOON)
    for number in range(32):
        assert [m for m in got if m.startswith(f"{number}:")] == [f"{number}:{i}" for i in range(50)]


def test_A6_send_after_close(opened: Any) -> None:
    """After close() every method that needs the session says so with one type of error."""
    client, _ = opened()
    client.close()
    for call in (lambda: client.send("a"), client.recv, client.recv_many, lambda: client.subscribe("t")):
        with pytest.raises(SessionClosed, match="closed"):
            call()
    assert list(client) == []
    client.close()


def test_A6_send_while_reconnecting(opened: Any, dialer: ScriptedDialer) -> None:
    """What is sent without a connection waits, and goes out once when there is one."""
    client, peer = opened()
    peer.cut()
    until(lambda: not client.connected)
    receipts = [client.send(str(i)) for i in range(3)]
    again = welcomed(dialer)
    got: list[Any] = []
    while len(got) < 3:
        got += again.expect(Batch).payloads
    assert got == ["0", "1", "2"]
    again.send(acked(3))
    for receipt in receipts:
        receipt.result(SOON)


def test_unacked_messages_are_sent_again(opened: Any, dialer: ScriptedDialer) -> None:
    """What was written and not acked when the connection broke goes out again under its old seq."""
    client, peer = opened()
    receipt = client.send("a")
    assert peer.expect(Batch).first == 1
    peer.cut()
    assert welcomed(dialer).expect(Batch) == Batch("out", 1, ["a"])
    assert not receipt.done()


def test_full_outbox_blocks_until_there_is_room(opened: Any, pool: ThreadPoolExecutor) -> None:
    """send() waits for room and reads the acks that make it."""
    client, peer = opened(outbox=Outbox(max_messages=2))
    client.send("a")
    client.send("b")
    waiting = pool.submit(client.send, "c")
    assert [peer.expect(Batch).first for _ in range(2)] == [1, 2]
    assert not waiting.done()
    peer.send(acked(1))
    assert waiting.result(SOON).seq == 3


def test_full_outbox_gives_up(opened: Any) -> None:
    """After send_timeout, or at once with policy "raise", OutboxFull has the numbers; nothing was accepted."""
    client, _ = opened(outbox=Outbox(max_messages=1, send_timeout=0.02))
    client.send("a")
    with pytest.raises(OutboxFull) as caught:
        client.send("b")
    assert (caught.value.size, caught.value.limit) == ((1, 1), (1, 64 << 20))
    other, _ = opened(outbox=Outbox(max_messages=1, policy="raise"))
    other.send("a")
    with pytest.raises(OutboxFull):
        other.send("b")


def test_echo_loop_cannot_lock_itself_up(opened: Any, pool: ThreadPoolExecutor) -> None:
    """A loop that sends what it receives goes on with both boxes full: its send() reads the acks."""
    client, peer = opened(outbox=Outbox(max_messages=2), inbox=Inbox(max_messages=4))

    def serve() -> list[Any]:
        echoed: list[Any] = []
        sent = 4
        peer.send(data(1, "0", "1", "2", "3"))
        while len(echoed) < 40:
            batch = peer.expect(Batch)
            echoed += batch.payloads
            peer.send(acked(len(echoed)))
            if sent < 40:
                sent += 1
                peer.send(data(sent, str(sent - 1)))
        return echoed

    serving: Future[list[Any]] = pool.submit(serve)
    for message in client:
        client.send(message.data)
        if message.offset == 40:
            break
    assert serving.result(SOON) == [str(i) for i in range(40)]


@attrs.frozen
class WithoutCredit:
    """The native dialect of a server that takes no credit."""

    name: str = "without-credit"
    subprotocol: str | None = None
    capabilities: Capabilities = attrs.field(
        factory=lambda: Capabilities(positions=True, acks=True, credit=False, resume=True)
    )

    def client(self) -> Any:
        return Native().client()


def test_slow_consumer_without_credit(opened: Any) -> None:
    """Where the bound of the inbox is held by not reading, the only receiver's send() cannot wait: it says so."""
    bounds = {"inbox": Inbox(max_messages=2), "outbox": Outbox(max_messages=1)}
    client, peer = opened(dialect=WithoutCredit(), keepalive=Keepalive(interval=60), **bounds)
    peer.send(data(1, "a", "b"))
    assert [client.recv(SOON).data, client.recv(SOON).data] == ["a", "b"]
    peer.send(data(3, "c", "d"))
    until(lambda: client.stats()["inbox"][0] == 2)
    client.send("x")
    peer.send(acked(1))
    with pytest.raises(SlowConsumer) as caught:
        client.send("y")
    assert (caught.value.pending, caught.value.limit) == (2, 2)
    assert [client.recv(SOON).data, client.recv(SOON).data] == ["c", "d"]
    client.send("y")


def test_flush_waits_for_all_acks(opened: Any, pool: ThreadPoolExecutor) -> None:
    """flush() returns when everything is committed, or raises TimeoutError."""
    client, peer = opened()
    client.send("a")
    client.send("b")
    with pytest.raises(TimeoutError, match="2 messages"):
        client.flush(0.01)
    flushing = pool.submit(client.flush, SOON)
    peer.send(acked(2))
    flushing.result(SOON)


def test_flush_does_not_wait_for_what_is_sent_after_it(
    opened: Any, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that go on sending neither hold a flush() up nor make it fail; it covers what was sent before."""
    client, peer = opened()
    client.send("a")
    accepted, has_begun = client._session.accepted, threading.Event()
    monkeypatch.setattr(client._session, "accepted", lambda: (accepted(), has_begun.set())[0])
    flushing = pool.submit(client.flush, SOON)
    assert has_begun.wait(SOON)
    client.send("b", "other")
    client.send("c")
    assert wait_futures([flushing], timeout=0.05).not_done
    peer.send(acked(1))
    flushing.result(SOON)
    with pytest.raises(TimeoutError, match="2 messages"):
        client.flush(0.01)


# -- faults -----------------------------------------------------------------------------------------------------------

ALERT = Keepalive(interval=0.05, timeout=0.1, min_timeout=0.05)


@pytest.mark.parametrize("is_read", [True, False], ids=["T7_s2c", "T6"])
def test_T6_T7_silent_peer_is_left(
    opened: Any, dialer: ScriptedDialer, pool: ThreadPoolExecutor, is_read: bool
) -> None:
    """A peer that says nothing any more, whether it still reads or not, is given up in time; the other node goes on."""
    client, peer = opened([ONE, TWO], keepalive=ALERT)
    started = time.monotonic()
    waiting = pool.submit(client.recv)
    if is_read:
        pool.submit(drain_quietly, peer)
    again = dialer.accept(3.0)
    assert time.monotonic() - started < 3
    assert again.url != peer.url
    again.welcome()
    again.send(data(1, "a"))
    assert waiting.result(SOON).data == "a"


def drain_quietly(peer: Peer) -> None:
    """Read and never answer."""
    try:
        while True:
            peer.expect(timeout=SOON)
    except (EOFError, OSError):
        pass


def test_T6_silent_peer_is_left_while_the_user_computes(opened: Any, dialer: ScriptedDialer) -> None:
    """The keeper's thread notices it where no thread of the user is inside the Client."""
    client, peer = opened([ONE, TWO], keepalive=ALERT)
    again = welcomed(dialer)
    assert again.url != peer.url
    until(lambda: client.connected)


def test_T11_peer_that_stops_reading_is_left(pool: ThreadPoolExecutor) -> None:
    """Bytes that the kernel does not take for write_timeout end the connection; the next one gets each message once."""
    dialer = ScriptedDialer(buffer=8192)
    answering = pool.submit(welcomed, dialer)
    settings: dict[str, Any] = {"wire": Wire(write_timeout=0.1), "keepalive": Keepalive(interval=60)}
    client = dialer.connect([ONE, TWO], stream="out", retry=FAST, **settings)
    answering.result(SOON)
    for _ in range(20):
        client.send("x" * 5000)
    again = welcomed(dialer)
    got = 0
    while got < 20:
        batch = again.expect(Batch)
        assert batch.first == got + 1
        got += len(batch.payloads)
    again.send(acked(20))
    client.flush(SOON)
    client.close()
    dialer.close()


def test_a_slow_peer_that_reads_is_not_left(pool: ThreadPoolExecutor) -> None:
    """As long as some bytes go through, a full socket is not an error (the control of the test above)."""
    dialer = ScriptedDialer(buffer=8192)
    answering = pool.submit(welcomed, dialer)
    settings: dict[str, Any] = {"wire": Wire(write_timeout=0.4), "keepalive": Keepalive(interval=60)}
    client = dialer.connect(ONE, stream="out", retry=FAST, **settings)
    peer = answering.result(SOON)
    for _ in range(20):
        client.send("x" * 5000)
    got = 0
    while got < 20:
        got += len(peer.expect(Batch).payloads)
        threading.Event().wait(0.05)
    peer.send(acked(20))
    client.flush(SOON)
    assert len(dialer.dials) == 1
    client.close()
    dialer.close()


def test_garbage_is_answered_and_survived(opened: Any, dialer: ScriptedDialer) -> None:
    """A message that no rule allows ends the connection with a close code; what came before it counts, it goes on."""
    client, peer = opened()
    peer.send(data(1, "a"))
    peer.say("{nonsense")
    with pytest.raises(EOFError):
        peer.expect(Pong)
    assert peer.closed is not None
    assert peer.closed[0] == 4400
    again = dialer.accept()
    assert again.welcome().streams[0].held.offset == 1  # type: ignore[union-attr]
    again.send(data(2, "b"))
    assert [client.recv(SOON).data, client.recv(SOON).data] == ["a", "b"]


def test_X8_failing_codec_is_a_lost_connection(
    opened: Any, dialer: ScriptedDialer, caplog: pytest.LogCaptureFixture
) -> None:
    """A dialect with a bug ends the connection, not the reading thread; the bug is in the log."""

    @attrs.frozen
    class Broken(WithoutCredit):
        def client(self) -> Any:
            codec = Native().client()
            broken = iter([True])
            decode = codec.decode

            class Codec:
                failure = None
                encode = staticmethod(codec.encode)

                def decode(self, messages: Any) -> Any:
                    items = decode(messages)
                    if any(isinstance(item, Batch) for item in items) and len(dialer.dials) == 1 and next(broken):
                        raise ZeroDivisionError
                    return items

            return Codec()

    client, peer = opened(dialect=Broken())
    peer.send(data(1, "a"))
    again = welcomed(dialer)
    again.send(data(1, "a"))
    assert client.recv(SOON).data == "a"
    assert any(record.message == "resilient_ws.decoding_failed" for record in caplog.records)


def test_X8_failing_encoder_is_a_lost_connection(
    opened: Any, dialer: ScriptedDialer, caplog: pytest.LogCaptureFixture
) -> None:
    """An encoder with a bug costs the connection, not the thread that sends; the message goes out on the next one."""

    @attrs.frozen
    class Broken(WithoutCredit):
        def client(self) -> Any:
            codec = Native().client()
            encode = codec.encode

            class Codec:
                failure = None
                decode = staticmethod(codec.decode)

                def encode(self, items: Any) -> Any:
                    if any(isinstance(item, Batch) for item in items) and len(dialer.dials) == 1:
                        raise ZeroDivisionError
                    return encode(items)

            return Codec()

    client, _ = opened(dialect=Broken())
    receipt = client.send("a")
    again = welcomed(dialer)
    assert again.expect(Batch).payloads == ["a"]
    again.send(acked(1))
    receipt.result(SOON)
    assert any(record.message == "resilient_ws.encoding_failed" for record in caplog.records)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted by /proc")
def test_T16_descriptors_and_threads_stay_flat(opened: Any, dialer: ScriptedDialer) -> None:
    """Hundreds of reconnects, with the user reading or not, leave no descriptor, no thread and no selector behind."""

    def count() -> tuple[int, int]:
        until(lambda: not any(thread.name == "resilient_ws-dial" for thread in threading.enumerate()))
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    client, peer = opened()
    offset, before = 0, (0, 0)
    for i in range(200):
        if i == 10:
            before = count()
        peer.cut()
        peer = dialer.accept()
        peer.welcome()
        if i % 2:
            offset += 1
            peer.send(data(offset, "x"))
            assert client.recv(SOON).offset == offset
    until(lambda: count() <= before)
    assert client.stats()["connects"] == 201


# -- subscriptions ----------------------------------------------------------------------------------------------------


def test_so_many_streams_are_subscribed_and_no_more(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no hello could name is refused at once, not at the next reconnect; the session goes on."""
    monkeypatch.setattr("resilient_ws.inbox.MOST_STREAMS", 2)
    with pytest.raises(ValueError, match="'c': one Client subscribes to 2 at most"):
        resilient_ws.connect(ONE, subscribe=["a", "b", "c"])
    client, peer = opened(subscribe=["a"])
    for stream in "bc":
        with pytest.raises(TimeoutError if stream == "b" else ValueError):
            client.subscribe(stream, timeout=0.01)
    client.unsubscribe("b")
    with pytest.raises(TimeoutError):
        client.subscribe("c", timeout=0.01)
    peer.send(acked(client.send("x").seq))
    client.flush(SOON)


def test_subscribe_returns_when_answered(opened: Any, pool: ThreadPoolExecutor) -> None:
    """subscribe() returns with the server's answer, raises what was refused, and gives up waiting in time."""
    from resilient_ws import frames

    client, peer = opened(subscribe=())

    def answer(**fields: Any) -> None:
        asked = peer.expect(frames.Subscribe)
        peer.send(frames.Subscribed(answer=frames.StreamAnswer(stream=asked.stream, id=asked.id, **fields)))

    answering = pool.submit(answer, epoch="e", first=5, live=4)
    client.subscribe("t", Position("e", 4))
    answering.result(SOON)
    assert client.position("t") == Position("e", 4)
    peer.send(Batch("t", 5, ["a"]))
    assert client.recv(SOON).data == "a"

    answering = pool.submit(answer, error=frames.Error(code="forbidden"))
    with pytest.raises(resilient_ws.ResilientWSError, match="forbidden"):
        client.subscribe("u", "earliest")
    answering.result(SOON)
    with pytest.raises(TimeoutError, match="no answer"):
        client.subscribe("v", timeout=0.01)
    client.unsubscribe("v")
    assert client.position("v") is None
    assert peer.expect(frames.Unsubscribe).stream == "v"
    with pytest.raises(ValueError, match="later"):
        client.subscribe("t", "later")


def test_unsubscribed_messages_are_dropped(opened: Any) -> None:
    """After unsubscribe() nothing of the stream comes any more, what was received or taken ahead included."""
    client, peer = opened(subscribe=["s", "t"])
    peer.send(data(1, *["x"] * 40), Batch("t", 1, ["y"]))
    until(lambda: client.stats()["inbox"][0] == 41)
    for _ in range(5):
        assert client.recv(SOON).stream == "s"
    client.unsubscribe("s")
    assert client.recv(SOON).stream == "t"
    with pytest.raises(TimeoutError):
        client.recv(0)


# -- ending -----------------------------------------------------------------------------------------------------------


def test_close_releases_every_waiting_thread(opened: Any, pool: ThreadPoolExecutor) -> None:
    """A close() from another thread ends recv(), the loop, flush(), a blocked send() and a receipt's result()."""
    client, _ = opened(outbox=Outbox(max_messages=1))
    receipt = client.send("a")
    loop = pool.submit(list, client)
    calls = [pool.submit(client.recv), pool.submit(client.recv_many), pool.submit(client.send, "b")]
    flush, result = pool.submit(client.flush), pool.submit(receipt.result)
    until(lambda: client.stats()["receivers"] == 3)
    started = time.monotonic()
    client.close()
    assert loop.result(SOON) == []
    for call in calls:
        with pytest.raises(SessionClosed):
            call.result(SOON)
    for call in (flush, result):
        with pytest.raises(Undelivered) as caught:
            call.result(SOON)
        assert caught.value.pending == {"out": (1, 1)}
    assert time.monotonic() - started < 3


def test_T15_close_is_bounded(opened: Any) -> None:
    """A peer that never answers the close frame holds close() up for a moment only, and its socket is released."""
    client, peer = opened()
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 2
    until(lambda: peer.transport.calls[-1] == "release")
    peer.expect(Bye)
    with pytest.raises(EOFError):
        peer.expect(Bye)
    assert peer.closed == (1000, "")


def test_close_is_quick_where_the_peer_answers(opened: Any, pool: ThreadPoolExecutor) -> None:
    """With an answer to the close frame close() returns at once."""
    client, peer = opened()

    def answer() -> None:
        peer.expect(Bye)
        with pytest.raises(EOFError):
            peer.expect(Bye)
        peer.close()

    answering = pool.submit(answer)
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 0.5
    answering.result(SOON)


def test_bye_ends_the_loop(opened: Any) -> None:
    """The server's bye ends the loop after what came before it; recv() then says that the session is closed."""
    client, peer = opened()
    peer.send(data(1, "a"), Bye())
    assert [m.data for m in client] == ["a"]
    with pytest.raises(SessionClosed):
        client.recv()


def test_fatal_error_is_raised_by_the_loop(opened: Any) -> None:
    """A close code that is final comes out of the loop as its error, each time."""
    client, peer = opened()
    peer.close(4403, "forbidden")
    for _ in range(2):
        with pytest.raises(AccessDenied, match="4403"):
            next(iter(client))
    with pytest.raises(AccessDenied):
        client.send("a")


@pytest.mark.parametrize("end", [Client.close, Client.end_session, lambda client: client.__exit__(None, None, None)])
def test_the_end_of_a_client_is_the_end_of_its_session(opened: Any, end: Callable[[Client], None]) -> None:
    """Nobody else has its token, so the server is told to forget the session; a Client dropped open says nothing."""
    client, peer = opened()
    end(client)
    assert isinstance(peer.expect(Bye), Bye)


def test_drain_sends_the_rest_and_ends(opened: Any, pool: ThreadPoolExecutor) -> None:
    """drain() accepts nothing more, returns when all is committed, and the Client is closed."""
    client, peer = opened()
    client.send("a")
    with pytest.raises(TimeoutError):
        client.drain(0.01)
    with pytest.raises(SessionClosed, match="draining"):
        client.send("b")
    draining = pool.submit(client.drain)
    peer.send(acked(1))
    draining.result(SOON)
    with pytest.raises(SessionClosed):
        client.recv()


def test_with_block_flushes(opened: Any, pool: ThreadPoolExecutor) -> None:
    """Leaving a with block waits until everything is committed."""
    client, peer = opened()

    def serve() -> None:
        peer.expect(Batch)
        peer.send(acked(1))

    serving = pool.submit(serve)
    with client:
        receipt = client.send("a")
    assert receipt.done()
    serving.result(SOON)


def test_with_block_says_what_is_undelivered(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no ack in time is an error with numbers; after an exception in the block nothing is waited for."""
    monkeypatch.setattr("resilient_ws.client.EXIT_FLUSH_TIMEOUT", 0.05)
    client, _ = opened()

    def use(client: Client, *messages: str) -> None:
        with client:
            for message in messages:
                client.send(message)
            assert messages

    with pytest.raises(Undelivered) as caught:
        use(client, "a", "b")
    assert caught.value.pending == {"out": (1, 2)}
    monkeypatch.undo()
    other, _ = opened()
    started = time.monotonic()
    other.send("a")
    with pytest.raises(AssertionError):
        use(other)
    assert time.monotonic() - started < 0.5


def test_close_can_wait_for_acks(opened: Any, pool: ThreadPoolExecutor) -> None:
    """close(flush_timeout) waits that long for acks, and no longer."""
    client, peer = opened()
    receipt = client.send("a")
    closing = pool.submit(client.close, SOON)
    peer.expect(Batch)
    peer.send(acked(1))
    closing.result(SOON)
    receipt.result(0)


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_events_come_in_order(opened: Any, dialer: ScriptedDialer) -> None:
    """on_event gets every event in order, in a thread that is not the caller's."""
    seen: list[Any] = []
    threads = set()

    def on_event(event: Any) -> None:
        threads.add(threading.get_ident())
        seen.append(type(event).__name__)

    client, peer = opened(on_event=on_event)
    peer.cut()
    welcomed(dialer)
    client.close()
    until(lambda: "Ended" in seen)
    assert " ".join(seen) == (
        "Connecting Connected ConnectionEnded RetryScheduled Connecting Connected Resumed Ended"
    )
    assert threading.get_ident() not in threads


def test_A3_failing_event_callback_is_logged(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is in the log with its traceback, and the next event reaches it all the same."""
    seen: list[Any] = []

    def on_event(event: Any) -> None:
        seen.append(event)
        raise ZeroDivisionError("mine")

    client, _ = opened(on_event=on_event)
    client.close()
    until(lambda: any(isinstance(event, events.Ended) for event in seen))
    until(lambda: sum(record.exc_info is not None for record in caplog.records) == len(seen))
    assert all("resilient_ws.callback_failed" in r.getMessage() for r in caplog.records if r.exc_info is not None)


def test_A4_callback_may_use_the_client(opened: Any) -> None:
    """A callback that sends, waits and closes does not lock anything up."""
    done = threading.Event()
    clients: list[Client] = []

    def on_event(event: Any) -> None:
        if isinstance(event, events.GapFound):
            with pytest.raises(TimeoutError):
                clients[0].send("from the callback").result(0.01)
            clients[0].close()
            done.set()

    client, peer = opened(on_event=on_event)
    clients.append(client)
    gap_then_data(peer)
    assert client.recv(SOON).data == "a"
    with pytest.raises((Gap, SessionClosed)):
        client.recv(SOON)
    assert done.wait(SOON)
    assert peer.expect(Batch).payloads == ["from the callback"]


def test_log_has_names_and_no_secrets(opened: Any, dialer: ScriptedDialer, caplog: pytest.LogCaptureFixture) -> None:
    """Records have a structured name and the event's fields; tokens and payloads are in none of them."""
    with caplog.at_level(logging.DEBUG, "resilient_ws"):
        client, peer = opened(access_token="canary-token", headers={"X-Key": "canary-header"})
        client.send("canary-payload")
        peer.send(data(1, "canary-payload"))
        client.recv(SOON)
        peer.close(1011, "oops")
        welcomed(dialer)
        until(lambda: any("resilient_ws.resumed" in record.getMessage() for record in caplog.records))
    ended = next(record for record in caplog.records if "resilient_ws.connection_ended" in record.getMessage())
    assert (ended.levelno, ended.resilient_ws_code) == (logging.WARNING, 1011)
    assert "canary" not in caplog.text


# -- processes and signals --------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, threading, time, warnings, gc, faulthandler
faulthandler.dump_traceback_later(40, exit=True)
import resilient_ws
from resilient_ws.testing import ScriptedDialer
from resilient_ws.frames import *
from resilient_ws.config import *
def welcomed(dialer):
    peer = dialer.accept(); peer.welcome(); peer.expect(); return peer
peers = []
dialer = ScriptedDialer()
def opened(**settings):
    answering = threading.Thread(target=lambda: peers.append(welcomed(dialer)))
    answering.start()
    client = dialer.connect(**{"subscribe": ["s"], "stream": "out", **settings})
    answering.join()
    return client, peers[-1]
def acked(seq):
    return Ack(committed=(SeqMark(0, "out", seq),))
"""


def run(body: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own."""
    command = [sys.executable, *flags, "-c", SCRIPT + body]
    return subprocess.run(command, capture_output=True, text=True, timeout=45, env=env(), check=False)


@pytest.mark.parametrize(
    "call",
    ["client.recv()", "next(client)", "client.recv_many()", "client.send('x')", "client.flush()", "receipt.result()"],
)
def test_X3_interrupt_comes_out_at_once(call: str) -> None:
    """Ctrl-C in a call that waits is a KeyboardInterrupt for the caller at once, and the Client works as before."""
    done = run(f"""
client, peer = opened(outbox=Outbox(max_messages=1))
receipt = client.send("a")
at = []
def interrupt():
    while client._driver._reader != main: time.sleep(0.001)
    at.append(time.monotonic()); os.kill(os.getpid(), signal.SIGINT)
main = threading.get_ident()
threading.Thread(target=interrupt).start()
try:
    {call}
except KeyboardInterrupt:
    took = time.monotonic() - at[0]
    assert took < 1, took
else:
    raise SystemExit("no interrupt")
peer.send(Batch("s", 1, ["b"]), acked(1))
assert client.recv(5).data == "b"
receipt.result(5)
client.send("c"); peer.send(acked(2)); client.flush(5)
client.close()
print("fine")
""")
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_X3_interrupt_of_a_waiting_thread_frees_no_lock_of_another() -> None:
    """Ctrl-C that comes when a woken thread is about to take the lock leaves that lock to the thread that has it."""
    done = run("""
client, peer = opened()
reader = threading.Thread(target=client.recv, args=(10,))
reader.start()
while client._driver._reader != reader.ident: time.sleep(0.001)
out = threading.Event()
def hold():
    while not client._driver._changed._waiting: time.sleep(0.001)
    with client._performer.lock:
        client._driver._changed.ring()
        time.sleep(0.2)  # now the main thread waits for the lock; there is nothing to be seen of that
        os.kill(os.getpid(), signal.SIGINT)
        assert out.wait(5)
        assert client._performer.lock.locked()
    print("kept")
holder = threading.Thread(target=hold)
try:
    holder.start()
    client.recv(10)
except KeyboardInterrupt:
    out.set()
holder.join()
peer.send(Batch("s", 1, ["a"]))
reader.join()
client.send("x"); peer.send(acked(1)); client.flush(5)
client.close()
print("fine")
""")
    assert (done.stdout, done.stderr) == ("kept\nfine\n", "")


def test_X3_interrupts_at_any_point_lose_nothing_silently() -> None:
    """
    Interrupts that hit an echo loop anywhere leave a Client that goes on exactly once, or that says it ended.

    A message may come again where the interrupt hit the return of recv(); none may be missing.
    """
    done = run("""
import random
from resilient_ws.exceptions import SessionClosed
import tenacity
TOTAL = 6000
state = {"committed": 0}
def serve():
    while True:
        try:
            peer = dialer.accept(30)
        except TimeoutError:
            return
        threading.Thread(target=serve_one, args=(peer,), daemon=True).start()
def serve_one(peer):
    try:
        hello = peer.expect(Hello, 10)
        held = hello.streams[0].held
        nxt = 1 if held is None else held.offset + 1
        known = {out.stream: out for out in hello.outbound}
        answers = ()
        if "out" in known:
            answers = (CommittedAnswer(producer=0, stream="out", seq=state["committed"], known=state["committed"] > 0),)
        peer.welcome(hello, committed=answers)
        peer.send(*[Batch("s", nxt, [str(i) for i in range(nxt, min(nxt + 50, TOTAL + 1))])] if nxt <= TOTAL else [])
        nxt = min(nxt + 50, TOTAL + 1)
        while True:
            batch = peer.expect(Batch, 10)
            if batch.first > state["committed"] + 1: peer.close(1012); return
            for i, payload in enumerate(batch.payloads):
                if batch.first + i == state["committed"] + 1: state["committed"] += 1
            new = batch.payloads
            peer.send(acked(state["committed"]))
            n = min(len(new), TOTAL + 1 - nxt)
            if n: peer.send(Batch("s", nxt, [str(i) for i in range(nxt, nxt + n)])); nxt += n
    except (EOFError, OSError, TimeoutError):
        pass
threading.Thread(target=serve, daemon=True).start()
last = 0
def decoder(payload):
    global last
    offset = int(payload)
    assert offset in (last, last + 1), (offset, last)
    last = offset
    return payload
client = dialer.connect(
    subscribe={"s": "earliest"}, stream="out", retry=Retry(wait=tenacity.wait_fixed(0.01), budget=None), decoder=decoder
)
rng = random.Random(5)
stop = threading.Event()
go = threading.Event()
def interrupt():
    go.wait()
    while not stop.wait(rng.uniform(0.001, 0.01)):
        os.kill(os.getpid(), signal.SIGINT)
hits = 0
deadline = time.monotonic() + 30
def loop():
    # An interrupt between the return of recv() and this loop's own note of it is the caller's to bear, so it is counted
    # from the other side: by what the decoder, which runs inside recv(), has seen.
    while last < TOTAL and time.monotonic() < deadline:
        client.recv(10)
        client.send("e")
thread = threading.Thread(target=interrupt)
ended = None
def once():
    global ended
    try:
        loop()
    except SessionClosed as error:
        ended = error
def until_done():
    global hits
    while ended is None and last < TOTAL and time.monotonic() < deadline:
        try:
            once()
        except KeyboardInterrupt:
            hits += 1
def guarded(call):
    while True:
        try:
            return call()
        except KeyboardInterrupt:
            pass
thread.start()
guarded(go.set)
guarded(until_done)
guarded(stop.set)
guarded(thread.join)
assert hits > 3, hits
assert ended is None or "interrupt" in str(ended), ended
assert ended is not None or last == TOTAL, (last, client.stats())
client.close()
print("fine")
""")
    assert (done.stdout, done.stderr) == ("fine\n", ""), done.stdout[-2000:]


def test_signal_handler_may_close() -> None:
    """A handler of SIGTERM that closes the Client ends the loop below it."""
    done = run("""
client, peer = opened()
signal.signal(signal.SIGTERM, lambda *_: client.close())
main = threading.get_ident()
def terminate():
    while client._driver._reader != main: time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=terminate).start()
assert list(client) == []
print("fine")
""")
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_X5_fork() -> None:
    """In a forked child the Client raises Forked and touches nothing; the parent goes on; the child may open one."""
    done = run(
        """
from resilient_ws.exceptions import Forked
client, peer = opened(on_event=lambda event: None)
receipt = client.send("a")
pid = os.fork()
if pid == 0:
    for call in (client.recv, lambda: client.send("b"), client.flush, client.stats, receipt.done, lambda: list(client)):
        try:
            call()
        except Forked:
            continue
        os._exit(1)
    client.close()
    del client; gc.collect()
    mine, my_peer = opened()
    my_peer.send(Batch("s", 1, ["child"]), Ping(echo="x"))
    my_peer.expect(Pong)
    assert mine.recv(5).data == "child"
    mine.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
peer.send(Batch("s", 1, ["parent"]), acked(1))
assert client.recv(5).data == "parent"
receipt.result(5)
assert client.stats()["connects"] == 1
client.close()
print("fine")
""",
        "-W",
        "ignore::DeprecationWarning",
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_X5_fork_while_locks_are_held() -> None:
    """Forks in the middle of traffic from other threads never leave a child that waits for a lock of ours."""
    done = run(
        """
from resilient_ws.exceptions import Forked
client, peer = opened(outbox=Outbox(max_messages=2000, policy="drop_oldest"))
stop = threading.Event()
def busy():
    while not stop.is_set():
        client.send("x")
def drain():
    try:
        while True: peer.expect()
    except (EOFError, OSError): pass
threading.Thread(target=drain, daemon=True).start()
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        try:
            client.send("y")
        except Forked:
            client.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
stop.set()
for thread in threads: thread.join()
client.close()
print("fine")
""",
        "-W",
        "ignore::DeprecationWarning",
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


@pytest.mark.parametrize(
    "body",
    [
        "client, peer = opened()",
        "client, peer = opened(); threading.Thread(target=client.recv, daemon=True).start(); time.sleep(0.1)",
        "client, peer = opened(); client.send('x'); sys.exit(0)",
        "client = dialer.connect(wait=False)",
        "import atexit\nclient, peer = opened()\natexit.register(client.close)",
        "class Held:\n    pass\nheld = Held(); held.me = held; held.client, peer = opened()",
    ],
    ids=["open", "receiving", "exit", "dialling", "atexit", "cycle"],
)
def test_X7_interpreter_ends_without_a_sound(body: str) -> None:
    """A program that ends with an open Client does not hang and prints no traceback."""
    started = time.monotonic()
    done = run(body + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 20


def test_X7_client_that_is_dropped_open_warns_and_closes(dialer: ScriptedDialer, pool: ThreadPoolExecutor) -> None:
    """A Client that is collected while open gives a ResourceWarning, and its connection is closed and released."""
    answering = pool.submit(welcomed, dialer)

    class Service:
        """Holds the Client and is its on_event: a cycle, and as common as can be."""

        client: Client

        def on_event(self, event: Any) -> None: ...

    service = Service()
    service.client = dialer.connect(subscribe=["s"], on_event=service.on_event)
    peer = answering.result(SOON)
    peer.send(data(1, *"abc"))
    assert service.client.recv(SOON).data == "a"
    del service
    with pytest.warns(ResourceWarning, match=r"unclosed <resilient_ws.Client live") as warned:
        until(lambda: gc.collect() >= 0 and len(warned) > 0)  # the dispatcher may still have an event for it
    with pytest.raises(EOFError):
        peer.expect(Bye)
    until(lambda: peer.transport.calls[-1] == "release")


def test_closed_client_does_not_warn(opened: Any) -> None:
    """Collecting a Client that was closed says nothing (the control of the test above)."""
    client, _ = opened()
    client.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.__del__()


def test_forked_is_an_error_of_its_own() -> None:
    """The error says what to do."""
    assert issubclass(Forked, resilient_ws.SessionError)
    assert not Forked("x").retryable


def test_failover_settings_reach_the_session(opened: Any, dialer: ScriptedDialer) -> None:
    """An endpoint that is ejected is left out while another one is there."""
    _, peer = opened([ONE, TWO], failover=Failover(eject_after=1, ejection=60))
    peer.cut()
    assert welcomed(dialer).url != peer.url


def test_X3_is_a_real_signal() -> None:
    """The platform of these tests delivers SIGINT as KeyboardInterrupt (what the tests above rest on)."""


    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(1)

    with pytest.raises(KeyboardInterrupt):
        interrupt()


@pytest.mark.parametrize("decoder", [None, lambda text: f"<{text}>"])
def test_an_interrupt_of_recv_many_loses_nothing(opened: Any, decoder: Any) -> None:
    """Before whichever line Ctrl-C comes: what the call had gathered is given by the next, in order, decoded once."""
    expected = [f"<m{i}>" if decoder else f"m{i}" for i in range(2, 6)]
    for line in range(1, 200):
        client, peer = opened(decoder=decoder)
        client._receivers._limit = 64  # so that all of them are taken ahead by the first call
        peer.send(data(1, *(f"m{i}" for i in range(1, 6))))
        client.recv(SOON)
        first = interrupted_before(line, functools.partial(client.recv_many, 3, SOON))
        assert client.position("s").offset in (0, 1), "what nobody is done with is not acked"
        found = [message.data for message in first or ()]
        while len(found) < len(expected):
            found += [message.data for message in client.recv_many(10, SOON)]
        assert found == expected, f"interrupted before line event {line}"
        peer.cut()
        client.close()
        if first is not None:
            assert line > 20, "nothing was interrupted"
            return


def interrupted_before(event: int, call: Callable[[], Any]) -> Any:
    """Call with a Ctrl-C before the so-manieth line of ``receiving.py``; None where it came.

    Not between the end of a ``with`` and its exit, where Python delivers no signal.
    """
    seen = itertools.count(1)

    def trace(frame: Any, kind: str, argument: object) -> Any:
        if frame.f_code.co_filename != receiving.__file__ or frame.f_code.co_name == "_put_all_back":
            return None
        within = linecache.getline(receiving.__file__, frame.f_lineno).lstrip()
        if kind == "line" and not within.startswith("with ") and next(seen) == event:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return call()
    except KeyboardInterrupt:
        return None
    finally:
        sys.settrace(before)
