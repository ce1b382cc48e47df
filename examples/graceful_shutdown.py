"""
A worker that stops when it is told to, as in a rolling deploy: it finishes what it has in hand.

It takes jobs from one stream and sends a result for each to another one. SIGTERM (what an orchestrator sends first) or
Ctrl-C ends it: no further job is taken, the results of those that were are waited for until the cluster has them, and
the next run goes on with the job after them. Run it with the URLs of your nodes::

    python examples/graceful_shutdown.py --journal worker.journal ws://127.0.0.1:PORT/ [more URLs]

The journal keeps how far the jobs were handled, and results that the cluster does not have yet, over a crash too. After
a crash (not after SIGTERM) the job that was in hand may be done a second time.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

import resilient_ws
from resilient_ws import Failover, Outbox

GLANCE = 0.2
"""Seconds after which the worker looks whether it is to stop, where no job comes."""


def work(ws: resilient_ws.Client, stopping: threading.Event) -> int:
    """Do jobs until somebody says stop; returns how many were done."""
    done = 0
    while not stopping.is_set():
        try:
            jobs = ws.recv_many(10, timeout=GLANCE)
        except TimeoutError:
            continue
        for job in jobs:
            ws.send(f"{job.data} is done")
            job.ack()  # the result is in the journal: this job is not to be done again
            done += 1
    return done


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM, Ctrl-C or the server's goodbye."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="+", metavar="URL", help="nodes that serve the streams")
    parser.add_argument("--jobs", default="jobs", metavar="STREAM")
    parser.add_argument("--results", default="results", metavar="STREAM")
    parser.add_argument("--journal", default="worker.journal", metavar="FILE")
    parser.add_argument("--grace", type=float, default=20.0, metavar="SECONDS", help="for the last results")
    options = parser.parse_args(argv)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        with resilient_ws.connect(
            options.urls,
            subscribe={options.jobs: "earliest"},
            stream=options.results,
            outbox=Outbox(journal=options.journal),
            failover=Failover(standby=True),
            open_timeout=30.0,
        ) as ws:
            print("working", flush=True)
            done = work(ws, stopping)
            ws.drain(options.grace)
    except TimeoutError:
        print("not every result is with the cluster yet: the rest is in the journal, for the next run", file=sys.stderr)
        return 1
    except resilient_ws.ResilientWSError as error:
        print(f"{error} (worth another try: {'yes' if error.retryable else 'no'})", file=sys.stderr)
        return 1
    print(f"{done} jobs done, every result is with the cluster", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
