"""The programs of ``examples/`` as a user runs them: own processes, a real cluster, and nodes that are killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import resilient_ws
from server_fixture.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LONG = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes with a store of their own."""
    with Cluster(3) as running:
        yield running


@contextlib.contextmanager
def kills(cluster: Cluster) -> Iterator[list[str]]:
    """
    Kill each node once meanwhile, one after the other, and restart it; gives the names of those that were killed.

    Not more often: the examples wait as a real client does, longer after every loss that comes soon after another one.
    """
    stop, killed = threading.Event(), []

    def run() -> None:
        for node in cluster.nodes:
            if stop.wait(0.6):
                return
            node.kill()
            killed.append(node.name)
            stop.wait(0.2)
            node.restart()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield killed
        finally:
            stop.set()
            running.result(LONG)


@contextlib.contextmanager
def example(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run an example; it does not outlive the block."""
    command = [sys.executable, "-u", str(EXAMPLES / name), *arguments]
    pipe, env = subprocess.PIPE, {**os.environ, "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", env=env)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def result(process: subprocess.Popen[str]) -> str:
    """Wait until it has ended well; returns what it printed."""
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, out + err
    return out


def stored(path: Path) -> list[tuple[int, str]]:
    """Read what the consumer has in its database; nothing where it has not made it yet."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            return db.execute("SELECT number, data FROM messages ORDER BY rowid").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Look until the condition holds; what the process said is the error where it ends or takes too long."""
    pause, deadline = threading.Event(), time.monotonic() + LONG
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("".join(process.communicate()))
        pause.wait(0.02)


@contextlib.contextmanager
def publisher(cluster: Cluster, stream: str, count: int) -> Iterator[None]:
    """Publish numbered messages meanwhile, a hundred a second; all are committed in the end."""
    pause = threading.Event()

    def publish() -> None:
        with resilient_ws.connect(cluster.urls, stream=stream, open_timeout=LONG) as ws:
            for number in range(1, count + 1):
                ws.send(f"message {number}")
                pause.wait(0.01)
            ws.flush(LONG)

    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(publish)
        yield
        published.result(LONG)


def test_every_example_is_tested() -> None:
    """No example is there without a test in this module."""
    source = Path(__file__).read_text("utf-8")
    names = [path.name for path in EXAMPLES.glob("*.py")]
    assert len(names) >= 3
    assert [name for name in names if f'example("{name}"' not in source] == []


def test_quickstart() -> None:
    """It starts its own cluster, kills the node that serves it, and still has every message once, in order."""
    with example("quickstart.py") as process:
        lines = result(process).splitlines()
    received = [line for line in lines if line.startswith("greetings ")]
    assert [line.split("   ")[0] for line in received] == [f"greetings {n}: hello {n}" for n in range(1, 11)]
    assert any(line.endswith("is killed") for line in lines)
    assert received[4].split("by way of ")[1] != received[5].split("by way of ")[1]


def test_consumer_stores_each_message_once(cluster: Cluster, tmp_path: Path) -> None:
    """Nodes are killed, the consumer is killed and started again: its database has the stream, each message once."""
    path, count = tmp_path / "consumer.db", 300
    arguments = ("--stream", "feed", "--db", str(path), *cluster.urls)
    with kills(cluster) as killed, publisher(cluster, "feed", count):
        for number in (50, 120, 190):
            with example("consumer.py", *arguments) as process:
                wait_for(lambda number=number: len(stored(path)) >= number, process)
                process.kill()  # as a crash would, in the middle of whatever it does
        with example("consumer.py", "--count", str(count), *arguments) as process:
            out = result(process)
    assert f"{count} messages stored" in out
    assert len(killed) > 1
    assert stored(path) == [(number, f"message {number}") for number in range(1, count + 1)]


def test_consumer_reloads_what_is_gone(tmp_path: Path) -> None:
    """What the server dropped meanwhile, and a server that forgot everything, are reported and passed, not hidden."""
    path = tmp_path / "consumer.db"
    with Cluster(1, backplane="memory", flags={"retention": 20}) as cluster:
        arguments = ("--stream", "feed", "--db", str(path), *cluster.urls)
        cluster.publish("feed", "message 1")
        with example("consumer.py", "--count", "1", *arguments) as process:
            result(process)
        for number in range(2, 102):
            cluster.publish("feed", f"message {number}")
        with example("consumer.py", *arguments) as process:
            wait_for(lambda: len(stored(path)) == 21, process)
            cluster.nodes[0].restart()
            cluster.publish("feed", "message 1 of the next epoch")
            wait_for(lambda: len(stored(path)) == 22, process)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, out + err
    assert "going on: the session was lost (unknown)" in err
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM reloads").fetchall() == [
            ("feed", 2, 81, "trimmed"),
            ("feed", 102, None, "epoch"),
        ]
    assert stored(path)[-1] == (1, "message 1 of the next epoch")


def test_consumer_says_what_is_wrong(tmp_path: Path) -> None:
    """A URL that cannot be right ends it at once, with an error that says so and no traceback of many pages."""
    with example("consumer.py", "--stream", "feed", "--db", str(tmp_path / "db"), "http://127.0.0.1:1/") as process:
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 2, out + err
    assert "ws" in err
    assert "Traceback" not in err


def test_publisher_under_kills(cluster: Cluster) -> None:
    """Nodes are killed while it publishes: every reading is confirmed, and the stream has each one once, in order."""
    arguments = ("--stream", "readings", "--interval", "0.02", "--count", "300", "--flush", "60", *cluster.urls)
    with kills(cluster) as killed, example("iot_publisher.py", *arguments) as process:
        out = result(process)
    assert "300 sent, 300 confirmed, 0 dropped, 0 failed" in out
    assert len(killed) > 1
    assert numbers(cluster, "readings") == list(range(1, 301))


def test_publisher_reports_what_it_drops(cluster: Cluster) -> None:
    """Without any node it drops the oldest readings and says which; Ctrl-C sends what is left, once there is one."""
    cluster.kill_all()
    arguments = ("--stream", "scarce", "--interval", "0.01", "--room", "10", "--flush", "60", *cluster.urls)
    with example("iot_publisher.py", *arguments) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        dropped = [next(line for line in lines if "dropped" in line) for _ in range(30)]
        process.send_signal(signal.SIGINT)
        for node in cluster.nodes:
            node.restart()
        out = result(process)
    assert [int(line.split()[3]) for line in dropped] == list(range(1, 31))
    found = re.search(r"(\d+) sent, (\d+) confirmed, (\d+) dropped, 0 failed", out)
    assert found is not None, out
    sent, confirmed, gone = map(int, found.groups())
    assert sent == confirmed + gone
    assert numbers(cluster, "scarce") == list(range(gone + 1, sent + 1))


def numbers(cluster: Cluster, stream: str) -> list[int]:
    """Read the numbers of all readings that are in the stream."""
    read = cluster.final_read(stream)
    assert read is not None
    with resilient_ws.connect(cluster.urls, subscribe={stream: "earliest"}) as ws:
        return [ws.recv(LONG).json()["number"] for _ in read.messages]
