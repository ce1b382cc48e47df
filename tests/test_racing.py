"""Hedged dialling: addresses of a name and endpoints of a Client race, the first that is upgraded is used (rule 6)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

import pytest
import tenacity

from resilient_ws import Failover, Retry, connect
from resilient_ws.exceptions import ConnectTimeout, HandshakeRejected, NoEndpoint
from resilient_ws.racing import Race
from server_fixture import rude
from server_fixture.rude import RudeServer, echo, upgrade_never
from tests.fault_server import Model
from tests.transport_tools import PATIENCE, black_hole, closed_port, dialled

STAGGER = 0.25


def addresses(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have these ports of this machine as its addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)


def descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def settles(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; False where it did not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return condition()


def ways() -> int:
    """Count the threads of races."""
    return sum(thread.name == "resilient_ws-way" for thread in threading.enumerate())


# -- addresses --------------------------------------------------------------------------------------------------------


def test_D4_an_address_that_never_answers_the_upgrade_costs_the_stagger(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP alone wins nothing: a first address that accepts and then says nothing is passed after 250 ms."""
    with RudeServer(upgrade_never) as hung, RudeServer(echo) as server:
        addresses(monkeypatch, hung.port, server.port)
        started = time.monotonic()
        with dialled("ws://localhost/") as transport:
            assert STAGGER * 0.9 < time.monotonic() - started < 2.0
            assert transport.peer.endswith(str(server.port))


def test_D4_without_a_second_address_the_same_server_costs_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with the hung address alone the dial is over when its time is."""
    with RudeServer(upgrade_never) as hung:
        addresses(monkeypatch, hung.port)
        with pytest.raises(ConnectTimeout), dialled("ws://localhost/", connect_timeout=0.6):
            pass


def test_losers_leave_no_socket_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten races with a black hole and a hung server in them leave as many descriptors and threads as before."""
    with RudeServer(upgrade_never) as hung, RudeServer(echo) as server, black_hole() as dead:
        addresses(monkeypatch, dead, hung.port, server.port)
        before = descriptors()
        for _ in range(10):
            with dialled("ws://localhost/", stagger=0.02):
                pass
        assert settles(lambda: ways() == 0 and server.connections == 10)
        hung.stop()
        server.stop()
        assert settles(lambda: descriptors() <= before)


def test_an_answer_of_the_server_ends_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told 429 does not ask at every other address of the same server."""
    with RudeServer(rude.status(429)) as busy, RudeServer(echo) as server:
        addresses(monkeypatch, busy.port, server.port)
        with pytest.raises(HandshakeRejected, match="429"), dialled("ws://localhost/"):
            pass
        assert server.connections == 0


def test_when_every_address_refuses_all_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that it tried them all."""
    addresses(monkeypatch, closed_port(), closed_port())
    with pytest.raises(NoEndpoint, match="none of its 2 addresses answered"), dialled("ws://localhost/"):
        pass


class Thing:
    """What a way opens, and whether it was closed."""

    def __init__(self) -> None:
        self.is_released = threading.Event()

    def release(self) -> None:
        self.is_released.set()


def test_one_that_arrives_behind_the_winner_is_closed() -> None:
    """A way that does not look whether it was called off may open its connection too late."""
    winner, loser, may_go = Thing(), Thing(), threading.Event()

    def slow(cancelled: Callable[[], bool]) -> Thing:
        may_go.wait(PATIENCE)
        assert cancelled()
        return loser

    race: Race[Thing] = Race([slow, lambda cancelled: winner], 0.01, lambda error: False)
    assert race.run(lambda: PATIENCE) is winner
    may_go.set()
    assert loser.is_released.wait(PATIENCE)
    assert not winner.is_released.is_set()


# -- endpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["swallows the SYN", "never answers the upgrade"])
def test_Z6_an_endpoint_that_does_not_answer_costs_the_stagger(kind: str) -> None:
    """Whatever the shuffle says, a dead endpoint among two costs 250 ms, and the other one has one session."""
    model = Model("a")
    with black_hole() as dead, RudeServer(upgrade_never) as hung, RudeServer(model.serve) as server:
        port = dead if kind == "swallows the SYN" else hung.port
        started = time.monotonic()
        for _ in range(4):  # some of them begin at the dead one
            with connect([f"ws://127.0.0.1:{port}/", server.url], open_timeout=PATIENCE) as client:
                assert client.stats()["connected"]
                assert dict(client.stats()["endpoints"])[server.url.rstrip("/")] == "good"
        assert time.monotonic() - started < 4 * (STAGGER + 1.0)
        assert server.connections == 4


def test_without_a_stagger_endpoints_are_dialled_in_turn() -> None:
    """The negative control: Failover(stagger=None) waits for the first one."""
    with RudeServer(upgrade_never) as first, RudeServer(upgrade_never) as second:
        with pytest.raises(ConnectTimeout):
            connect([first.url, second.url], open_timeout=0.8, failover=Failover(stagger=None))
        assert sorted((first.connections, second.connections)) == [0, 1]
    with RudeServer(upgrade_never) as first, RudeServer(upgrade_never) as second:
        with pytest.raises(ConnectTimeout):
            connect([first.url, second.url], open_timeout=0.8, failover=Failover(stagger=0.1))
        assert (first.connections, second.connections) == (1, 1)


def test_a_timeout_of_one_endpoint_is_not_final() -> None:
    """After connect_timeout at both it goes on, and the one that works by then is used."""
    model = Model("a")
    retry = Retry(wait=tenacity.wait_fixed(0.01), connect_timeout=0.3)
    with RudeServer([upgrade_never, model.serve]) as server, RudeServer(upgrade_never) as hung:
        with connect([server.url, hung.url], open_timeout=PATIENCE, retry=retry) as client:
            assert client.stats()["connected"]


@pytest.mark.parametrize("stagger", [0, -1, True, "soon", float("nan")])
def test_a_stagger_is_a_number_above_0(stagger: object) -> None:
    """Everything else is refused with the value in the text."""
    with pytest.raises(ValueError, match="stagger="):
        Failover(stagger=stagger)  # type: ignore[arg-type]
