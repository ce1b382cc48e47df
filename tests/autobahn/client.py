"""The client that the fuzzing server tests: an echo by ``dial`` and Transport, and nothing of its own."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator
from urllib.parse import quote

from resilient_ws.deflating import Offer
from resilient_ws.exceptions import ConnectionLost
from resilient_ws.transport import DialOptions, Transport, dial

AGENT = "resilient_ws"
PATIENCE = 480.0
"""Seconds for one case, the server's own limit; the slowest take about ten where the machine has nothing else to do."""
PARTING = 5.0
"""Seconds in which a close frame has to go out."""
MAX_MESSAGE = 32 << 20
"""The largest message of any case has 16 MiB."""
COMPRESSED = ("12", "13")
"""Sections in which compression is offered."""


def run_case(url: str, number: int, case: str) -> None:
    """Send back what comes in one case, until its connection is over."""
    offer = Offer() if case.split(".")[0] in COMPRESSED else None
    transport = _dialled(f"{url}/runCase?case={number}&agent={AGENT}", offer)
    try:
        for messages in _received(transport):
            transport.write(messages)
    except ConnectionLost:
        _part(transport)
    finally:
        transport.release()


def ids(url: str) -> list[str]:
    """Ask for the ids of all cases, in the order of their numbers, from 1 on."""
    count = int(_asked(f"{url}/getCaseCount"))
    return [json.loads(_asked(f"{url}/getCaseInfo?case={number}"))["id"] for number in range(1, count + 1)]


def update_reports(url: str) -> None:
    """Have the server write its reports."""
    transport = _dialled(f"{url}/updateReports?agent={quote(AGENT)}", None)
    try:
        for _ in _received(transport):
            pass
    except ConnectionLost:
        pass
    finally:
        transport.release()


def _dialled(url: str, offer: Offer | None) -> Transport:
    return dial(url, DialOptions(max_message=MAX_MESSAGE, compression=offer))


def _asked(url: str) -> str:
    transport = _dialled(url, None)
    try:
        for messages in _received(transport):
            if messages:
                return str(messages[0])
    finally:
        transport.release()
    raise AssertionError("the connection ended otherwise")


def _received(transport: Transport) -> Iterator[list[str | bytes]]:
    deadline = time.monotonic() + PATIENCE
    while True:
        if not transport.has_buffered:
            wants = [transport] if transport.wants_write else []
            readable, writable, _ = select.select([transport], wants, [], max(0.0, deadline - time.monotonic()))
            if not readable and not writable:
                raise ConnectionLost("the case took too long", code=1006, reason="", rcvd=None, sent=None)
            if writable:
                transport.flush()
        yield transport.receive()


def _part(transport: Transport) -> None:
    deadline = time.monotonic() + PARTING
    while transport.wants_write and time.monotonic() < deadline:
        select.select([], [transport], [], deadline - time.monotonic())
        try:
            transport.flush()
        except ConnectionLost:
            return
