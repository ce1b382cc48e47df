"""Stalls of loops and threads: noted when they are over, and read back; what is on time is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time

import pytest

from server_fixture.cluster import Cluster
from server_fixture.stalls import LONG, LOOK, Pulse, Stall, note_stalls, read_stalls


async def watched(blocks: float, after: float = 0.2) -> None:
    """Run a loop that is watched, and stand still in it for so long."""
    loop = asyncio.get_running_loop()
    watching = asyncio.create_task(note_stalls(loop.time))
    await asyncio.sleep(after)
    time.sleep(blocks)  # noqa: ASYNC251
    await asyncio.sleep(after)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


def test_a_loop_that_stands_still_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    """The note has how long it was and when it was over, and is read back from the line of a log."""
    with caplog.at_level(logging.WARNING, "server_fixture.node"):
        asyncio.run(watched(1.2))
    (record,) = caplog.records
    (stall,) = read_stalls("node-1", [f"2026-01-02 03:04:05,678 WARNING {record.name} {record.getMessage()}\n"])
    assert stall.who == "node-1"
    assert 1.1 <= stall.seconds < 3.0
    assert 0.0 < time.monotonic() - stall.ended_at < 3.0
    assert stall.began_at == stall.ended_at - stall.seconds


@pytest.mark.parametrize(("late", "notes"), [(0.0, 0), (LONG - 0.01, 0), (LONG + 0.01, 2)])
def test_only_what_is_long_is_noted(late: float, notes: int, caplog: pytest.LogCaptureFixture) -> None:
    """The negative control: a loop that wakes in time, or a little late, leaves no line; one that is long does."""
    looks = 0

    def clock() -> float:
        nonlocal looks
        if looks == 4:
            raise EOFError
        looks += 1
        return looks * (LOOK + late)

    with caplog.at_level(logging.WARNING, "server_fixture.node"), contextlib.suppress(EOFError):
        asyncio.run(note_stalls(clock))
    assert len(caplog.records) == notes


def test_other_lines_of_a_log_are_passed_over() -> None:
    """A log has other lines, half a line among them; none becomes a stall."""
    lines = [
        "2026-01-02 03:04:05,678 INFO server_fixture.node draining connections=1 within=3",
        "2026-01-02 03:04:05,678 WARNING server_fixture.node loop_stalled seconds=2.000 until=77.125",
        "2026-01-02 03:04:05,678 WARNING server_fixture.node loop_stalled seconds=2.0",
        "loop_stalled",
    ]
    assert read_stalls("n", lines) == [Stall("n", 77.125, 2.0)]


def test_this_process_is_noted_too() -> None:
    """A thread that wakes too late by its clock was not run; one that wakes in time notes nothing."""
    now, step, looks = 0.0, LONG + 1.0, threading.Semaphore(0)

    def clock() -> float:
        nonlocal now
        now += step
        looks.release()
        return now

    def looked_again(times: int) -> bool:
        return all(looks.acquire(timeout=10.0) for _ in range(times))

    with Pulse(clock) as pulse:
        assert looked_again(6)
    assert pulse.stalls[0].who == ""
    assert pulse.stalls[0].seconds == pytest.approx(step - 0.05)
    step = 0.01
    with Pulse(clock) as quiet:
        assert looked_again(6)
    assert quiet.stalls == []


@pytest.mark.cluster
def test_a_node_that_was_stopped_says_so_in_its_log() -> None:
    """A real node that stood still notes it when it goes on; the one beside it does not."""
    with Cluster(2) as cluster:
        node, other = cluster.nodes
        stopped_at = time.monotonic()
        node.pause()
        time.sleep(1.0)
        node.resume()
        deadline = time.monotonic() + 10.0
        while not (found := read_stalls(node.name, node.log_path.read_text().splitlines())):
            assert time.monotonic() < deadline, node.log_path.read_text()
            time.sleep(0.02)
        assert 0.8 <= found[0].seconds < 5.0
        assert stopped_at <= found[0].ended_at <= time.monotonic()
        beside = read_stalls(other.name, other.log_path.read_text().splitlines())
        assert [stall for stall in beside if stall.seconds > 0.9] == []
