"""
Where a session's CPU time goes: each stage's own, what it calls in other stages not counted, all threads together.

``python -m benchmarks stages [receive|send|echo|pace] [--size N] [--count N]``. One session runs in this process with a
clock around the functions that stand for its stages, which costs about a microsecond for each call.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from benchmarks.players import SESSION
from benchmarks.serving import server
from benchmarks.turns import opened

STAGES = {
    "wait for the socket": "keeper:Waiter.wait",
    "read from the kernel": "transport:Transport._read",
    "cut frames": "framing:Decoder.feed",
    "decode the dialect": "dialects.native:_NativeCodec.decode",
    "tell the session": "session:Session.received",
    "acks and credit": "progress:Progress.tell",
    "take from the session": "session:Session.take",
    "make messages": "receiving:Receivers._take",
    "give messages": "receiving:Receivers._give_plainly",
    "accept a message": "session:Session.send",
    "what is decided": "performing:Performer.settled",
    "when is what due": "session:Session.next_deadline",
    "encode the dialect": "dialects.native:_NativeCodec.encode",
    "frame and write": "transport:Transport.write",
    "carry out": "performing:Performer.perform",
    "reader's ticket": "driver:Driver._pump",
    "a reader's turn": "driver:Driver._turn",
}
"""What it is called, and which function of the package stands for it."""
REST = "everything else"
VERBS = ("receive", "send", "echo", "pace")


@attrs.define
class Spent:
    """What a stage took: how often, and seconds of CPU time of its own."""

    calls: int = 0
    seconds: float = 0.0


class Clock:
    """Measures stages, which may be inside of each other; of each thread by itself, as the keeper has its own."""

    def __init__(self) -> None:
        self.spent = {name: Spent() for name in STAGES}
        self._threads = threading.local()
        self._lock = threading.Lock()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and is measured."""
        spent, threads, clock = self.spent[name], self._threads, time.thread_time

        def measured(*args: Any) -> Any:
            inside: list[float] = threads.__dict__.setdefault("inside", [])
            inside.append(0.0)
            start = clock()
            try:
                return call(*args)
            finally:
                took = clock() - start
                with self._lock:
                    spent.calls += 1
                    spent.seconds += took - inside.pop()
                if inside:
                    inside[-1] += took

        return measured


@contextlib.contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Put the clock around every stage, for a while; keyword arguments of a stage are not passed on."""
    with contextlib.ExitStack() as stack:
        for name, where in STAGES.items():
            module, _, path = where.partition(":")
            owner, _, function = path.partition(".")
            kind = getattr(importlib.import_module(f"resilient_ws.{module}"), owner)
            original = getattr(kind, function)
            setattr(kind, function, clock.around(name, original))
            stack.callback(setattr, kind, function, original)
        yield


def run(verb: str, size: int, count: int) -> list[tuple[str, float, float]]:
    """
    Measure; returns name, calls and microseconds of CPU time for each message, the largest first.

    The last row is what no stage took of the time of the whole process.
    """
    clock = Clock()
    with server() as place:
        url = place.url(SESSION.feed, size=size, is_echo=verb == "echo")
        session = opened(SESSION.home, SESSION.options, url, None)
        with contextlib.closing(session):
            call = getattr(session, verb)
            args = (count,) if verb in ("receive", "pace") else ("x" * size, count)
            call(*args)
            with watched(clock):
                start = time.process_time()
                call(*args)
                whole = time.process_time() - start
    rows = [(name, spent.calls / count, 1e6 * spent.seconds / count) for name, spent in clock.spent.items()]
    rows = sorted((row for row in rows if row[1]), key=lambda row: -row[2])
    return [*rows, (REST, 1.0, 1e6 * whole / count - sum(row[2] for row in rows))]


def main(arguments: Sequence[str]) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stages", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=VERBS, default="receive", help="what a session does (%(default)s)")
    parser.add_argument("--size", type=int, default=100, help="bytes of a message (%(default)s)")
    parser.add_argument("--count", type=int, default=20_000, help="messages (%(default)s)")
    chosen = parser.parse_args(arguments)
    rows = run(chosen.verb, chosen.size, chosen.count)
    print(f"{chosen.verb}, {chosen.count} messages of {chosen.size} B, CPU time for each message:")
    for name, calls, micros in rows:
        print(f"{name:24}{calls:8.3f} calls{micros:10.3f} us")
    print(f"{'all':24}{'':14}{sum(row[2] for row in rows):10.3f} us")
