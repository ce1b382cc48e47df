"""
Publish a sensor's readings over a network that comes and goes, from a device that may lose its power at any moment.

Every reading is on the disk before the program goes on (``--journal``), and is sent until a server has confirmed it:
after a kill, a crash or a power loss the next run sends what the last one left, each reading once and in order. At most
a fixed number of readings wait; when there is no room, the oldest one gives way to the newest and is reported, never
forgotten in silence. One that was written to a connection already may have arrived: it gives way last, and counts as
failed, since nobody knows.

Run it with the URLs of your nodes (``python -m server_fixture up`` prints those of a cluster on this machine)::

    python examples/iot_publisher.py --stream readings ws://127.0.0.1:PORT/ [more URLs]

It starts without a network too. Kill it, unplug it, start it again: ``reading N is safe`` holds. Ctrl-C ends it and
says what became of the readings; a second Ctrl-C does not wait. What is not confirmed by then waits for the next run.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence

import resilient_ws
from resilient_ws import Outbox, events


def say(text: str) -> None:
    """Print a line in one piece: two threads do, and a kill may come at any moment."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Report:
    """What became of the readings; it hears of it in the dispatcher, in order."""

    def __init__(self) -> None:
        self.confirmed = 0
        self.dropped = 0
        self.failed = 0
        self._changed = threading.Condition()

    def resolved(self, receipt: resilient_ws.Receipt) -> None:
        """Count one reading whose fate is known."""
        with self._changed:
            try:
                receipt.result(0)
                self.confirmed += 1
            except resilient_ws.DeliveryError as error:
                if isinstance(error, resilient_ws.Rejected) and error.code == "dropped":
                    self.dropped += 1
                elif not getattr(error, "is_kept", False):  # else the journal has it, for the next run
                    self.failed += 1
                    print(error, file=sys.stderr, flush=True)
            self._changed.notify()

    def refused(self, number: int, full: resilient_ws.JournalFull) -> None:
        """Count a reading that was not accepted, because the disk is full."""
        say(f"reading {number} is dropped: {full}")
        with self._changed:
            self.dropped += 1

    def wait(self, count: int) -> None:
        """Wait until the fate of ``count`` readings was counted."""
        with self._changed:
            self._changed.wait_for(lambda: self.confirmed + self.dropped + self.failed >= count, timeout=5.0)

    def happened(self, event: events.Event) -> None:
        """Say what the operator of the device wants to know."""
        if isinstance(event, events.JournalOpened):
            say(f"{event.messages} readings of earlier runs wait in {event.path}")
            print(event.notes, file=sys.stderr, end="\n" if event.notes else "", flush=True)
        elif isinstance(event, events.MessagesDropped):
            say(f"no room: reading {event.first} of {event.stream} dropped")
        elif isinstance(event, events.Resumed):
            say(f"resumed on {event.node}, {event.resent} sent again")
        elif isinstance(event, events.ConnectionEnded):
            say(f"no connection: {event.error or event.reason} {event.code}")


def publish(ws: resilient_ws.Client, report: Report, interval: float, count: int | None) -> int:
    """Send readings at a steady pace until Ctrl-C or ``count``; returns how many."""
    stop, sent, run = threading.Event(), 0, secrets.token_hex(4)
    # Not KeyboardInterrupt, which could come between a reading that was sent and the note of it.
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        while not stop.is_set() and (count is None or sent < count):
            sent += 1
            reading = {"run": run, "number": sent, "time": time.time(), "celsius": round(random.gauss(21.0, 0.5), 2)}
            try:
                ws.send_json(reading).add_done_callback(report.resolved)
                say(f"reading {sent} of run {run} is safe")
            except resilient_ws.JournalFull as full:
                report.refused(sent, full)
            stop.wait(interval)
    finally:
        signal.signal(signal.SIGINT, before)
    if stop.is_set():
        say("ending")
    return sent


def main(argv: Sequence[str] | None = None) -> int:
    """Run; exit status 0 where every reading is confirmed, kept for the next run, or was reported as dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL", help="nodes to publish to")
    parser.add_argument("--stream", default="readings")
    parser.add_argument("--journal", default="readings.db", metavar="FILE", help="keeps readings (default %(default)s)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two readings")
    parser.add_argument("--room", type=int, default=1000, help="readings that may wait")
    parser.add_argument("--count", type=int, help="end after so many readings")
    parser.add_argument("--flush", type=float, default=10.0, help="seconds to wait for confirmations at the end")
    options = parser.parse_args(argv)
    report = Report()
    try:
        ws = resilient_ws.connect(
            options.urls,
            stream=options.stream,
            wait=False,
            on_event=report.happened,
            outbox=Outbox(journal=options.journal, max_messages=options.room, policy="drop_oldest"),
        )
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    except resilient_ws.JournalError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    try:
        sent = publish(ws, report, options.interval, options.count)
        ws.drain(options.flush)
        report.wait(sent)
    except (TimeoutError, resilient_ws.Undelivered, KeyboardInterrupt):
        waiting = ws.stats()["outbox"][0]
        say(f"{waiting} readings have no confirmation; they wait in {options.journal} for the next run")
        return 0
    except resilient_ws.ResilientWSError as error:
        print(f"{error} (worth another try: {'yes' if error.retryable else 'no'})", file=sys.stderr, flush=True)
        return 1
    finally:
        ws.close()
    say(f"{sent} sent, {report.confirmed} confirmed, {report.dropped} dropped, {report.failed} failed")
    return 0 if report.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
