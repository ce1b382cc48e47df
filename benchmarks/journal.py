"""
What does a journal cost: against a bare SQLite table, and for who uses a Client?

    python -m benchmarks journal [--json FILE] [--seconds 60] [--directory DIR]

The peer of an append is the least that a user could write: one table of its own, ``(id INTEGER PRIMARY KEY, payload
BLOB)``, filled by ``executemany`` in one transaction, with the journal's pragmas and the same ``synchronous``, in the
same directory. Both sides run in pairs, in turn A B B A, each time with a new file; what counts is the ratio of the
medians, since other work may use the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs

import resilient_ws
from benchmarks.threads import run_server
from resilient_ws import Inbox, Outbox
from resilient_ws.journal import open_journal
from resilient_ws.records import Accepted

PAYLOAD = b"x" * 100
PAIRS = 7
CHECKPOINT_PAGES = 1000
FLOOD = 500
"""Messages that the server is asked for at once; two such floods are on their way."""
TABLE = "CREATE TABLE message (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)"
SETTINGS = ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "journal_size_limit = 16777216")

Step = Callable[[], int]
"""Does a little, and returns how many messages that were."""
Side = Callable[[float], float]
"""Runs for so many seconds, and returns messages per second."""


@attrs.frozen
class Case:
    """One comparison; ``side`` makes what is measured, ``peer_side`` what it is compared with."""

    name: str
    subject: str
    peer: str
    side: Side
    peer_side: Side


@attrs.frozen
class Row:
    """What came out: medians in messages per second, and all pairs (ours, theirs)."""

    case: str
    subject: str
    peer: str
    runs: list[tuple[float, float]]
    bench: str = "journal"
    unit: str = "messages/s"
    ours: float = attrs.field(init=False)
    theirs: float = attrs.field(init=False)
    ratio: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        ours, theirs = (statistics.median(column) for column in zip(*self.runs, strict=True))
        for name, value in (("ours", ours), ("theirs", theirs), ("ratio", ours / theirs)):
            object.__setattr__(self, name, value)


# -- measuring --------------------------------------------------------------------------------------------------------


def rate(step: Step, seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Repeat a step until the time is over, at least once; returns messages per second."""
    start = now = clock()
    done = 0
    while now < start + seconds or not done:
        done += step()
        now = clock()
    return done / (now - start)


def compare(case: Case, seconds: float, pairs: int = PAIRS) -> Row:
    """Run both sides in pairs, in turn A B B A, ``seconds`` each time, after one run of each that does not count."""
    case.side(seconds / 4)
    case.peer_side(seconds / 4)
    runs = []
    for number in range(pairs):
        if number % 2:
            theirs, ours = case.peer_side(seconds), case.side(seconds)
        else:
            ours, theirs = case.side(seconds), case.peer_side(seconds)
        runs.append((ours, theirs))
    return Row(case.name, case.subject, case.peer, runs)


@contextlib.contextmanager
def new_file(directory: str) -> Iterator[str]:
    """Yield the path of a file that is not there yet, in a directory of its own that goes away."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=directory) as place:
        yield os.path.join(place, "file.db")


# -- appending --------------------------------------------------------------------------------------------------------


def append(directory: str, count: int, seconds: float, *, durable: bool) -> float:
    """Append ``count`` payloads in each transaction of a journal."""
    with new_file(directory) as path:
        journal = open_journal(path, instance="benchmark", sync="full" if durable else "normal")
        numbers = itertools.count(1, count)

        def step() -> int:
            record = Accepted("producer", "stream", next(numbers), [PAYLOAD] * count, time.monotonic(), 1)
            journal.write([record], durable=durable)
            return count

        try:
            step()
            return rate(step, seconds)
        finally:
            journal.close()


def append_bare(directory: str, count: int, seconds: float, *, durable: bool, is_automatic: bool) -> float:
    """Append the same to the bare table; ``is_automatic``: SQLite checkpoints, else we do."""
    with new_file(directory) as path, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        run = connection.execute
        checkpoint = f"wal_autocheckpoint = {CHECKPOINT_PAGES if is_automatic else 0}"
        for setting in (*SETTINGS, checkpoint, f"synchronous = {'FULL' if durable else 'NORMAL'}"):
            run(f"PRAGMA {setting}").fetchall()
        run(TABLE)
        numbers = itertools.count(1, count)
        pages_each = 2 + count * len(PAYLOAD) // 4096
        pages = 0

        def step() -> int:
            nonlocal pages
            first = next(numbers)
            run("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO message VALUES (?, ?)", list(enumerate([PAYLOAD] * count, first)))
            run("COMMIT")
            pages += pages_each
            if pages > CHECKPOINT_PAGES and not is_automatic:
                run("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                pages = 0
            return count

        step()
        return rate(step, seconds)


def faster_bare(directory: str, count: int, seconds: float, *, durable: bool) -> bool:
    """Say whether SQLite's own checkpoint is the faster one here, by three runs of each in turn."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    for is_automatic in (True, False, False, True, True, False):
        found = append_bare(directory, count, seconds, durable=durable, is_automatic=is_automatic)
        rates[is_automatic].append(found)
    return statistics.median(rates[True]) >= statistics.median(rates[False])


