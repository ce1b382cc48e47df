"""
Publish a sensor's readings over a network that comes and goes.

At most a fixed number of readings wait in memory; when there is no room, the oldest one gives way to the newest and is
reported, never forgotten in silence. One that was written to a connection is not dropped any more, since it may have
arrived: where all are, the new reading is refused and reported. What is in memory goes when the program is killed:
there is no durable outbox yet.

Run it with the URLs of your nodes (``python -m server_fixture up`` prints those of a cluster on this machine)::

    python examples/iot_publisher.py --stream readings ws://127.0.0.1:PORT/ [more URLs]

It starts without a network too. Ctrl-C ends it and says what became of the readings; a second Ctrl-C does not wait.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Sequence

import resilient_ws
from resilient_ws import Outbox, events


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
                else:
                    self.failed += 1
                    print(error, file=sys.stderr, flush=True)
            self._changed.notify()

    def refused(self, number: int) -> None:
        """Count a reading that was not accepted, because all that wait were written and may have arrived."""
        print(f"no room: reading {number} not accepted, those before it wait for confirmation", flush=True)
        with self._changed:
            self.dropped += 1

    def wait(self, count: int) -> None:
        """Wait until the fate of ``count`` readings was counted."""
        with self._changed:
            self._changed.wait_for(lambda: self.confirmed + self.dropped + self.failed >= count, timeout=5.0)

    def happened(self, event: events.Event) -> None:
        """Say what the operator of the device wants to know."""
        if isinstance(event, events.MessagesDropped):
            print(f"no room: reading {event.first} of {event.stream} dropped", flush=True)
        elif isinstance(event, events.Resumed):
            print(f"resumed on {event.node}, {event.resent} sent again", flush=True)
        elif isinstance(event, events.ConnectionEnded):
            print(f"no connection: {event.error or event.reason} {event.code}", flush=True)


def publish(ws: resilient_ws.Client, report: Report, interval: float, count: int | None) -> int:
    """Send readings at a steady pace until Ctrl-C or ``count``; returns how many."""
    pause, sent = threading.Event(), 0
    try:
        while count is None or sent < count:
            sent += 1
            reading = {"number": sent, "time": time.time(), "celsius": round(random.gauss(21.0, 0.5), 2)}
            try:
                ws.send_json(reading).add_done_callback(report.resolved)
            except resilient_ws.OutboxFull:
                report.refused(sent)
            pause.wait(interval)
    except KeyboardInterrupt:
        print("ending", flush=True)
    return sent


def main(argv: Sequence[str] | None = None) -> int:
    """Run; exit status 0 where every reading is confirmed or was reported as dropped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL", help="nodes to publish to")
    parser.add_argument("--stream", default="readings")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two readings")
    parser.add_argument("--room", type=int, default=1000, help="readings that may wait in memory")
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
            outbox=Outbox(max_messages=options.room, max_bytes=1 << 20, policy="drop_oldest"),
        )
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    try:
        sent = publish(ws, report, options.interval, options.count)
        ws.drain(options.flush)
        report.wait(sent)
    except (TimeoutError, resilient_ws.Undelivered, KeyboardInterrupt) as error:
        print(f"not confirmed: {error}", file=sys.stderr, flush=True)
        return 1
    except resilient_ws.ResilientWSError as error:
        print(f"{error} (worth another try: {'yes' if error.retryable else 'no'})", file=sys.stderr, flush=True)
        return 1
    finally:
        ws.close()
    print(f"{sent} sent, {report.confirmed} confirmed, {report.dropped} dropped, {report.failed} failed", flush=True)
    return 0 if report.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
