"""The whole Client against a broken network: TCP faults and slow consumers; ids are those of the fault catalogue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import tenacity

from resilient_ws import Client, ConnectTimeout, Inbox, Keepalive, Retry, Wire, connect
from resilient_ws.frames import Batch, KeepaliveAdvice, Ping, Pong
from server_fixture.link import Carried
from server_fixture.rude import Caller, RudeServer, accept_upgrade, close_frame, frame
from tests.fault_server import Line, Model, framed, numbers, opened, proxied, quick, taken, url_of
from tests.transport_tools import PATIENCE, black_hole, closed_port

pytestmark = pytest.mark.faults

#: Notices a silent peer in half a second.
ALERT = Keepalive(interval=0.1, timeout=0.4, min_timeout=0.1)


def closed_url() -> str:
    """Give the URL of a port at which nobody listens."""
    return f"ws://127.0.0.1:{closed_port()}/"


# -- connecting -------------------------------------------------------------------------------------------------------


def test_T1_refused_goes_on_to_the_next_endpoint() -> None:
    """A refused endpoint costs no more than a moment where another one answers."""
    started = time.monotonic()
    with RudeServer(Model("a").serve) as server:
        for _ in range(5):  # the endpoints are shuffled
            with opened(closed_url(), server.url) as client:
                assert taken(client, 1) == ["a"]
    assert time.monotonic() - started < PATIENCE


def test_T1_refused_everywhere_ends_with_the_reason() -> None:
    """Where nobody answers, connect() tries until its time is over, and says what the last attempt met."""
    started = time.monotonic()
    with pytest.raises(
        ConnectTimeout, match=r"2 endpoints within open_timeout=0\.3 s; .*refused.*running there\?"
    ) as caught:
        connect([closed_url(), closed_url()], open_timeout=0.3)
    assert 0.3 <= time.monotonic() - started < 3.0
    assert caught.value.retryable


def test_T1_a_session_outlives_a_server_that_is_away() -> None:
    """While the port is closed the session waits, keeps what is sent, and goes on when the port is open again."""
    model = Model("a")
    with RudeServer(model.serve) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        assert taken(client, 1) == ["a"]
        proxy.refuse()
        proxy.cut_all()
        receipt = client.send("kept")
        for call in (client.recv, client.flush, receipt.result):
            with pytest.raises(TimeoutError, match=r"no connection at present, attempts go on; .*refused"):
                call(timeout=0.2)
        with pytest.raises(TimeoutError, match=r"'x': no answer yet; .* \(there is no connection"):
            client.subscribe("x", timeout=0.2)
        client.unsubscribe("x")
        assert not receipt.done()
        model.log.append("b")
        proxy.accept()
        assert taken(client, 1) == ["b"]
        receipt.result(PATIENCE)
        assert model.received == ["kept"]


def test_T2_black_hole_costs_one_connect_timeout() -> None:
    """An endpoint that swallows the SYN is given up after connect_timeout, and the next one is dialled."""
    retry = Retry(wait=tenacity.wait_none(), connect_timeout=0.3)
    started = time.monotonic()
    with black_hole() as port, RudeServer(Model("a").serve) as server:
        for _ in range(4):
            with opened(f"ws://127.0.0.1:{port}/", server.url, retry=retry) as client:
                assert taken(client, 1) == ["a"]
    assert time.monotonic() - started < PATIENCE


def test_T2_a_session_that_was_never_open_says_so() -> None:
    """Without a connection yet, a call that waited in vain says what the first one waits for; with one, nothing."""
    with black_hole() as port, opened(f"ws://127.0.0.1:{port}/", wait=False) as client:
        with pytest.raises(TimeoutError, match=r"goes on \(there is no connection .* no answer yet to name"):
            client.recv(0.1)
    with RudeServer(Model().serve) as server, opened(server.url) as client:
        with pytest.raises(TimeoutError, match=r"the session goes on$"):
            client.recv(0.1)


def test_T2_black_hole_alone_says_what_was_waited_for() -> None:
    """connect() returns at its own deadline although an attempt would go on, and says what it waited for."""
    started = time.monotonic()
    with black_hole() as port, pytest.raises(ConnectTimeout, match="no answer yet to name lookup, TCP"):
        connect(f"ws://127.0.0.1:{port}/", open_timeout=0.3)
    assert time.monotonic() - started < 3.0


# -- losing -----------------------------------------------------------------------------------------------------------


def exchange(client: Client, model: Model, first: int, count: int = 5) -> None:
    """Send and receive some messages in both directions, the two halves of a test with a fault between them."""
    for payload in numbers(count, first):
        client.send(payload)
    assert taken(client, count) == numbers(count, first)
    client.flush(PATIENCE)
    assert model.received == numbers(first + count - 1)


@pytest.mark.parametrize("fault", [Carried.reset, Carried.cut], ids=["T4_reset", "T5_fin"])
def test_T4_T5_lost_in_mid_stream(fault: Callable[[Carried], None]) -> None:
    """A connection that is reset or ended while data is under way is replaced; nothing is lost, nothing comes twice."""
    model = Model(*numbers(5))
    with RudeServer(model.serve) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        exchange(client, model, 1)
        proxy.carried[0].s2c.stall()
        pending = [client.send(payload) for payload in numbers(5, 6)]
        assert model.wait_for(lambda model: len(model.received) == 10)  # stored, and the acks are held back
        assert not any(receipt.done() for receipt in pending)
        model.log += numbers(5, 6)
        fault(proxy.carried[0])
        assert taken(client, 5) == numbers(5, 6)
        client.flush(PATIENCE)
        assert model.received == numbers(10)
        assert all(receipt.done() for receipt in pending)
        assert client.stats()["resumes"] == 1


def test_T5_fin_in_the_middle_of_a_frame() -> None:
    """Half a message is dropped with its connection; the whole one comes over the next."""
    model = Model("first")

    def half(line: Line) -> None:
        model.log.append("second")
        line.caller.send(framed("s:2:second")[:-3])

    with RudeServer([model.then(half), model.serve]) as server, opened(server.url) as client:
        assert taken(client, 2) == ["first", "second"]
        assert client.stats()["duplicates_dropped"] == 0


@pytest.mark.parametrize("directions", [("c2s", "s2c"), ("c2s",), ("s2c",)], ids=["T6_both", "T7_c2s", "T7_s2c"])
def test_T6_T7_silence_is_noticed(directions: tuple[str, ...]) -> None:
    """A path that carries nothing, in one direction or both, is given up within interval + timeout of the keepalive."""
    model = Model(*numbers(5))
    with RudeServer(model.serve) as server, proxied(server) as proxy:
        with opened(url_of(proxy), keepalive=ALERT) as client:
            exchange(client, model, 1)
            for direction in directions:
                getattr(proxy.carried[0], direction).stall()
            started = time.monotonic()
            model.log += numbers(5, 6)
            exchange(client, model, 6)
            assert 0.4 <= time.monotonic() - started < 4.0
            assert len(proxy.carried) == 2


def test_T6_an_unanswered_send_finds_the_silence_at_once() -> None:
    """With pings 20 s apart: what was sent is asked about after 0.25 s, and a second later the path is given up."""
    model = Model()
    with RudeServer(model.serve) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        client.send("1").result(PATIENCE)
        proxy.carried[0].stall()
        started = time.monotonic()
        client.send("2").result(PATIENCE)
        assert 1.0 <= time.monotonic() - started < 3.0
        assert (len(proxy.carried), model.received) == (2, ["1", "2"])


def test_T9_a_slow_upload_is_not_given_up() -> None:
    """A ping that waits behind much has the whole timeout: a path that is slow and alive stays."""
    model = Model(keepalive=KeepaliveAdvice(interval=0.3, timeout=20.0))
    with RudeServer(model.serve) as server, proxied(server) as proxy, opened(url_of(proxy)) as client:
        client.send("1").result(PATIENCE)
        proxy.carried[0].c2s.stall()
        receipt = client.send("x" * 500_000)
        with pytest.raises(TimeoutError):
            receipt.result(2.5)
        proxy.carried[0].heal()
        receipt.result(PATIENCE)
        assert len(proxy.carried) == 1


def test_T7_a_server_that_speaks_and_never_hears_is_left() -> None:
    """Life of the other side is no proof that it hears us: what waits for an answer too long ends the connection."""
    model = Model()
    quiet = threading.Event()

    def speak(line: Line) -> None:
        while not quiet.wait(0.02):
            line.caller.send(framed('{"type":"ping","echo":"1"}'))

    with RudeServer([model.then(speak), model.serve]) as server, opened(server.url, keepalive=ALERT) as client:
        client.send("heard").result(PATIENCE)
        quiet.set()
        assert model.received == ["heard"]


def test_T6_control_a_slow_path_is_not_given_up() -> None:
    """A path that is slow and alive stays, for longer than a silent one would."""
    model = Model()
    with RudeServer(model.serve) as server, proxied(server) as proxy:
        with opened(url_of(proxy), keepalive=ALERT) as client:
            proxy.carried[0].s2c.delay(0.15)
            for number in range(8):
                client.send(str(number)).result(PATIENCE)
            assert len(proxy.carried) == 1


def test_T11_peer_that_stops_reading() -> None:
    """A connection whose peer takes nothing is dead after write_timeout; all goes out over the next one, once."""
    model = Model(keepalive=quick(60, 60))
    payloads = [f"{number}:" + "x" * 100_000 for number in range(100)]

    def unmoved(line: Line) -> None:
        line.caller.server.stopping.wait()

    with RudeServer([model.then(unmoved), model.serve]) as server:
        with opened(server.url, wire=Wire(write_timeout=0.3)) as client:
            started = time.monotonic()
            for payload in payloads:
                client.send(payload)
            client.flush(PATIENCE)
            assert time.monotonic() - started >= 0.3
            assert model.received == payloads


def closing(*parts: bytes) -> Callable[[Line], None]:
    """Say goodbye in one way or another, and keep the TCP connection for ever."""

    def act(line: Line) -> None:
        line.caller.send(*parts)
        line.caller.server.stopping.wait()

    return act


@pytest.mark.parametrize("said", [close_frame(1012, "restart"), frame(3)], ids=["close", "broken_rule"])
def test_T15_server_that_never_ends_its_tcp(said: bytes) -> None:
    """A close frame, or a broken rule, ends the connection for us at once, whatever the server does with its TCP."""
    model = Model("a")
    with RudeServer([model.then(closing(said)), model.serve]) as server, opened(server.url) as client:
        started = time.monotonic()
        model.log.append("b")
        assert taken(client, 2) == ["a", "b"]
        client.send("c").result(PATIENCE)
        assert time.monotonic() - started < 0.8  # LEAVE_TIMEOUT is 1 s: nobody waited for it


def test_T15_close_is_bounded() -> None:
    """close() waits a second or so for the answer to its close frame, and no longer."""
    model = Model()
    with RudeServer(model.then(closing())) as server:
        with opened(server.url) as client:
            started = time.monotonic()
            client.close()
            assert 0.5 < time.monotonic() - started < 4.0


# -- slow consumers ---------------------------------------------------------------------------------------------------


def test_A1_slow_consumer_stays_bounded_and_alive() -> None:
    """A consumer that takes nothing for three keepalive timeouts keeps its connection, and no more than its inbox."""
    total, most = 200, 16
    model = Model(*numbers(total), keepalive=quick(60, 60))
    heard = threading.Event()
    stats: list[int] = []

    def feed(caller: Caller) -> None:
        accept_upgrade(caller)
        line = model.enter(caller, with_log=False)
        credit, given, pongs = most, 0, 0
        for item in line.heard():
            news = model.log[given:credit]
            answer = [Pong(echo=item.echo)] if isinstance(item, Ping) else []
            line.say(*[Batch("s", given + 1, news)] if news else [], *answer, Ping(echo=str(pongs)))
            given += len(news)
            credit = max(credit, getattr(getattr(item, "credit", None), "messages", 0))
            pongs += isinstance(item, Pong)
            if pongs == 75:
                heard.set()
            caller.server.stopping.wait(0.02)  # the pace of the pings: 75 of them are three times the timeout

    with RudeServer(feed) as server, opened(server.url, keepalive=ALERT, inbox=Inbox(max_messages=most)) as client:
        assert heard.wait(PATIENCE)
        stats.append(client.stats()["inbox"][0])
        assert taken(client, total) == numbers(total)
        assert client.stats()["connects"] == 1
    assert stats == [most]
    assert server.errors == []