def append_cases(directory: str, seconds: float) -> Iterator[Case]:
    """Yield the four appends."""
    for durable, count in itertools.product((True, False), (1, 100)):
        is_automatic = faster_bare(directory, count, seconds / 2, durable=durable)
        yield Case(
            f"append, {count} per transaction, sync {'full' if durable else 'normal'}",
            "journal",
            f"bare SQLite, {'automatic' if is_automatic else 'own'} checkpoint",
            partial(append, directory, count, durable=durable),
            partial(append_bare, directory, count, durable=durable, is_automatic=is_automatic),
        )


# -- what a user gets -------------------------------------------------------------------------------------------------


def send(directory: str, threads: int, seconds: float, *, sync: Any) -> float:
    """Send from so many threads while no server can be reached."""
    with new_file(directory) as path:
        outbox = Outbox(journal=path, sync=sync, max_messages=1 << 40, max_bytes=1 << 50)
        client = resilient_ws.connect("ws://127.0.0.1:9/", stream="out", wait=False, outbox=outbox)
        together = threading.Barrier(threads)

        def step() -> int:
            client.send(PAYLOAD)
            return 1

        def work() -> float:
            together.wait()
            return rate(step, seconds)

        try:
            step()
            with ThreadPoolExecutor(threads) as pool:
                return sum(done.result() for done in [pool.submit(work) for _ in range(threads)])
        finally:
            client.close()


def send_cases(directory: str) -> Iterator[Case]:
    """Yield sends with a journal, against a bare table that gets one message per transaction."""
    for sync, threads in itertools.product(("full", "normal"), (1, 8)):
        yield Case(
            f"send(), {threads} thread{'s' * (threads > 1)}, sync {sync}",
            "Client",
            "bare SQLite, 1 thread, 1 per transaction",
            partial(send, directory, threads, sync=sync),
            partial(append_bare, directory, 1, durable=sync == "full", is_automatic=True),
        )


def receive(url: str, path: str | None, most: int, seconds: float) -> float:
    """Receive what a server floods; ``most`` at once, by ``recv()`` where that is 1."""
    inbox = Inbox(max_messages=10 * FLOOD)
    outbox = Outbox(journal=path, sync="normal")
    with resilient_ws.connect(url, subscribe=["s"], stream="out", inbox=inbox, outbox=outbox) as client:
        left = 0

        def step() -> int:
            nonlocal left
            if left < FLOOD:
                client.send(f"flood {FLOOD}")
                left += FLOOD
            count = 1 if most == 1 else len(client.recv_many(most, timeout=10))
            if most == 1:
                client.recv(timeout=10)
            left -= count
            return count

        step()
        found = rate(step, seconds)
        client.flush(timeout=10)
        return found


def receive_with(directory: str, url: str, most: int, seconds: float) -> float:
    """Receive with a journal."""
    with new_file(directory) as path:
        return receive(url, path, most, seconds)


def receive_cases(directory: str, url: str) -> Iterator[Case]:
    """Yield receiving with a journal against receiving without one."""
    for most in (1, 100):
        yield Case(
            "recv()" if most == 1 else f"recv_many({most})",
            "Client",
            "without a journal",
            partial(receive_with, directory, url, most),
            partial(receive, url, None, most),
        )


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Yield the URL of a server in another process."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run_server, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"ws://127.0.0.1:{ours.recv()}/"
    finally:
        ours.send(None)
        process.join(5)


# -- telling ----------------------------------------------------------------------------------------------------------


def told(row: Row) -> str:
    """Return a row as a line of the table."""
    return f"{row.case:39} {row.ours:10,.0f}  {row.peer:40} {row.theirs:10,.0f}  {row.ratio:6.2f}"


def run(directory: str, seconds: float) -> Iterator[Row]:
    """Run every case, about ``seconds`` in all, and yield the rows as they are done."""
    slot = seconds / (10 * (2 * PAIRS + 0.5) + 4 * 3)
    for case in append_cases(directory, slot):
        yield compare(case, slot)
    for case in send_cases(directory):
        yield compare(case, slot)
    with server() as url:
        for case in receive_cases(directory, url):
            yield compare(case, slot)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the table, and write it where that was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks journal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--seconds", type=float, default=60.0, help="of measuring in all (default: %(default)s)")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="on the disk in question: %(default)s")
    chosen = parser.parse_args(arguments)
    if not chosen.seconds > 0:
        parser.error("--seconds must be above 0")
    print(
        f"messages of {len(PAYLOAD)} B per second, medians of {PAIRS} pairs in turn (A B B A); ratio: ours to theirs; "
        f"files in {chosen.directory}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
    print(f"{'case':39} {'ours':>10}  {'peer':40} {'theirs':>10}  {'ratio':>6}")
    rows = []
    for row in run(chosen.directory, chosen.seconds):
        rows.append(row)
        print(told(row), flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"rows": [attrs.asdict(row) for row in rows]}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
