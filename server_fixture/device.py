"""
``python -m server_fixture.device ORDERS``: one life of a device that publishes and consumes, and is killed meanwhile.

Here lives what the device does, as the program of a user would, and the log of what it knows to have happened. When it
dies, and what its log must show, never lives here (``killing.py``, ``lives.py``).
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import attrs
import tenacity

# With all of a Client, which the package would load at its first use: a life begins when everything is there.
import resilient_ws
import resilient_ws.client
import resilient_ws.journal
import resilient_ws.transport
from resilient_ws import Inbox, Outbox, events
from server_fixture.leash import announce_ready, die_with_parent
from server_fixture.lives import Mode, number_of, payload_of

PATIENCE = 60.0
"""Seconds that the last life waits for acks, and for each message of the feed."""
PAUSE = 0.008
"""Seconds between two messages of a lane at most."""
NO_SERVER = 1.0
"""Seconds after which a device that waits for a server counts as one without."""
Ready = Literal["born", "opened", "heard"]
_SEND_FAILED = 3
# For nodes on the same machine, where a refused dial costs nobody anything.
RETRY = resilient_ws.Retry(wait=tenacity.wait_fixed(0.05), stable_after=1.0, connect_timeout=3.0)
FAILOVER = resilient_ws.Failover(eject_after=2, ejection=0.25, max_ejection=1.0)
_QUIET = (
    events.Connecting,
    events.ConnectionEnded,
    events.RetryScheduled,
    events.DrainNoticed,
    events.EndpointEjected,
    events.EndpointRestored,
    events.Suspended,  # the machine is busy
)


@attrs.frozen(kw_only=True)
class Orders:
    """
    What one life is to do.

    Attributes:
        urls: The nodes.
        journal: The file.
        sync: As ``Outbox.sync``.
        log: Where it writes what happens.
        feed: The stream that it consumes.
        mode: When it acks.
        lanes: The streams that it publishes on, a thread each, with the first number; none in the last life.
        seed: Of its pauses.
        until: The last life's: ends when it has got this message of the feed, and everything is committed.
        ready: When it says that it lives: before it opens its journal (``born``), behind that (``opened``), or when it
            was welcomed by a server (``heard``; after a second at the latest, for there may be none).
        close_after: Seconds after that after which it closes its Client and ends; None: it lives until it is killed.
    """

    urls: list[str]
    journal: str
    sync: Any
    log: str
    feed: str
    mode: Mode
    lanes: dict[str, int]
    seed: str
    ready: Ready = "heard"
    until: int | None = None
    close_after: float | None = None

    @property
    def written(self) -> str:
        """The argument that says this."""
        return json.dumps(attrs.asdict(self))


class Log:
    """Appends lines, each with one call of the system, so that what was written survives the end of the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.is_welcome = threading.Event()

    def note(self, *words: object) -> None:
        """Write a line."""
        os.write(self._file, (" ".join(map(str, words)).replace("\n", " ") + "\n").encode())

    def heard(self, event: events.Event) -> None:
        """Note an event, if a judge wants to know of it."""
        if isinstance(event, events.Connected):
            self.note("welcome")
            self.is_welcome.set()
        elif isinstance(event, events.Resumed):
            self.note("resume")
        elif isinstance(event, events.JournalOpened) and not event.notes:
            self.note("waiting", event.messages)
        elif not isinstance(event, _QUIET) and not (isinstance(event, events.Ended) and not event.error):
            self.note("told", event)


@attrs.define(eq=False)
class Device:
    """The program: a thread for each lane, and the main thread, which consumes."""

    orders: Orders
    log: Log
    stopping: threading.Event = attrs.field(factory=threading.Event)

    def live(self) -> None:
        """Work until the end that is ordered, or the kill."""
        orders = self.orders
        client = resilient_ws.connect(
            orders.urls,
            subscribe={orders.feed: "earliest"},
            wait=False,
            retry=RETRY,
            failover=FAILOVER,
            inbox=Inbox(ack=orders.mode),
            outbox=Outbox(journal=orders.journal, sync=orders.sync),
            on_event=self.log.heard,
        )
        if orders.ready == "opened":
            announce_ready()
        lanes = [self._thread(self._publish, client, lane, first) for lane, first in orders.lanes.items()]
        if orders.ready == "heard":
            self.log.is_welcome.wait(NO_SERVER)
            announce_ready()
        if orders.until is not None:
            client.flush(PATIENCE)
        self._consume(client)
        self.stopping.set()
        for lane in lanes:
            lane.join()
        client.close()

    def _thread(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(work, *arguments), daemon=True)
        thread.start()
        return thread

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.log.note("told", f"{type(error).__name__}: {error}")
            os._exit(_SEND_FAILED)

    def _publish(self, client: resilient_ws.Client, lane: str, number: int) -> None:
        rng = random.Random(f"{self.orders.seed}:{lane}")
        while not self.stopping.wait(rng.choice((0.0, rng.uniform(0.0, PAUSE)))):
            self.log.note("begin", lane, number)
            client.send(payload_of(number), lane)
            self.log.note("sent", lane, number)
            number += 1

    def _consume(self, client: resilient_ws.Client) -> None:
        orders = self.orders
        known = client.position(orders.feed)
        if orders.until is not None and known is not None and known.offset >= orders.until:
            return  # an earlier life had the last message, and was killed when it waited for another one
        end_at = float("inf") if orders.close_after is None else time.monotonic() + orders.close_after
        while time.monotonic() < end_at:
            try:
                message = client.recv(PATIENCE if orders.until is not None else min(60.0, end_at - time.monotonic()))
            except TimeoutError:
                if orders.until is not None:
                    raise
                continue
            number = number_of(message.data)
            if number is None or number != message.offset:
                self.log.note("told", f"an odd message at {message.offset}: {message.data[:60]!r}")
                continue
            self.log.note("got", number)
            if orders.mode == "manual":
                message.ack()
                self.log.note("acked", number)
            if number == orders.until:
                return


def main() -> int:
    """Live; exit status 0 where the life ended as ordered."""
    die_with_parent()
    orders = Orders(**json.loads(sys.argv[1]))
    log = Log(orders.log)
    if orders.ready == "born":
        announce_ready()
    try:
        Device(orders, log).live()
    except Exception as error:
        log.note("told", f"{type(error).__name__}: {error}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
