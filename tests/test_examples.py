"""The programs of ``examples/`` as a user runs them: own processes, a real cluster, and nodes that are killed."""

from __future__ import annotations

import contextlib
import itertools
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
from resilient_ws.frames import Batch
from server_fixture.chaos import Nemesis
from server_fixture.cluster import Cluster
from server_fixture.rude import Caller, RudeServer, accept_upgrade
from tests.fault_server import Model

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


@contextlib.contextmanager
def without_nodes(cluster: Cluster) -> Iterator[None]:
    """Kill all nodes, and restart them in the end."""
    cluster.kill_all()
    try:
        yield
    finally:
        for node in cluster.nodes:
            node.restart()


def publishing(cluster: Cluster, stream: str, path: Path, *more: str) -> tuple[str, ...]:
    """Return the arguments of a publisher."""
    return ("--stream", stream, "--journal", str(path), "--flush", "60", *more, *cluster.urls)


def test_worker_stops_when_it_is_told_to(cluster: Cluster, tmp_path: Path) -> None:
    """It is told to stop again and again while nodes drain: each job has one result, in order."""
    count, done, arguments = 200, 0, ("--journal", str(tmp_path / "worker.journal"), *cluster.urls)

    def results() -> list[str]:
        read = cluster.final_read("results")
        return [] if read is None else [effect.payload for effect in read.messages]

    with publisher(cluster, "jobs", count):
        for number in (30, 90, count):
            with example("graceful_shutdown.py", *arguments) as process:
                wait_for(lambda number=number: len(results()) >= number, process)
                node = cluster.nodes[number % 3]
                node.drain(wait=False)
                process.send_signal(signal.SIGTERM)
                found = re.search(r"^(\d+) jobs done, every result is with the cluster$", result(process), re.MULTILINE)
                assert found is not None
                done += int(found[1])
                assert len(results()) == done
                node.child.wait(LONG)
                node.restart()
    assert results() == [f"text:message {number} is done" for number in range(1, count + 1)]


def test_worker_that_cannot_finish_says_so(tmp_path: Path) -> None:
    """Results that no server takes are in the journal when the grace is over, for the run that finds a server."""
    model, has_result = Model("one"), threading.Event()

    def mute(caller: Caller) -> None:
        accept_upgrade(caller)
        for item in model.enter(caller).heard():
            if isinstance(item, Batch):
                has_result.set()

    arguments = ("--journal", str(tmp_path / "worker.journal"), "--grace", "0.3")
    with RudeServer([mute]) as server, example("graceful_shutdown.py", *arguments, server.url) as process:
        wait_for(has_result.is_set, process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LONG)
        assert process.returncode == 1
        assert err == "not every result is with the cluster yet: the rest is in the journal, for the next run\n"
    with RudeServer(model.serve) as server, example("graceful_shutdown.py", *arguments, server.url) as process:
        wait_for(lambda: model.received, process)
        process.send_signal(signal.SIGTERM)
        assert "0 jobs done" in result(process)
    assert model.received == ["one is done"]


def test_publisher_under_kills(cluster: Cluster, tmp_path: Path) -> None:
    """Nodes are killed while it publishes: every reading is confirmed, and the stream has each one once, in order."""
    arguments = publishing(cluster, "readings", tmp_path / "db", "--interval", "0.02", "--count", "300")
    with kills(cluster) as killed, example("iot_publisher.py", *arguments) as process:
        out = result(process)
    assert "300 sent, 300 confirmed, 0 dropped, 0 failed" in out
    assert len(killed) > 1
    assert numbers(cluster, "readings") == list(range(1, 301))


def test_publisher_reports_what_it_drops(cluster: Cluster, tmp_path: Path) -> None:
    """Without any node it drops the oldest readings and says which; Ctrl-C sends what is left, once there is one."""
    arguments = publishing(cluster, "scarce", tmp_path / "db", "--interval", "0.01", "--room", "10")
    with example("iot_publisher.py", *arguments) as process:
        with without_nodes(cluster):
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            dropped = [next(line for line in lines if "dropped" in line) for _ in range(30)]
            process.send_signal(signal.SIGINT)
        out = result(process)
    assert [int(line.split()[3]) for line in dropped] == list(range(1, 31))
    found = re.search(r"(\d+) sent, (\d+) confirmed, (\d+) dropped, 0 failed", out)
    assert found is not None, out
    sent, confirmed, gone = map(int, found.groups())
    assert sent == confirmed + gone
    assert numbers(cluster, "scarce") == list(range(gone + 1, sent + 1))


