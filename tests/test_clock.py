"""The clock, and a machine that slept (K2): what was open before is asked about at once, and not given up for it."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import resilient_ws
from resilient_ws import events
from resilient_ws.arguments import check_arguments
from resilient_ws.client import Client
from resilient_ws.clock import monotonic
from resilient_ws.frames import Ack, Batch, Ping, Pong, SeqMark
from resilient_ws.opening import start
from resilient_ws.testing import Peer, ScriptedDialer
from tests.apart import need_unshare

SOON = 5.0
BEHIND = """
import time
from resilient_ws.clock import monotonic
print(time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic(), monotonic() - time.monotonic())
"""


def test_it_goes_forward_only() -> None:
    """As every monotonic clock does, and in seconds."""
    found = [monotonic() for _ in range(1_000)]
    assert found == sorted(found)
    started, ours = time.monotonic(), monotonic()
    while time.monotonic() < started + 0.05:
        pass
    assert monotonic() - ours == pytest.approx(0.05, abs=0.03)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces of time")
def test_K2_it_counts_the_time_in_suspend() -> None:
    """Where the clocks with and without suspend differ, in a namespace of time, it is the one with."""
    need_unshare("--time")
    told = subprocess.run(
        ["unshare", "--time", "--boottime", "3600", "--fork", sys.executable, "-c", BEHIND],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    apart, ahead = map(float, told.stdout.split())
    assert abs(apart) < 1.0
    assert ahead > 3_500.0


class Sleepy:
    """The clock of a machine that is suspended."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return monotonic() + self.slept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Sleepy:
    """A clock for the Client and for the keeper."""
    clock = Sleepy()
    monkeypatch.setattr("resilient_ws.keeper.monotonic", clock)
    return clock


@pytest.fixture
def opened(clock: Sleepy) -> Iterator[Callable[..., tuple[Client, Peer]]]:
    """Open a Client by that clock, and welcome it."""
    dialer, clients = ScriptedDialer(), []

    def open_one(on_event: Callable[[object], None]) -> tuple[Client, Peer]:
        defaults = resilient_ws.connect.__kwdefaults__ or {}
        settings = {**defaults, "stream": "out", "wait": False, "on_event": on_event}
        arguments = check_arguments("ws://127.0.0.1:1/", **settings)
        client = Client(arguments, dialer=dialer, clock=clock)
        clients.append(client)
        start(client._driver, arguments)
        peer = dialer.accept()
        peer.welcome()
        peer.expect()
        return client, peer

    yield open_one
    dialer.close()
    for client in clients:
        client.close()


@pytest.mark.parametrize("slept", [3_600.0, 25.0])
def test_K2_a_connection_from_before_is_asked_and_kept(
    opened: Callable[..., tuple[Client, Peer]], clock: Sleepy, slept: float
) -> None:
    """With the first thing that is done: the server is pinged, and where it answers the connection stays."""
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    client, peer = opened(told.put)
    clock.slept += slept
    with ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(client.send, "after").result(SOON)
    assert {type(peer.expect()) for _ in range(2)} == {Batch, Ping}  # in either order
    seen: list[object] = []
    while not isinstance(event := told.get(timeout=SOON), events.Suspended):
        seen.append(event)
    peer.send(Pong(echo="1"))
    peer.send(Ack(committed=(SeqMark(0, "out", 1),)))
    receipt.result(SOON)
    assert client.connected
    assert [event for event in seen if isinstance(event, events.ConnectionEnded)] == []


def test_K2_a_short_sleep_is_nothing(opened: Callable[..., tuple[Client, Peer]], clock: Sleepy) -> None:
    """The control: while no ping would have been due, none is sent."""
    told: list[object] = []
    client, peer = opened(told.append)
    clock.slept += 5.0
    receipt = client.send("after")
    assert peer.expect(Batch).payloads == ["after"]
    peer.send(Ack(committed=(SeqMark(0, "out", 1),)))
    receipt.result(SOON)
    with pytest.raises(TimeoutError):
        peer.expect(timeout=0.6)
    assert [event for event in told if isinstance(event, events.Suspended)] == []
