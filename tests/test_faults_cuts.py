"""The whole Client over a path that is cut after every number of bytes (T14), and servers that flap (C11)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from resilient_ws import Retry, connect
from server_fixture.link import Carried, Proxy
from server_fixture.rude import RudeServer, flap
from tests.fault_server import AT_ONCE, Line, Model, opened, proxied, taken, url_of
from tests.transport_tools import PATIENCE

pytestmark = pytest.mark.faults

#: Every byte up to here is a place to cut at; beyond it one in STEP is.
EVERY = 600
STEP = 37
PAYLOADS = [number * 100 for number in "123"]


class Sweep:
    """One server with a proxy before it that cuts the first connection of each turn after so many bytes."""

    def __init__(self) -> None:
        self.model = Model(*PAYLOADS)
        self.direction, self.after = "s2c", 0
        self.is_armed = False

    def prepare(self, carried: Carried) -> None:
        """Cut the first connection of a turn, and no other."""
        if self.is_armed:
            self.is_armed = False
            getattr(carried, self.direction).cut(after=self.after)

    def turn(self, server: RudeServer, proxy: Proxy, direction: str, after: int) -> bool:
        """Exchange three messages each way; say whether that needed so many bytes, so that the connection was cut."""
        self.model.sent.clear()
        self.model.hellos.clear()
        self.direction, self.after, self.is_armed = direction, after, True
        number = len(proxy.carried)
        with opened(url_of(proxy), retry=AT_ONCE) as client:
            for payload in PAYLOADS:
                client.send(payload)
            got = taken(client, 3)
            client.flush(PATIENCE)
            with pytest.raises(TimeoutError):
                client.recv(0)
            is_cut: bool = getattr(proxy.carried[number], direction).passed >= after
            assert not is_cut or proxy.wait_for(lambda proxy: len(proxy.carried) == number + 2), after
        assert len(proxy.carried) <= number + 2, after
        assert (got, self.model.received) == (PAYLOADS, PAYLOADS), after
        assert server.errors == [], after
        return is_cut


@pytest.mark.timeout(180)
@pytest.mark.parametrize("direction", ["s2c", "c2s"])
def test_T14_cut_at_every_byte(direction: str) -> None:
    """Cut after any byte of upgrade, hello, welcome and first frames: one more connection, nothing lost or twice."""
    sweep = Sweep()
    with RudeServer(sweep.model.serve) as server, proxied(server, on_connect=sweep.prepare) as proxy:
        assert not sweep.turn(server, proxy, direction, 1 << 20)  # the control: nothing is cut, one connection
        assert len(proxy.carried) == 1
        assert all(sweep.turn(server, proxy, direction, after) for after in range(EVERY))
        after = EVERY
        while sweep.turn(server, proxy, direction, after):
            after += STEP
        assert after > EVERY + 3 * STEP  # the messages lie beyond it too


# -- flapping ---------------------------------------------------------------------------------------------------------

#: Connects that the default backoff makes in 10 s: about 6 on average; above this is a storm.
MOST = 11


def goodbye(line: Line) -> None:
    """End the connection as soon as the client is welcomed."""


def connects(script: Callable[..., Any], seconds: float, most: int, **settings: Any) -> int:
    """Give how many connections a flapping server gets within some seconds, or ``most`` if that is reached before."""
    with RudeServer(script) as server:
        client = connect(server.url, subscribe=["s"], wait=False, **settings)
        try:
            server.wait_for(lambda server: server.connections >= most, seconds)
            return server.connections
        finally:
            client.close()


def test_C11_flapping_servers_get_few_connects() -> None:
    """Neither an upgrade nor a welcome resets the backoff: a server that ends each at once gets at most 10 in 10 s."""
    found: dict[str, int] = {}
    model = Model()
    started = time.monotonic()
    kinds: dict[str, Callable[..., Any]] = {"accept": flap, "welcome": model.then(goodbye)}
    threads = [
        threading.Thread(target=lambda kind=kind: found.update({kind: connects(kinds[kind], 10.0, MOST)}))  # type: ignore[misc]
        for kind in kinds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 9.9
    assert all(2 <= count < MOST for count in found.values()), found
    assert len(model.hellos) == found["welcome"]  # each of them had been welcomed


@pytest.mark.parametrize("kind", ["accept", "welcome"])
def test_C11_control_without_a_backoff_there_is_a_storm(kind: str) -> None:
    """The bound can be passed: without a wait the same servers get more connects in a fraction of the time."""
    script = flap if kind == "accept" else Model().then(goodbye)
    assert connects(script, 10.0, MOST, retry=Retry(wait=tenacity.wait_none(), budget=None)) >= MOST