def test_publisher_leaves_the_rest_to_its_next_run(cluster: Cluster, tmp_path: Path) -> None:
    """Without a node it ends with what waits in its journal; a second one is locked out; the next run sends it all."""
    arguments = publishing(cluster, "later", tmp_path / "db", "--interval", "0.01", "--flush", "0.1")
    with without_nodes(cluster), example("iot_publisher.py", *arguments) as process:
        assert process.stdout is not None
        assert "0 readings of earlier runs wait" in process.stdout.readline()
        with example("iot_publisher.py", *arguments) as second:
            out, err = second.communicate(timeout=LONG)
        assert (second.returncode, "has it open" in err) == (1, True), out + err
        process.send_signal(signal.SIGINT)
        found = re.search(r"(\d+) readings have no confirmation; they wait in", result(process))
    assert found is not None
    with example("iot_publisher.py", *publishing(cluster, "later", tmp_path / "db", "--count", "1")) as process:
        out = result(process)
    assert f"{found[1]} readings of earlier runs wait" in out
    assert "1 sent, 1 confirmed" in out
    assert numbers(cluster, "later") == [*range(1, int(found[1]) + 1), 1]


@pytest.mark.demo
def test_publisher_is_killed_and_restarted_while_nodes_are_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Under the demo's nemesis: each reading that was called safe is in the stream once, one run after the other."""
    arguments = publishing(cluster, "device", tmp_path / "db", "--interval", "0.01")
    nemesis = Nemesis(cluster, lambda op: None, seed=4, fault_every=1.0)
    nemesis.start()
    safe: list[tuple[str, int]] = []
    try:
        for number in range(1, 9):
            with example("iot_publisher.py", *arguments) as process:
                safe += readings_until_killed(process, 15 * number)
    finally:
        nemesis.stop()
    with example("iot_publisher.py", *arguments, "--count", "10") as process:
        out = result(process)
    assert "10 sent, 10 confirmed, 0 dropped, 0 failed" in out
    assert re.search(r"^[1-9]\d* readings of earlier runs wait", out)
    assert len(nemesis.strikes) >= 4
    stream = stored_readings(cluster, "device")
    assert faults_of(safe, stream) == []
    assert len({run for run, _ in stream}) == 9


def faults_of(safe: list[tuple[str, int]], stream: list[tuple[str, int]]) -> list[str]:
    """Say what is wrong with a stream of (run, number), of which some were called safe."""
    found = [f"{reading} is missing" for reading in safe if reading not in stream]
    runs = [run for run, _ in itertools.groupby(stream, lambda reading: reading[0])]
    found += [f"run {run} is in pieces" for run in set(runs) if runs.count(run) > 1]
    for run in dict.fromkeys(runs):
        numbers = [number for of, number in stream if of == run]
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"run {run} has {numbers}")
    return found


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ([("a", 1), ("a", 2), ("b", 1)], []),
        ([("a", 1), ("a", 2), ("a", 3), ("b", 1)], []),
        ([("a", 1), ("b", 1)], ["('a', 2) is missing"]),
        ([("a", 1), ("a", 1), ("a", 2), ("b", 1)], ["run a has [1, 1, 2]"]),
        ([("a", 2), ("a", 1), ("b", 1)], ["run a has [2, 1]"]),
        ([("a", 1), ("b", 1), ("a", 2)], ["run a is in pieces"]),
    ],
)
def test_faults_of_a_stream_are_found(stream: list[tuple[str, int]], said: list[str]) -> None:
    """The control of the test above: what is lost, doubled or out of order is named."""
    assert faults_of([("a", 1), ("a", 2), ("b", 1)], stream) == said


def readings_until_killed(process: subprocess.Popen[str], count: int) -> list[tuple[str, int]]:
    """Read which readings it calls safe, kill it after ``count``, and read what it still had said."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        found = re.fullmatch(r"reading (\d+) of run (\w+) is safe\n", line)
        said += [(found[2], int(found[1]))] if found else []
        if len(said) == count:
            process.kill()
    assert len(said) >= count
    return said


def stored_readings(cluster: Cluster, stream: str) -> list[tuple[str, int]]:
    """Read run and number of all readings that are in the stream."""
    read = cluster.final_read(stream)
    assert read is not None
    with resilient_ws.connect(cluster.urls, subscribe={stream: "earliest"}) as ws:
        found = [ws.recv(LONG).json() for _ in read.messages]
    return [(reading["run"], reading["number"]) for reading in found]


def numbers(cluster: Cluster, stream: str) -> list[int]:
    """Read the numbers of all readings that are in the stream."""
    return [number for _, number in stored_readings(cluster, stream)]
