"""The whole Client against names and addresses that fail, looked up by the system's own resolver in a network apart."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tenacity

from resilient_ws import Client, ConnectTimeout, Keepalive, Retry, Wire, connect, events
from resilient_ws.exceptions import HandshakeRejected, SessionClosed
from server_fixture.rude import Caller, RudeServer, upgrade_never
from tests.apart import apart, ip, run_apart
from tests.fault_server import Model, opened, proxied, taken
from tests.name_server import NXDOMAIN, SERVFAIL, NameServer
from tests.transport_tools import PATIENCE, black_hole, certified, dialled

pytestmark = pytest.mark.faults

STAGGER = 0.25
#: What a connect costs beside the staggers, on a machine that does other things too.
SLACK = 1.0
PORT = 4000
NAME = "server.test"
URL = f"ws://{NAME}:{PORT}/"
PLAIN = Wire(allow_plaintext=True)


def found(*addresses: str) -> list[str]:
    """Give the addresses of the name in the order in which the system gives them; they are those that were said."""
    order = [str(info[4][0]) for info in socket.getaddrinfo(NAME, PORT, type=socket.SOCK_STREAM)]
    assert sorted(order) == sorted(addresses)
    return order


def serving(model: Model, host: str) -> RudeServer:
    """Serve at an address, at the port that the URL names."""
    return RudeServer(model.serve, host=host, port=PORT)


def connected_in() -> float:
    """Connect by name, and give the seconds that it took."""
    started = time.monotonic()
    with opened(URL, wire=PLAIN):
        return time.monotonic() - started


# -- a network apart --------------------------------------------------------------------------------------------------


@apart()
def test_names_are_looked_up_by_the_system_at_the_server_of_the_test() -> None:
    """Both kinds are asked for, nothing is kept, and no other network is there."""
    with NameServer("127.0.0.2", "::1") as names:
        assert found("127.0.0.2", "::1") == ["::1", "127.0.0.2"]
        assert sorted(names.asked) == [(NAME, 1), (NAME, 28)]
        names.say("127.0.0.3")
        found("127.0.0.3")
    assert [name for _, name in socket.if_nameindex()] == ["lo"]


def broken(what: str) -> None:
    """Fail in the child."""
    raise ValueError(what)


@apart()
def test_what_the_body_raises_is_the_failure() -> None:
    """The control of all that follow: a body that fails does not pass, and its traceback is there."""
    told = run_apart(broken, {"what": "planted"})
    assert told.returncode == 1
    assert "ValueError: planted" in told.stderr
    assert "what = 'planted'" in told.stderr


# -- D1: the resolver says no -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [NXDOMAIN, SERVFAIL])
@apart()
def test_D1_a_session_outlives_a_name_that_is_away(code: int) -> None:
    """While a reconnect finds no such name the session tries on, and goes on where it was when the name is back."""
    model = Model("a")
    with NameServer("127.0.0.1") as names, RudeServer(model.serve) as server, proxied(server) as proxy:
        with opened(f"ws://{NAME}:{proxy.port}/", wire=PLAIN) as client:
            assert taken(client, 1) == ["a"]
            names.fail(code)
            proxy.cut_all()
            receipt = client.send("kept")
            model.log.append("b")
            names.wait_asked(6)
            with pytest.raises(TimeoutError, match=r"attempts go on; .*name has no address"):
                client.flush(0.2)
            assert not receipt.done()
            names.say("127.0.0.1")
            assert taken(client, 1) == ["b"]
            receipt.result(PATIENCE)
            assert (model.received, len(proxy.carried), client.stats()["resumes"]) == (["kept"], 2, 1)


@apart()
def test_D1_a_name_that_never_was_is_said() -> None:
    """Before the first connection it is the same: connect() tries until its time is over, and says why it failed."""
    with NameServer() as names:
        names.fail(NXDOMAIN)
        with pytest.raises(ConnectTimeout, match=r"server\.test.*the name has no address"):
            connect(URL, open_timeout=0.5, wire=PLAIN)
        assert len(names.asked) >= 2


# -- D2: the resolver says nothing ------------------------------------------------------------------------------------


@apart("timeout:2 attempts:1")
def test_D2_silence_of_the_resolver_holds_nobody() -> None:
    """While a lookup blocks connect() keeps its deadline, close() returns at once, and who waits is let go."""
    with NameServer() as names:
        names.fail(None)
        started = time.monotonic()
        with pytest.raises(ConnectTimeout, match="name"):
            connect(URL, open_timeout=0.5, wire=PLAIN)
        assert 0.5 <= time.monotonic() - started < 0.5 + SLACK

        client = connect(URL, wait=False, wire=PLAIN)
        names.wait_asked(2)
        ended: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        waiting = threading.Thread(target=lambda: ended.put(failure_of(client)))
        waiting.start()
        started = time.monotonic()
        client.close()
        assert isinstance(ended.get(timeout=SLACK), SessionClosed)
        assert time.monotonic() - started < SLACK

        started = time.monotonic()  # the control: such a lookup blocks for much longer than that
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo(NAME, PORT)
        assert time.monotonic() - started > 1.5


@apart("timeout:2 attempts:1")
def test_D2_connect_timeout_holds_over_the_lookup() -> None:
    """A dial is over when its own time is, with its thread, and not when the lookup is."""
    with NameServer() as names:
        names.fail(None)
        started = time.monotonic()
        with pytest.raises(ConnectTimeout, match="resolving the name"):
            with dialled(URL, connect_timeout=0.3, allow_plaintext=True):
                pass
        assert 0.3 <= time.monotonic() - started < 0.3 + SLACK


def failure_of(client: Client) -> BaseException:
    """Receive, and give what that raised."""
    with pytest.raises(Exception) as caught:
        client.recv(PATIENCE)
    return caught.value


@apart("timeout:20 attempts:1")
def test_D2_an_endpoint_by_address_is_used_after_the_stagger() -> None:
    """Where the name of one endpoint cannot be looked up, another one costs 250 ms, whichever is first."""
    model = Model("a")
    with NameServer() as names, RudeServer(model.serve) as server:
        names.fail(None)
        took = []
        while not names.asked and len(took) < 40:  # the endpoints are shuffled
            started = time.monotonic()
            with opened(URL, server.url, wire=PLAIN) as client:
                took.append(time.monotonic() - started)
                assert taken(client, 1) == ["a"]
        assert STAGGER * 0.9 < took[-1] < STAGGER + SLACK


# -- D3: the address changes ------------------------------------------------------------------------------------------


@apart()
def test_D3_the_next_attempt_goes_where_the_name_leads_by_then() -> None:
    """No address is kept from one attempt to the next."""
    model = Model("a")
    with NameServer("127.0.0.2") as names, serving(model, "127.0.0.2") as old, serving(model, "127.0.0.3") as new:
        with opened(URL, wire=PLAIN) as client:
            assert taken(client, 1) == ["a"]
            assert (old.connections, new.connections) == (1, 0)
            names.say("127.0.0.3")
            model.log.append("b")
            old.stop()
            assert taken(client, 1) == ["b"]
            client.send("there").result(PATIENCE)
            assert (old.connections, new.connections, client.stats()["resumes"]) == (1, 1, 1)
        assert model.received == ["there"]


@apart()
def test_D3_control_while_the_name_leads_to_the_old_address_nobody_goes_elsewhere() -> None:
    """The new address is used because the name says so, and not otherwise."""
    model = Model("a")
    with NameServer("127.0.0.2") as names, serving(model, "127.0.0.2") as old, serving(model, "127.0.0.3") as new:
        with opened(URL, wire=PLAIN) as client:
            assert taken(client, 1) == ["a"]
            old.stop()
            names.wait_asked(6)
            assert new.connections == 0


# -- D4, D5: some addresses are dead ----------------------------------------------------------------------------------


def seconds_to_connect(addresses: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """Measure in turn with the first address a black hole, and with the name leading to the good one alone."""
    with_dead, without = [], []
    with NameServer(*addresses) as names:
        dead, good = found(*addresses)
        with black_hole(dead, PORT), serving(Model(), good) as server:
            for _ in range(rounds):
                names.say(*addresses)
                with_dead.append(connected_in())
                names.say(good)
                without.append(connected_in())
            assert server.connections == 2 * rounds
    return with_dead, without


def measure(addresses: list[str], rounds: int) -> dict[str, float]:
    """Give what a dead first address costs, in milliseconds: a function for the command line of apart.py."""
    costs = sorted(1000 * (dead - good) for dead, good in zip(*seconds_to_connect(addresses, rounds), strict=True))
    return {"rounds": rounds, "median_ms": round(statistics.median(costs), 1), "max_ms": round(costs[-1], 1)}


@pytest.mark.parametrize(
    "addresses", [("127.0.0.2", "127.0.0.3"), ("::1", "127.0.0.1")], ids=["D4_two_of_IPv4", "D5_IPv6_and_IPv4"]
)
@apart()
def test_D4_D5_a_dead_address_costs_the_stagger(addresses: list[str]) -> None:
    """A first address that swallows the SYN is passed after 250 ms; without it nothing is waited for."""
    with_dead, without = seconds_to_connect(addresses, 3)
    assert all(STAGGER * 0.9 < seconds < STAGGER + SLACK for seconds in with_dead)
    assert min(without) < STAGGER * 0.9


@pytest.mark.parametrize(
    "addresses", [("127.0.0.2", "127.0.0.3"), ("::1", "127.0.0.1")], ids=["D4_two_of_IPv4", "D5_IPv6_and_IPv4"]
)
@apart()
def test_D4_D5_control_without_a_good_address_it_costs_all_the_time(addresses: list[str]) -> None:
    """Where every address is dead connect() returns at its deadline."""
    with NameServer(*addresses), black_hole(addresses[0], PORT), black_hole(addresses[1], PORT):
        started = time.monotonic()
        with pytest.raises(ConnectTimeout):
            connect(URL, open_timeout=0.8, wire=PLAIN)
        assert time.monotonic() - started >= 0.8


@apart()
def test_D4_dead_then_hung_then_good_costs_two_staggers() -> None:
    """One address swallows the SYN, one never answers the upgrade: the third is there after 500 ms."""
    addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    with NameServer(*addresses):
        dead, hung, good = found(*addresses)
        with black_hole(dead, PORT), RudeServer(upgrade_never, host=hung, port=PORT) as mute:
            with serving(Model(), good) as server:
                assert 2 * STAGGER * 0.9 < connected_in() < 2 * STAGGER + SLACK
                assert (mute.connections, server.connections) == (1, 1)


@apart()
def test_D5_families_take_turns() -> None:
    """Of two addresses of each family the second one tried is of the other family, and so on."""
    addresses = ["2001:db8::1", "2001:db8::2", "127.0.0.2", "127.0.0.3"]
    ip("addr add 2001:db8::1 dev lo")
    ip("addr add 2001:db8::2 dev lo")
    tried: list[str] = []

    def note(caller: Caller) -> None:
        tried.append(caller.socket.getsockname()[0])
        (Model().serve if len(tried) == 4 else upgrade_never)(caller)

    with NameServer(*addresses), RudeServer(note, host="2001:db8::1", port=PORT):
        order = found(*addresses)
        with RudeServer(note, host="2001:db8::2", port=PORT), RudeServer(note, host="127.0.0.2", port=PORT):
            with RudeServer(note, host="127.0.0.3", port=PORT):
                assert 3 * STAGGER * 0.9 < connected_in() < 3 * STAGGER + SLACK
    six, four = ([address for address in order if (":" in address) is is_six] for is_six in (True, False))
    assert ":" in order[0]
    assert tried == [six[0], four[0], six[1], four[1]]
    assert tried != order  # the control: the system does not give them in turn


@apart()
def test_D5_a_name_with_IPv6_alone_is_reached() -> None:
    """Nothing asks for an IPv4 address to be there."""
    model = Model("a")
    with NameServer("::1"), serving(model, "::1") as server, opened(URL, wire=PLAIN) as client:
        assert taken(client, 1) == ["a"]
        client.send("six").result(PATIENCE)
        assert (model.received, server.connections) == (["six"], 1)


# -- D6: the resolver lies --------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None and "CI" not in os.environ, reason="needs the openssl command")
@pytest.mark.parametrize("certified_for", [NAME, "other.test"])
@apart()
def test_D6_whoever_the_name_leads_to_has_to_prove_that_he_is_it(certified_for: str) -> None:
    """A server without a certificate for the name gets no byte of the request; with one it gets the token."""
    model = Model("a")
    with tempfile.TemporaryDirectory() as folder, NameServer("127.0.0.2") as names:
        theirs, ours = certified(Path(folder), certified_for)
        with RudeServer(model.serve, tls=theirs, host="127.0.0.2", port=PORT) as server:
            settings: dict[str, Any] = {"ssl": ours, "access_token": "secret"}
            if certified_for == NAME:
                with opened(f"wss://{NAME}:{PORT}/", **settings) as client:
                    assert taken(client, 1) == ["a"]
                assert [b"Bearer secret" in request.raw for request in server.requests] == [True]
            else:
                with pytest.raises(HandshakeRejected, match="certificate was refused"):
                    connect(f"wss://{NAME}:{PORT}/", **settings)
                assert (server.requests, model.hellos) == ([], [])
        assert names.asked


# -- T17: the interface goes ------------------------------------------------------------------------------------------


OUTSIDE = "192.0.2.1"
WAYS = {
    # host of the URL: what takes it away, what brings it back, what an attempt meets meanwhile
    "127.0.0.1": ("link set lo down", "link set lo up", "ConnectTimeout"),  # the SYN goes nowhere
    NAME: ("link set lo down", "link set lo up", "ConnectTimeout"),  # nor does the question
    OUTSIDE: (f"addr del {OUTSIDE}/32 dev lo", f"addr add {OUTSIDE}/32 dev lo", "NoEndpoint"),  # ENETUNREACH
}


def failures(told: queue.SimpleQueue[Any], count: int) -> list[str]:
    """Wait until so many connections and attempts have ended, and give the names of their errors."""
    ended: list[str] = []
    while len(ended) < count:
        event = told.get(timeout=PATIENCE)
        ended += [event.error] if isinstance(event, events.ConnectionEnded) else []
    return ended


@pytest.mark.parametrize("host", WAYS)
@apart()
def test_T17_a_session_outlives_its_interface(host: str) -> None:
    """While the interface, or its address, is gone the session tries on, and goes on where it was when it is back."""
    model, told = Model("a"), queue.SimpleQueue[Any]()
    alert = Keepalive(interval=0.1, timeout=0.4, min_timeout=0.1)
    retry = Retry(wait=tenacity.wait_none(), connect_timeout=0.5)
    settings: dict[str, Any] = {"wire": PLAIN, "keepalive": alert, "retry": retry, "on_event": told.put}
    away, back, error = WAYS[host]
    ip(f"addr add {OUTSIDE}/32 dev lo")
    served = OUTSIDE if host == OUTSIDE else "127.0.0.1"
    with NameServer(served), serving(model, served), opened(f"ws://{host}:{PORT}/", **settings) as client:
        assert taken(client, 1) == ["a"]
        ip(away)
        receipt = client.send("kept")
        model.log.append("b")
        assert failures(told, 3) == ["ConnectionLost", error, error]
        with pytest.raises(TimeoutError, match="Network is unreachable" if host == OUTSIDE else "attempts go on"):
            client.flush(0.2)
        assert (receipt.done(), model.received) == (False, [])
        ip(back)
        assert taken(client, 1) == ["b"]
        receipt.result(PATIENCE)
        assert (model.received, client.stats()["resumes"]) == (["kept"], 1)
